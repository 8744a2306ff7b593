"""Networks and data of the eighth fresh part, which no other part has. Three of its losses are not
those of the other parts."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from clinic.data import Data, parts, standard
from clinic.networks import (
    Body,
    Kind,
    Mean,
    Positions,
    Recurrent,
    Transposed,
    dense,
)
from gradiometer.problems.images import fashion_mnist

# ---- losses


class OwnLoss(Data, ABC):
    """Data with a loss of their own, and the constant answer that is best under it."""

    @abstractmethod
    def constant(self) -> Tensor:
        """The best constant answer on the rows to train on, [outputs]."""

    def guess(self) -> float:
        """The loss of the best constant answer on the rows to train on."""
        targets = self.train[1]
        return float(self.loss(self.constant().expand(len(targets), -1), targets))


class Marks(OwnLoss):
    """Several yes-or-no marks a row, with the cross-entropy of each."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        return functional.binary_cross_entropy_with_logits(outputs, targets)

    def constant(self) -> Tensor:
        """The logarithms of the odds."""
        return self.train[1].mean(dim=0).logit()


class Counts(OwnLoss):
    """Counts, with the deviance of Poisson's distribution. An output is the logarithm of the mean."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        surprise = targets.xlogy(targets) - targets * outputs
        return 2 * (surprise - targets + outputs.exp()).mean()

    def constant(self) -> Tensor:
        """The logarithms of the means."""
        return self.train[1].mean(dim=0).log()


class Tails(OwnLoss):
    """Values with outliers, with Huber's loss."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        return functional.smooth_l1_loss(outputs, targets)

    def constant(self) -> Tensor:
        """Where the gradient is zero: an error above 1 counts as 1."""
        targets = self.train[1]
        centre = targets.median(dim=0).values
        for _ in range(30):
            centre = centre + (targets - centre).clamp(-1, 1).mean(dim=0)
        return centre


# ---- data


def symptoms() -> Data:
    """24 readings of a patient with 6 hidden properties: 8 findings, each present or not."""
    generator = torch.Generator().manual_seed(81)
    count = 15_000
    hidden = torch.randn(count, 6, generator=generator)
    beside = hidden.roll(1, dims=1)
    terms = torch.cat([hidden * beside, torch.sin(2 * hidden), hidden.abs() - 0.8], dim=1)
    odds = 1.4 * terms @ torch.randn(18, 8, generator=generator)
    marks = (torch.sigmoid(odds) > torch.rand(count, 8, generator=generator)).float()
    seen = hidden @ torch.randn(6, 24, generator=generator)
    seen = seen + 0.4 * torch.randn(count, 24, generator=generator)
    return Marks(*parts(standard(seen), marks, held_out=2_000), 8, "values")


def visits() -> Data:
    """How often people come, by 9 columns, 2 of which say nothing."""
    generator = torch.Generator().manual_seed(82)
    x = torch.randn(15_000, 9, generator=generator)
    mean = 0.3 + 0.9 * torch.sin(1.5 * x[:, 0]) + 0.7 * (x[:, 1] * x[:, 2]).tanh()
    mean = mean + 0.6 * torch.relu(x[:, 3]) - 0.5 * (x[:, 4] > 0.5).float() * x[:, 5].abs()
    counts = torch.poisson((mean + 0.3 * x[:, 6]).clamp(-3, 2.2).exp(), generator=generator)
    return Counts(*parts(x, counts.unsqueeze(1), held_out=2_000), 1, "values")


def fares() -> Data:
    """The time and the price of a ride by 12 columns, 5 of which say nothing, with outliers."""
    generator = torch.Generator().manual_seed(83)
    x = torch.randn(15_000, 12, generator=generator)
    distance = (x[:, :2] - x[:, 2:4]).norm(dim=1)
    rush = torch.sigmoid(3 * torch.sin(2 * x[:, 4]))
    time = distance * (1 + rush) + 0.5 * torch.relu(x[:, 5])
    price = 1.2 * distance + 0.4 * time * (x[:, 6] > 0)
    noise = torch.randn(15_000, 2, generator=generator)
    outliers = 12 * (torch.rand(15_000, 2, generator=generator) < 0.03).float() + 1
    y = standard(torch.stack([time, price], dim=1)) + 0.15 * noise * outliers
    return Tails(*parts(x, y, held_out=2_000), 2, "values")


