"""Networks and data of the sixth fresh part, which no other part has."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from clinic.data import Data, parts, standard
from clinic.networks import Body, Kind, Recurrent, Transposed, dense

# ---- data

LEVELS = 8
"""Categories of each column of the menus."""


def menus() -> Data:
    """A table of 12 columns of 8 categories each: 4 classes, by scores of single categories and of
    pairs."""
    generator = torch.Generator().manual_seed(61)
    count = 16_000
    x = torch.randint(LEVELS, (count, 12), generator=generator)
    single = torch.randn(12, LEVELS, 4, generator=generator)
    pairs = 1.5 * torch.randn(3, LEVELS, LEVELS, 4, generator=generator)
    scores = sum(single[column, x[:, column]] for column in range(6))
    scores = scores + sum(pairs[place, x[:, place], x[:, 6 + place]] for place in range(3))
    scores = scores + 0.6 * torch.randn(count, 4, generator=generator)
    return Data(*parts(x, scores.argmax(dim=1), held_out=2_000), 4, "classes")


def engines() -> Data:
    """The power and the heat of an engine by 10 settings, 3 of which say nothing, with 5 % of noise
    in the variance."""
    generator = torch.Generator().manual_seed(62)
    count = 16_000
    x = torch.randn(count, 10, generator=generator)
    speed, load = torch.sigmoid(x[:, 0]), torch.sigmoid(x[:, 1])
    mixture = (0.5 * x[:, 2] - 0.3 * x[:, 3]).tanh()
    best = 1 - (mixture - 0.3 * speed) ** 2
    power = speed * load * best - 0.4 * speed**3 * (1 + 0.5 * x[:, 4].abs())
    heat = speed * load * (1 - 0.5 * best) + 0.2 * torch.relu(x[:, 5] + x[:, 6])
    y = standard(torch.stack([power, heat], dim=1))
    y = y + 0.22 * torch.randn(y.shape, generator=generator)
    return Data(*parts(x, y, held_out=2_000), 2, "values")


def faces() -> Data:
    """Noisy images of 16 × 16 pixels of a face anywhere: 6 classes by its mouth and its eyes."""
    generator = torch.Generator().manual_seed(63)
    count = 13_000
    mouth = torch.randint(3, (count,), generator=generator)
    eyes = torch.randint(2, (count,), generator=generator)
    place = torch.arange(16.0)
    middle = 6.5 + 3 * torch.rand(count, 2, generator=generator)
    down = place.view(1, 16, 1) - middle[:, :1].unsqueeze(2)
    right = place.view(1, 1, 16) - middle[:, 1:].unsqueeze(1)
    bend = 0.18 * (mouth.float() - 1).view(-1, 1, 1)
    lips = ((down - 2.5 + bend * (right**2 - 4)).abs() < 0.8) & (right.abs() < 3.6)
    wide = torch.where(eyes == 0, 1.6, 0.7).view(-1, 1, 1)
    seen = ((down + 2).abs() < 1.1) & ((right.abs() - 2.6).abs() < wide)
    around = ((down**2 + right**2).sqrt() - 6.2).abs() < 0.6
    images = (lips | seen | around).float()
    images = images + 0.45 * torch.randn(images.shape, generator=generator)
    images = (images - images.mean()) / images.std()
    return Data(*parts(images.unsqueeze(1), 2 * mouth + eyes, held_out=2_000), 6, "classes")


def surfaces() -> Data:
    """Noisy images of 16 × 16 pixels of a few random waves: 5 classes by how fast the strength of a
    wave falls with its frequency."""
    generator = torch.Generator().manual_seed(64)
    count = 13_000
    labels = torch.randint(5, (count,), generator=generator)
    noise = torch.fft.rfft2(torch.randn(count, 16, 16, generator=generator))
    frequency = torch.fft.fftfreq(16).view(16, 1) ** 2 + torch.fft.rfftfreq(16).view(1, 9) ** 2
    slope = 0.25 * labels.float() + 0.25 * torch.rand(count, generator=generator)
    strength = (frequency + 0.01) ** (-slope.view(-1, 1, 1))
    images = torch.fft.irfft2(noise * strength, s=(16, 16))
    images = (images - images.mean(dim=(1, 2), keepdim=True)) / images.std(dim=(1, 2), keepdim=True)
    images = images + 0.3 * torch.randn(images.shape, generator=generator)
    return Data(*parts(images.unsqueeze(1), labels, held_out=2_000), 5, "classes")


def dates() -> Data:
    """The next of 40 characters in windows of 24 of dates and times in three notations."""
    generator = torch.Generator().manual_seed(66)
    months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]

    def number(end: int) -> int:
        return int(torch.randint(end, (), generator=generator))

    written = []
    for _ in range(9_500):
        year, month, day = 1970 + number(60), number(12), 1 + number(28)
        hour, minute = number(24), 5 * number(12)
        written.append(
            (
                f"{year}-{month + 1:02d}-{day:02d}t{hour:02d}:{minute:02d}z ",
                f"{day} {months[month]} {year}, {hour % 12 or 12}:{minute:02d} {'ap'[hour // 12]}m; ",
                f"{month + 1}/{day}/{year % 100:02d} {hour:02d}h{minute:02d} ",
            )[number(3)]
        )
    text = "".join(written)
    known = {letter: index for index, letter in enumerate(sorted(set(text)))}
    codes = torch.tensor([known[letter] for letter in text])
    windows = codes.unfold(0, 25, 25)
    windows = windows[torch.randperm(len(windows), generator=generator)]
    return Data(*parts(windows[:, :-1], windows[:, 1:], held_out=900), 40, "tokens")


def quakes() -> Data:
    """A noisy signal of 40 points in which a wave of rising, falling or equal frequency begins
    suddenly or slowly: 6 classes."""
    generator = torch.Generator().manual_seed(67)
    count = 13_000
    kind = torch.randint(3, (count,), generator=generator)
    sudden = torch.randint(2, (count,), generator=generator)
    time = torch.arange(40.0) - 6 - 8 * torch.rand(count, 1, generator=generator)
    after = torch.relu(time)
    frequency = 0.7 + 0.025 * (kind.float() - 1).unsqueeze(1) * after
    shape = torch.where(
        sudden.unsqueeze(1) == 1, (-after / 9).exp(), after / 8 * (1 - after / 8).exp()
    )
    signal = 1.6 * shape * (time > 0) * torch.sin(frequency * after)
    signal = signal + 0.25 * torch.randn(signal.shape, generator=generator)
    return Data(
        *parts(standard(signal).unsqueeze(2), 2 * kind + sudden, held_out=2_000), 6, "classes"
    )


def springs() -> Data:
    """Where two coupled springs are after some time, from 20 noisy looks at both."""
    generator = torch.Generator().manual_seed(68)
    count = 13_000
    strength = 0.6 + torch.rand(count, 2, generator=generator)
    place, speed = (
        torch.randn(count, 2, generator=generator),
        torch.randn(count, 2, generator=generator),
    )
    seen = []
    for _ in range(24):
        for _ in range(3):
            pull = -strength * place - 0.4 * (place - place.flip(1)) - 0.3 * place**3
            speed = 0.99 * (speed + 0.15 * pull)
            place = place + 0.15 * speed
        seen.append(place)
    path = torch.stack(seen, dim=1)
    shown = path[:, :20] + 0.1 * torch.randn(count, 20, 2, generator=generator)
    return Data(*parts(standard(shown), standard(path[:, 23]), held_out=2_000), 2, "values")


def rings_of_atoms() -> Data:
    """The energy of a ring of 12 atoms with 4 properties each: products of neighbours and of
    atoms across, with 4 % of noise in the variance."""
    generator = torch.Generator().manual_seed(69)
    x = torch.randn(14_000, 12, 4, generator=generator)
    beside, across = x.roll(1, 1), x.roll(2, 1)
    energy = (x[..., 0] * beside[..., 0]).tanh() + torch.relu(x[..., 1] + beside[..., 2])
    energy = energy.sum(dim=1) + 0.5 * (x[..., 3] * across[..., 3]).cos().sum(dim=1)
    y = standard(energy) + 0.2 * torch.randn(len(x), generator=generator)
    return Data(*parts(x, standard(y).unsqueeze(1), held_out=2_000), 1, "values")


# ---- networks


class Sine(nn.Module):
    """The sine, entry by entry."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x."""
        return torch.sin(x)


