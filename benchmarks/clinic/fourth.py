"""Networks and data of the trainings that judge the readings of the rate, which no part of the
clinic has."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from clinic.data import Data, parts, standard
from clinic.networks import Body, Kind, MeanOverTime, Recurrent, Residual, dense

# ---- data


def spirals() -> Data:
    """Three spirals in a plane, turned into 6 columns: 3 classes that overlap at the centre."""
    generator = torch.Generator().manual_seed(31)
    count = 14_000
    labels = torch.randint(3, (count,), generator=generator)
    radius = 0.2 + torch.rand(count, generator=generator)
    angle = 5 * radius + 2 * math.pi * labels / 3
    plane = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    plane = plane + 0.05 * torch.randn(count, 2, generator=generator)
    x = plane @ torch.randn(2, 6, generator=generator)
    x = x + 0.1 * torch.randn(x.shape, generator=generator)
    return Data(*parts(standard(x), labels, held_out=2_000), 3, "classes")


def dice() -> Data:
    """Five dice as 30 zeros and ones: 5 classes by the largest number of equal ones, the pairs
    apart."""
    generator = torch.Generator().manual_seed(32)
    count = 16_000
    weights = torch.rand(count, 6, generator=generator) ** 2 + 0.05
    rolls = torch.multinomial(weights, 5, replacement=True, generator=generator)
    shown = functional.one_hot(rolls, 6)
    times = shown.sum(dim=1)
    most = times.max(dim=1).values
    pairs = (times == 2).sum(dim=1)
    labels = torch.where(most == 2, pairs, most)
    labels = torch.where(most == 1, 0, labels).clamp(max=4)
    x = shown.flatten(1).float()
    return Data(*parts(standard(x), labels, held_out=2_000), 5, "classes")


def reactor() -> Data:
    """Two concentrations after a reaction in two steps, by five settings, with 2 % of noise in the
    variance."""
    generator = torch.Generator().manual_seed(33)
    count = 16_000
    x = torch.rand(count, 5, generator=generator)
    first = torch.exp(2 * x[:, 0] - 1.5 * x[:, 1])
    second = torch.exp(1.5 * x[:, 2] - 1)
    time = 0.2 + 2 * x[:, 3]
    begun = 0.5 + x[:, 4]
    apart = second - first
    apart = torch.where(apart.abs() < 0.05, 0.05, apart)
    middle = first / apart * ((-first * time).exp() - (-second * time).exp())
    y = standard(torch.stack([begun * middle, begun * (1 - (-first * time).exp() - middle)], dim=1))
    y = y + 0.14 * torch.randn(y.shape, generator=generator)
    return Data(*parts(standard(x), y, held_out=2_000), 2, "values")


def demand() -> Data:
    """A value of 14 columns, of which most say nothing, with noise as large as the signal and heavy
    tails."""
    generator = torch.Generator().manual_seed(34)
    x = torch.randn(16_000, 14, generator=generator)
    signal = x[:, 0] + torch.relu(x[:, 1]) * x[:, 2] + (2 * x[:, 3]).tanh()
    noise = torch.randn(16_000, generator=generator)
    noise = noise * (0.6 * torch.randn(16_000, generator=generator)).exp()
    y = standard((signal + 1.2 * noise).unsqueeze(1))
    return Data(*parts(x, y, held_out=2_000), 1, "values")


def fabrics() -> Data:
    """Noisy images of 10 × 10 pixels: 5 classes by how smooth they are along each axis."""
    generator = torch.Generator().manual_seed(35)
    count = 13_000
    labels = torch.randint(5, (count,), generator=generator)
    images = torch.randn(count, 1, 16, 16, generator=generator)
    down = torch.tensor([1, 4, 1, 3, 2])
    right = torch.tensor([1, 1, 4, 2, 3])
    woven = torch.stack(
        [
            functional.avg_pool2d(images, (int(down[kind]), int(right[kind])), stride=1)[
                :, 0, :10, :10
            ]
            for kind in range(5)
        ]
    )
    chosen = woven[labels, torch.arange(count)]
    chosen = chosen / chosen.std(dim=(1, 2), keepdim=True)
    chosen = chosen + 0.7 * torch.randn(chosen.shape, generator=generator)
    return Data(*parts(chosen.unsqueeze(1), labels, held_out=2_000), 5, "classes")


def arrows() -> Data:
    """Noisy images of 10 × 10 pixels of an arrow: 4 classes by where it points."""
    generator = torch.Generator().manual_seed(36)
    count = 13_000
    labels = torch.randint(4, (count,), generator=generator)
    place = torch.arange(10.0)
    middle = 3 + 3 * torch.rand(count, 2, generator=generator)
    down = place.view(1, 10, 1) - middle[:, :1].unsqueeze(2)
    right = place.view(1, 1, 10) - middle[:, 1:].unsqueeze(1)
    turn = (labels % 2 == 0).view(-1, 1, 1)
    along = torch.where(turn, down.expand(-1, 10, 10), right.expand(-1, 10, 10))
    across = torch.where(turn, right.expand(-1, 10, 10), down.expand(-1, 10, 10))
    along = along * (1 - 2 * (labels // 2)).view(-1, 1, 1)
    shaft = (along.abs() <= 2.5) & (across.abs() <= 0.6)
    head = (along >= 0) & (along + across.abs() <= 2.6) & (along + across.abs() >= 1.4)
    images = (shaft | head).float() + 0.5 * torch.randn(count, 10, 10, generator=generator)
    images = (images - images.mean()) / images.std()
    return Data(*parts(images.unsqueeze(1), labels, held_out=2_000), 4, "classes")


def canons() -> Data:
    """The next of 16 notes in sequences of 20: a tune of 3 to 6 notes again and again, with 10 % of
    wrong notes."""
    generator = torch.Generator().manual_seed(37)
    count = 7_000
    tune = torch.randint(16, (count, 6), generator=generator)
    length = torch.randint(3, 7, (count, 1), generator=generator)
    notes = tune.gather(1, torch.arange(21).expand(count, 21) % length)
    wrong = torch.rand(count, 21, generator=generator) < 0.1
    notes = torch.where(wrong, torch.randint(16, (count, 21), generator=generator), notes)
    return Data(*parts(notes[:, :-1], notes[:, 1:], held_out=900), 16, "tokens")


def sums() -> Data:
    """The next of 13 digits: the sum of the last two, or of the last and the third last, modulo
    13, by the kind of the sequence."""
    generator = torch.Generator().manual_seed(38)
    count = 7_000
    kind = torch.rand(count, generator=generator) < 0.5
    digits = [torch.randint(13, (count,), generator=generator) for _ in range(3)]
    for _ in range(12):
        other = torch.where(kind, digits[-2], digits[-3])
        following = (digits[-1] + other) % 13
        noise = torch.rand(count, generator=generator) < 0.1
        following = torch.where(noise, digits[-1], following)
        digits.append(following)
    rows = torch.stack(digits, dim=1)
    return Data(*parts(rows[:, :-1], rows[:, 1:], held_out=900), 13, "tokens")


def hearts() -> Data:
    """A noisy signal of 32 points with beats: 4 classes by their rhythm."""
    generator = torch.Generator().manual_seed(39)
    count = 13_000
    labels = torch.randint(4, (count,), generator=generator)
    place = torch.arange(32.0)
    period = 5 + 4 * torch.rand(count, 1, generator=generator)
    beats = period * torch.arange(8.0) + 4 * torch.rand(count, 1, generator=generator)
    odd = torch.arange(8) % 2 == 1
    kind = labels.unsqueeze(1)
    beats = torch.where((kind == 1) & odd, beats - 0.35 * period, beats)
    beats = torch.where(kind == 2, beats + 1.5 * torch.randn(count, 8, generator=generator), beats)
    strong = torch.where((kind == 3) & odd, 0.4, 1.0)
    away = place.view(1, 1, 32) - beats.unsqueeze(2)
    signal = (strong.unsqueeze(2) * torch.exp(-(away**2))).sum(dim=1)
    signal = signal + 0.2 * torch.randn(signal.shape, generator=generator)
    return Data(*parts(standard(signal).unsqueeze(2), labels, held_out=2_000), 4, "classes")


# ---- networks


class Maxout(nn.Module):
    """The largest of three linear layers, entry by entry."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs] to [examples, width]."""
        return self.layer(x).unflatten(-1, (3, -1)).amax(dim=-2)