def terrain() -> Data:
    """Height and moisture at a place in a plane, with 4 % of noise in the variance."""
    generator = torch.Generator().manual_seed(84)
    x = 2 * torch.rand(15_000, 2, generator=generator) - 1
    directions = 3.5 * torch.randn(2, 12, generator=generator)
    waves = torch.sin(x @ directions + 6.3 * torch.rand(12, generator=generator))
    y = waves @ torch.randn(12, 2, generator=generator)
    y = y + 1.5 * (y[:, :1] > 1.5).float() * x[:, :1]
    y = standard(y) + 0.2 * torch.randn(y.shape, generator=generator)
    return Data(*parts(standard(x), y, held_out=2_000), 2, "values")


def small_clothes(seed: int, count: int) -> tuple[Tensor, torch.Generator]:
    """Images of Fashion-MNIST at 14 × 14 pixels, [count, 1, 14, 14]."""
    generator = torch.Generator().manual_seed(seed)
    problem = fashion_mnist.load("mlp")
    rows = torch.randperm(60_000, generator=generator)[:count]
    images, _ = problem.train.batch(rows)
    return (functional.avg_pool2d(images, 2) - 0.29) / 0.33, generator


def turned() -> Data:
    """Fashion-MNIST, each image turned: 4 classes by how far."""
    images, generator = small_clothes(85, 14_000)
    labels = torch.randint(4, (len(images),), generator=generator)
    for quarter in range(1, 4):
        chosen = labels == quarter
        images[chosen] = images[chosen].rot90(quarter, dims=(2, 3))
    return Data(*parts(images, labels, held_out=2_000), 4, "classes")


def completed() -> Data:
    """The lower half of an image of Fashion-MNIST, at 7 × 7 pixels, from its upper half."""
    images, _ = small_clothes(86, 14_000)
    lower = functional.avg_pool2d(images[:, :, 7:], (1, 2))
    return Data(*parts(images[:, 0, :7].flatten(1), lower.flatten(1), held_out=2_000), 49, "values")


WORDS = 120
"""Words of the reviews. The first five turn the next word round, five more make it stronger."""


def reviews() -> Data:
    """12 words of a review: 3 classes, bad, neither, good."""
    generator = torch.Generator().manual_seed(87)
    count = 14_000
    often = torch.arange(1, WORDS + 1) ** -0.5
    words = often.expand(count, WORDS).multinomial(12, replacement=True, generator=generator)
    worth = torch.randn(WORDS, generator=generator) * (torch.rand(WORDS, generator=generator) > 0.4)
    worth[:10] = 0
    before = functional.pad(words, (1, 0), value=WORDS)[:, :-1]
    factor = torch.where(before < 5, -1.5, torch.where(before < 10, 2.5, 1.0))
    score = (factor * worth[words]).sum(dim=1) + 0.4 * torch.randn(count, generator=generator)
    labels = torch.bucketize(score, score.quantile(torch.tensor([1 / 3, 2 / 3])))
    return Data(*parts(words, labels, held_out=2_000), 3, "classes")


def roles() -> Data:
    """The role of each of 18 words, by itself, its neighbours, and the last of some special words:
    5 tags."""
    generator = torch.Generator().manual_seed(88)
    count = 10_000
    words = torch.randint(24, (count, 18), generator=generator)
    special = torch.full((count, 18), 4)
    for place in range(1, 18):
        last = words[:, place - 1]
        special[:, place] = torch.where(last < 4, last, special[:, place - 1])
    tables = 1.2 * torch.randn(4, 24, 5, generator=generator)
    scores = 1.5 * tables[0][words] + tables[1][functional.pad(words, (1, 0))[:, :-1]]
    scores = scores + tables[2][functional.pad(words, (0, 1))[:, 1:]] + 1.5 * tables[3][special]
    scores = scores + 0.4 * torch.randn(scores.shape, generator=generator)
    return Data(*parts(words, scores.argmax(dim=2), held_out=1_500), 5, "tokens")


def lakes() -> Data:
    """Noisy images of 12 × 12 pixels of a lake and a river: what each pixel is, of 3 classes."""
    generator = torch.Generator().manual_seed(89)
    count = 9_000
    place = torch.arange(12.0)
    down, right = place.view(1, 12, 1), place.view(1, 1, 12)

    def drawn(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=generator)

    lake = (down - drawn(2, 9)) ** 2 + (right - drawn(2, 9)) ** 2 < drawn(1.8, 3.2) ** 2
    angle = drawn(0, 3.14)
    across = (down - drawn(2, 9)) * angle.cos() + (right - drawn(2, 9)) * angle.sin()
    river = (across + 0.8 * torch.sin(0.7 * right)).abs() < 1
    kinds = torch.where(lake, 2, river.long())
    images = (kinds > 0).float() + 0.45 * torch.randn(count, 12, 12, generator=generator)
    images = (images - images.mean()) / images.std()
    return Data(*parts(images.unsqueeze(1), kinds.flatten(1), held_out=1_500), 3, "tokens")