class Product(nn.Module):
    """The product of two linear layers, beside a third."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.second = nn.Linear(inputs, width)
        self.beside = nn.Linear(inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs] to [examples, 2 × width]."""
        return torch.cat([self.first(x) * self.second(x), self.beside(x)], dim=-1)


class Columns(nn.Module):
    """A vector of each category of each column, side by side."""

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(columns * LEVELS, width)
        self.register_buffer("first", LEVELS * torch.arange(columns))

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, columns] to [examples, columns, width]."""
        return self.table(x + self.first)


class OnARing(nn.Module):
    """Each node's own layer plus one of its two neighbours, of nodes on a ring."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.own = nn.Linear(inputs, width)
        self.others = nn.Linear(inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, nodes, inputs] to [examples, nodes, width]."""
        return self.own(x) + self.others(x.roll(1, 1) + x.roll(-1, 1)) / 2


class Asked(nn.Module):
    """What a learned question finds among the positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.question = nn.Parameter(torch.randn(1, 1, width) / width**0.5)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, positions, width] to [examples, width]."""
        return self.attention(self.question.expand(len(x), 1, -1), x, x)[0][:, 0]


def sines(data: Data, activation: Kind) -> Body:
    """Three layers of 72, with sines in place of ReLU."""
    return dense(data.shape.numel(), (72,) * 3, Sine if activation is nn.ReLU else activation)


def selu(data: Data, activation: Kind) -> Body:
    """Six layers of 56, with SELU in place of ReLU."""
    return dense(data.shape.numel(), (56,) * 6, nn.SELU if activation is nn.ReLU else activation)


def weight_normed(data: Data, activation: Kind) -> Body:
    """Three layers of 80 whose weights are a size and a direction."""
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = data.shape.numel()
    for _ in range(3):
        layers += [weight_norm(nn.Linear(inputs, 80)), activation()]
        inputs = 80
    return layers, 80


def products(data: Data, activation: Kind) -> Body:
    """Products of linear layers, and a layer of 64."""
    inputs = data.shape.numel()
    return [nn.Flatten(), Product(inputs, 48), nn.Linear(96, 64), activation()], 64


def categories(data: Data, activation: Kind) -> Body:
    """A vector of 10 for each category, and layers of 96 and 48."""
    layers, width = dense(10 * data.shape[0], (96, 48), activation)
    return [Columns(data.shape[0], 10), *layers], width


def instance_normed(data: Data, activation: Kind) -> Body:
    """Three convolutions with InstanceNorm, and a layer of 64."""
    layers: list[nn.Module] = []
    channels = 1
    for width in (12, 20, 20):
        layers += [
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            nn.InstanceNorm2d(width, affine=True),
            activation(),
        ]
        channels = width
    return [*layers, nn.Flatten(), nn.Linear(80, 64), activation()], 64


def message(data: Data, activation: Kind) -> Body:
    """Three layers of messages between the nodes of a ring, and their mean."""
    layers = [OnARing(data.shape[1], 40), activation(), OnARing(40, 40), activation()]
    return [
        *layers,
        OnARing(40, 40),
        activation(),
        nn.Flatten(),
        nn.Linear(480, 40),
        activation(),
    ], 40


def asked(data: Data, activation: Kind) -> Body:
    """Convolutions along the time, and what a learned question finds."""
    first = Transposed(
        nn.Conv1d(data.shape[1], 24, 5, padding=2),
        activation(),
        nn.Conv1d(24, 32, 5, padding=2),
        activation(),
    )
    return [first, Asked(32)], 32


def mixed(data: Data, activation: Kind) -> Body:
    """A strided convolution along the time and a GRU of 40 on it."""
    first = Transposed(nn.Conv1d(data.shape[1], 20, 4, stride=2), activation())
    return [first, Recurrent(nn.GRU(20, 40, batch_first=True), last=True)], 40


def small_gru(data: Data, activation: Kind) -> Body:
    """An embedding, a GRU of 64 and a layer of 48."""
    layer = nn.GRU(32, 64, batch_first=True)
    return [
        nn.Embedding(data.outputs, 32),
        Recurrent(layer),
        nn.Linear(64, 48),
        activation(),
    ], 48


def hall(data: Data, activation: Kind) -> Body:
    """Three layers of 1,000: 2 million parameters."""
    return dense(data.shape.numel(), (1_000,) * 3, activation)


def filters(data: Data, activation: Kind) -> Body:
    """Three strided convolutions with BatchNorm, and a layer of 1,280: 1.2 million parameters."""
    layers: list[nn.Module] = []
    channels = 1
    for width in (48, 96, 192):
        layers += [
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            nn.BatchNorm2d(width),
            activation(),
        ]
        channels = width
    return [*layers, nn.Flatten(), nn.Linear(4 * 192, 1_280), activation()], 1_280


DATA: dict[str, Callable[[], Data]] = {
    "menus": menus,
    "engines": engines,
    "faces": faces,
    "surfaces": surfaces,
    "dates": dates,
    "quakes": quakes,
    "springs": springs,
    "rings_of_atoms": rings_of_atoms,
}
NETWORKS: dict[str, Callable[[Data, Kind], Body]] = {
    "sines": sines,
    "selu": selu,
    "weight_normed": weight_normed,
    "products": products,
    "categories": categories,
    "instance_normed": instance_normed,
    "message": message,
    "asked": asked,
    "mixed": mixed,
    "small_gru": small_gru,
    "hall": hall,
    "filters": filters,
}