class Highway(nn.Module):
    """A layer that a learned gate mixes with its input."""

    def __init__(self, width: int, activation: Kind) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(width, width), activation())
        self.gate = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x."""
        gate = torch.sigmoid(self.gate(x) - 1)
        return gate * self.layer(x) + (1 - gate) * x


class Beside(nn.Module):
    """The outputs of several layers, one behind the other along the second axis."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, channels, ...] to [examples, sum of channels, ...]."""
        return torch.cat([layer(x) for layer in self.layers], dim=1)


def softplus(data: Data, activation: Kind) -> Body:
    """Three layers of 60, with Softplus in place of ReLU."""
    kind = nn.Softplus if activation is nn.ReLU else activation
    return dense(data.shape.numel(), (60,) * 3, kind)


def maxout(data: Data, activation: Kind) -> Body:
    """Two layers of 40 maxima."""
    return [nn.Flatten(), Maxout(data.shape.numel(), 40), Maxout(40, 40)], 40


def highway(data: Data, activation: Kind) -> Body:
    """A layer and four highway layers of 44."""
    layers = [Highway(44, activation) for _ in range(4)]
    return [nn.Flatten(), nn.Linear(data.shape.numel(), 44), *layers], 44


def flat(data: Data, activation: Kind) -> Body:
    """A layer of 300."""
    return dense(data.shape.numel(), (300,), activation)