def signatures() -> Data:
    """Two noisy lines of 32 points: are they of the same hand?"""
    generator = torch.Generator().manual_seed(90)
    count = 13_000
    same = torch.randint(2, (count,), generator=generator)
    hands = torch.randn(count, 2, 3, generator=generator)
    hands[:, 1] = torch.where(same.unsqueeze(1) == 1, hands[:, 0], hands[:, 1])
    speed, bend, size = hands.unsqueeze(3).unbind(dim=2)
    time = torch.arange(32.0) / 5 + 2 * torch.rand(count, 2, 1, generator=generator)
    lines = torch.sin((1.5 + 0.4 * speed.tanh()) * time) + bend * torch.sin(2.7 * time) / 2
    lines = (1 + 0.4 * size.tanh()) * lines + 0.2 * torch.randn(lines.shape, generator=generator)
    return Data(*parts(standard(lines), same, held_out=2_000), 2, "classes")


def molecules() -> Data:
    """The energy of 10 atoms with 3 properties each and bonds between some of them, with 4 % of
    noise in the variance. A row of an atom is its bonds and its properties."""
    generator = torch.Generator().manual_seed(91)
    count = 12_000
    bonds = torch.triu((torch.rand(count, 10, 10, generator=generator) < 0.25).float(), diagonal=1)
    bonds = bonds + bonds.transpose(1, 2)
    x = torch.randn(count, 10, 3, generator=generator)
    charge = x[..., 0] * (bonds @ x[..., 1:2])[..., 0]
    energy = charge.tanh() + 0.6 * torch.relu(x[..., 2] + bonds.sum(dim=2) - 3)
    energy = standard(energy.sum(dim=1)) + 0.2 * torch.randn(count, generator=generator)
    rows = torch.cat([bonds, x], dim=2)
    return Data(*parts(rows, energy.unsqueeze(1), held_out=2_000), 1, "values")


def loads() -> Data:
    """The next four loads of a grid, from 36 hours of its load and of the temperature."""
    generator = torch.Generator().manual_seed(92)
    count = 12_000
    hours = torch.arange(40) + torch.randint(12, (count, 1), generator=generator)
    noise = torch.randn(count, 40, 2, generator=generator)
    warmth = torch.sin(hours / 4) + 0.3 * noise[..., 1].cumsum(dim=1)
    size = 0.6 + torch.rand(count, 1, generator=generator)
    load = size * torch.sin(6.283 * hours / 12) + 0.7 * torch.relu(warmth.roll(2, 1) - 0.3)
    load = standard(load + 0.15 * noise[..., 0])
    seen = torch.stack([load[:, :36], warmth[:, :36] / 1.4], dim=2)
    return Data(*parts(seen, load[:, 36:], held_out=2_000), 4, "values")


# ---- networks


class Experts(nn.Module):
    """Linear layers, mixed by shares that depend on the input."""

    def __init__(self, inputs: int, width: int, count: int) -> None:
        super().__init__()
        self.shares = nn.Linear(inputs, count)
        self.experts = nn.Linear(inputs, count * width)
        self.shape = count, width

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs] to [examples, width]."""
        shares = self.shares(x).softmax(dim=1).unsqueeze(2)
        return (shares * self.experts(x).unflatten(1, self.shape)).sum(dim=1)


class Crosses(nn.Module):
    """Layers that multiply the input with what the one before gave, as in Deep & Cross."""

    def __init__(self, inputs: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs, inputs) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, inputs]."""
        crossed = x
        for layer in self.layers:
            crossed = crossed + x * layer(crossed)
        return crossed


class FromZero(nn.Module):
    """The input plus what some layers make of it, times a size that begins at zero."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.size = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x."""
        return x + self.size * self.layers(x)


class RandomWaves(nn.Module):
    """Sines and cosines along random directions, which are not trained."""

    def __init__(self, inputs: int, count: int) -> None:
        super().__init__()
        self.register_buffer("directions", 1.5 * torch.randn(inputs, count))

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, inputs] to [examples, 2 × count]."""
        angle = x @ self.directions
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class Excited(nn.Module):
    """Channels that are made stronger or weaker, by their means over the image."""

    def __init__(self, channels: int, activation: Kind) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            Mean(), nn.Linear(channels, 8), activation(), nn.Linear(8, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, channels, height, width]."""
        return x * self.weigh(x)[:, :, None, None]


class Around(nn.Module):
    """Each pixel beside what is around it at half the resolution, as in a U-Net."""

    def __init__(self, width: int, activation: Kind) -> None:
        super().__init__()
        self.fine = self._convolution(1, width, activation)
        self.coarse = nn.Sequential(
            nn.MaxPool2d(2),
            self._convolution(width, 2 * width, activation),
            self._convolution(2 * width, width, activation),
            nn.Upsample(scale_factor=2),
        )
        self.both = self._convolution(2 * width, width, activation)

    @staticmethod
    def _convolution(inputs: int, width: int, activation: Kind) -> nn.Module:
        layer = nn.Conv2d(inputs, width, 3, padding=1)
        return nn.Sequential(layer, nn.BatchNorm2d(width), activation())

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, 1, height, width] to [examples, pixels, channels]."""
        fine = self.fine(x)
        both = self.both(torch.cat([fine, self.coarse(fine)], dim=1))
        return both.flatten(2).transpose(1, 2)


class LargestOverTime(nn.Module):
    """The largest value over the positions, of each of several layers side by side."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, time, inputs] to [examples, width]."""
        return torch.cat([layer(x).amax(dim=1) for layer in self.layers], dim=1)


class WordPairs(nn.Module):
    """The mean of the vectors of words and of hashed pairs of words, as in fastText."""

    def __init__(self, buckets: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(WORDS + buckets, width)
        self.buckets = buckets

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, time] to [examples, width]."""
        hashed = WORDS + (7_919 * x[:, 1:] + 104_729 * x[:, :-1]) % self.buckets
        return self.vectors(torch.cat([x, hashed], dim=1)).mean(dim=1)


class Twins(nn.Module):
    """The same layers on two inputs: how far their outputs are apart, and their product."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, 2, inputs] to [examples, 2 × width]."""
        one, other = self.layers(x).unbind(dim=1)
        return torch.cat([(one - other).abs(), one * other], dim=1)