def pyramid(data: Data, activation: Kind) -> Body:
    """Residual layers of 72 with RMSNorm before each."""
    blocks = [
        Residual(nn.RMSNorm(72), nn.Linear(72, 36), activation(), nn.Linear(36, 72))
        for _ in range(2)
    ]
    return [nn.Flatten(), nn.Linear(data.shape.numel(), 72), *blocks, nn.RMSNorm(72)], 72


def inception(data: Data, activation: Kind) -> Body:
    """Convolutions of three sizes beside each other, twice, with pooling."""

    def beside(channels: int) -> nn.Module:
        return Beside(
            nn.Conv2d(channels, 6, 1),
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.Conv2d(channels, 4, 5, padding=2),
        )

    layers = [beside(1), activation(), nn.MaxPool2d(2), beside(18), activation(), nn.MaxPool2d(2)]
    return [*layers, nn.Flatten(), nn.Linear(72, 40), activation()], 40


def plain_norm(data: Data, activation: Kind) -> Body:
    """Two strided convolutions with BatchNorm and a layer of 48."""
    layers = [
        nn.Conv2d(1, 12, 3, stride=2, padding=1),
        nn.BatchNorm2d(12),
        activation(),
        nn.Conv2d(12, 20, 3, stride=2, padding=1),
        nn.BatchNorm2d(20),
        activation(),
        nn.Flatten(),
        nn.Linear(180, 48),
        activation(),
    ]
    return layers, 48


def two_gru(data: Data, activation: Kind) -> Body:
    """Two layers of a GRU of 32, of symbols or of a signal."""
    if data.kind == "tokens":
        layer = nn.GRU(24, 32, num_layers=2, batch_first=True)
        return [nn.Embedding(data.outputs, 24), Recurrent(layer)], 32
    return [Recurrent(nn.GRU(data.shape[1], 32, num_layers=2, batch_first=True), last=True)], 32


class Shifted(nn.Module):
    """A convolution over this position and those before it."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.layer = nn.Conv1d(width, width, size)

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, time, width]."""
        padded = functional.pad(x.transpose(1, 2), (self.size - 1, 0))
        return self.layer(padded).transpose(1, 2)


def causal(data: Data, activation: Kind) -> Body:
    """Three residual causal convolutions of width 40 with LayerNorm."""
    first = (
        nn.Embedding(data.outputs, 40) if data.kind == "tokens" else nn.Linear(data.shape[1], 40)
    )
    blocks = [Residual(nn.LayerNorm(40), Shifted(40, 5), activation()) for _ in range(3)]
    end = [] if data.kind == "tokens" else [MeanOverTime()]
    return [first, *blocks, nn.LayerNorm(40), *end], 40


DATA: dict[str, Callable[[], Data]] = {
    "spirals": spirals,
    "dice": dice,
    "reactor": reactor,
    "demand": demand,
    "fabrics": fabrics,
    "arrows": arrows,
    "canons": canons,
    "sums": sums,
    "hearts": hearts,
}
NETWORKS: dict[str, Callable[[Data, Kind], Body]] = {
    "softplus": softplus,
    "maxout": maxout,
    "highway": highway,
    "flat": flat,
    "pyramid": pyramid,
    "inception": inception,
    "plain_norm": plain_norm,
    "two_gru": two_gru,
    "causal": causal,
}