class Bonds(nn.Module):
    """Layers of each atom and of the sum over those that it is bound to, and the sum over all."""

    def __init__(self, inputs: int, width: int, count: int, activation: Kind) -> None:
        super().__init__()
        sizes = [inputs, *[width] * (count - 1)]
        self.own = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        self.others = nn.ModuleList(nn.Linear(size, width, bias=False) for size in sizes)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, atoms, atoms + inputs] to [examples, width]."""
        bonds, x = x[..., : x.shape[1]], x[..., x.shape[1] :]
        for own, others in zip(self.own, self.others, strict=True):
            x = self.activation(own(x) + others(bonds @ x) / 2)
        return x.mean(dim=1)


class Decays(nn.Module):
    """Sums of the past that forget at learned speeds, as in a diagonal state space."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(width, width)
        self.speed = nn.Parameter(torch.linspace(-4.0, 1.0, width))

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, time, width]."""
        time = torch.arange(x.shape[1])
        distance = (time.unsqueeze(1) - time).unsqueeze(2)
        kept = torch.exp(-distance.clamp_min(0) * self.speed.exp()) * (distance >= 0)
        return torch.einsum("tsw,nsw->ntw", kept, self.inputs(x))


def experts(data: Data, activation: Kind) -> Body:
    """Four experts of 32, twice."""
    layers = [Experts(data.shape.numel(), 32, 4), activation(), Experts(32, 32, 4), activation()]
    return [nn.Flatten(), *layers], 32


def crossed(data: Data, activation: Kind) -> Body:
    """Two crosses of the inputs, and layers of 64 and 32."""
    inputs = data.shape.numel()
    layers, width = dense(inputs, (64, 32), activation)
    return [nn.Flatten(), Crosses(inputs, 2), *layers], width


def prelu(data: Data, activation: Kind) -> Body:
    """Three layers of 64, with PReLU in place of ReLU."""
    return dense(data.shape.numel(), (64,) * 3, nn.PReLU if activation is nn.ReLU else activation)


def from_zero(data: Data, activation: Kind) -> Body:
    """A layer of 96 and three residual ones whose sizes begin at zero."""
    layers = [FromZero(nn.Linear(96, 96), activation(), nn.Linear(96, 96)) for _ in range(3)]
    return [nn.Flatten(), nn.Linear(data.shape.numel(), 96), activation(), *layers], 96


def fourier(data: Data, activation: Kind) -> Body:
    """Random waves of the inputs, and two layers of 64."""
    layers, width = dense(96, (64, 64), activation)
    return [RandomWaves(data.shape.numel(), 48), *layers], width


def excited(data: Data, activation: Kind) -> Body:
    """Three convolutions with BatchNorm whose channels are weighed, as in squeeze-and-excitation."""
    layers: list[nn.Module] = []
    channels = 1
    for width, stride in ((12, 2), (16, 1), (24, 2)):
        layers += [
            nn.Conv2d(channels, width, 3, stride=stride, padding=1),
            nn.BatchNorm2d(width),
            activation(),
            Excited(width, activation),
        ]
        channels = width
    return [*layers, nn.Flatten(), nn.Linear(384, 32), activation()], 32


def around(data: Data, activation: Kind) -> Body:
    """A small U-Net of 10 channels."""
    return [Around(10, activation)], 10


def tagger(data: Data, activation: Kind) -> Body:
    """An embedding and an LSTM of 28 in both directions."""
    layer = nn.LSTM(24, 28, batch_first=True, bidirectional=True)
    return [nn.Embedding(24, 24), Recurrent(layer)], 56


def phrases(data: Data, activation: Kind) -> Body:
    """Convolutions over two, three and four words, the largest value of each."""
    layers = [
        nn.Sequential(Transposed(nn.Conv1d(32, 24, size)), activation()) for size in (2, 3, 4)
    ]
    return [nn.Embedding(WORDS, 32), LargestOverTime(*layers)], 72


def recycled(data: Data, activation: Kind) -> Body:
    """One block of a transformer of width 32, used three times, which looks both ways."""
    block = nn.TransformerEncoderLayer(
        32, 4, 64, dropout=0.0, activation=activation(), batch_first=True, norm_first=True
    )
    return [nn.Embedding(24, 32), Positions(18, 32), *3 * [block], nn.LayerNorm(32)], 32


def twins(data: Data, activation: Kind) -> Body:
    """The same two layers of 64 on both inputs, and a layer of 48 on both."""
    layers = [nn.Linear(32, 64), activation(), nn.Linear(64, 64), activation()]
    return [Twins(*layers), nn.Linear(128, 48), activation()], 48


def bonds(data: Data, activation: Kind) -> Body:
    """Three layers of messages along the bonds, and a layer of 32."""
    atoms, columns = data.shape
    layers = [Bonds(columns - atoms, 40, 3, activation), nn.Linear(40, 32), activation()]
    return layers, 32


def decays(data: Data, activation: Kind) -> Body:
    """Two layers of decaying sums of the past, with layers of 32 between them."""
    time, inputs = data.shape
    layers: list[nn.Module] = [nn.Linear(inputs, 32)]
    for _ in range(2):
        layers += [Decays(32), activation(), nn.Linear(32, 32), activation()]
    return [*layers, nn.Flatten(), nn.Linear(32 * time, 32), activation()], 32


def hashed(data: Data, activation: Kind) -> Body:
    """25,120 vectors of 200 of words and pairs of words, and a layer of 64: 5 million parameters."""
    return [WordPairs(25_000, 200), nn.Linear(200, 64), activation()], 64


def vgg(data: Data, activation: Kind) -> Body:
    """Two convolutions, a pool and a layer of 1,600: 5 million parameters."""
    return [
        nn.Conv2d(1, 24, 3, padding=1),
        activation(),
        nn.Conv2d(24, 64, 3, stride=2, padding=1),
        activation(),
        nn.Flatten(),
        nn.Linear(3_136, 1_600),
        activation(),
    ], 1_600


def crowd(data: Data, activation: Kind) -> Body:
    """A layer of 256, and 76 experts of 256: 5 million parameters."""
    inputs = data.shape.numel()
    layers = [nn.Linear(inputs, 256), activation(), Experts(256, 256, 76), activation()]
    return [nn.Flatten(), *layers], 256


DATA: dict[str, Callable[[], Data]] = {
    "symptoms": symptoms,
    "visits": visits,
    "fares": fares,
    "terrain": terrain,
    "turned": turned,
    "completed": completed,
    "reviews": reviews,
    "roles": roles,
    "lakes": lakes,
    "signatures": signatures,
    "molecules": molecules,
    "loads": loads,
}
NETWORKS: dict[str, Callable[[Data, Kind], Body]] = {
    "experts": experts,
    "crossed": crossed,
    "prelu": prelu,
    "from_zero": from_zero,
    "fourier": fourier,
    "excited": excited,
    "around": around,
    "tagger": tagger,
    "phrases": phrases,
    "recycled": recycled,
    "twins": twins,
    "bonds": bonds,
    "decays": decays,
    "hashed": hashed,
    "vgg": vgg,
    "crowd": crowd,
}
