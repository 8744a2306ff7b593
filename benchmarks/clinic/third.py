"""Networks and data of the third fresh part, which no other part has."""

import math
import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from clinic.data import Data, parts, standard
from clinic.networks import (
    Body,
    Causal,
    Kind,
    Mean,
    MeanOverTime,
    Positions,
    Residual,
    Transposed,
    dense,
)

# ---- data


def teacher() -> Data:
    """A table of 24 columns: 8 classes, the largest output of a random network."""
    generator = torch.Generator().manual_seed(19)
    x = torch.randn(20_000, 24, generator=generator)
    hidden = torch.relu(x @ torch.randn(24, 20, generator=generator) / 2)
    scores = standard(hidden @ torch.randn(20, 8, generator=generator))
    return Data(*parts(x, scores.argmax(1), held_out=2_000), 8, "classes")


def credit() -> Data:
    """A table of 9 numbers with heavy tails and 6 flags: two classes that overlap much."""
    generator = torch.Generator().manual_seed(20)
    count = 18_000
    numbers = torch.exp(0.8 * torch.randn(count, 9, generator=generator))
    flags = (torch.rand(count, 6, generator=generator) < 0.25).float()
    score = torch.log(numbers[:, 0] / numbers[:, 1]) + 2 * flags[:, 0] * (numbers[:, 2] > 1)
    score = score - 1.5 * flags[:, 1] + torch.log(numbers[:, 3]) * torch.log(numbers[:, 4])
    chance = torch.sigmoid(1.5 * (score - 0.3))
    labels = (torch.rand(count, generator=generator) < chance).long()
    x = standard(torch.cat([numbers.log1p(), flags], dim=1))
    return Data(*parts(x, labels, held_out=2_000), 2, "classes")


def prices() -> Data:
    """A value of 12 columns with steps, kinks and a product, and 20 % of noise in the variance."""
    generator = torch.Generator().manual_seed(21)
    x = torch.rand(18_000, 12, generator=generator)
    y = 3 * (x[:, 0] > 0.6) + 4 * (x[:, 1] - 0.5).abs() + torch.maximum(x[:, 2], 2 * x[:, 3])
    y = standard((y + 3 * x[:, 4] * x[:, 5]).unsqueeze(1))
    y = y + 0.5 * torch.randn(y.shape, generator=generator)
    return Data(*parts(standard(x), standard(y), held_out=2_000), 1, "values")


def film() -> Data:
    """Light that two thin films pass at three colours, by thickness and index, with 1 % of noise
    in the variance."""
    generator = torch.Generator().manual_seed(22)
    x = torch.rand(16_000, 5, generator=generator)
    index, other = 1.2 + x[:, 0], 1.2 + x[:, 1]
    colours = torch.tensor([4.0, 5.0, 6.0])
    first = torch.cos(colours * (index * (0.3 + x[:, 2])).unsqueeze(1))
    second = torch.cos(colours * (other * (0.3 + x[:, 3])).unsqueeze(1))
    loss = 1 + (0.4 + x[:, 4:]) * first + (index * other - 1).unsqueeze(1) * second / 2
    y = standard(loss)
    y = y + 0.1 * torch.randn(y.shape, generator=generator)
    return Data(*parts(standard(x), y, held_out=2_000), 3, "values")


def segments() -> Data:
    """Noisy images of 12 × 12 pixels of the ten digits of a display of seven bars, of any size."""
    generator = torch.Generator().manual_seed(23)
    count = 15_000
    lit = "1110111 0010010 1011101 1011011 0111010 1101011 1101111 1010010 1111111 1111011"
    bars = torch.tensor([[int(bar) for bar in digit] for digit in lit.split()]).float()
    labels = torch.randint(10, (count,), generator=generator)
    half = torch.randint(2, 5, (count, 1, 1), generator=generator)
    width = torch.randint(3, 6, (count, 1, 1), generator=generator)
    place = torch.arange(12)
    down = place.view(1, 12, 1) - torch.randint(1, 4, (count, 1, 1), generator=generator)
    right = place.view(1, 1, 12) - torch.randint(1, 6, (count, 1, 1), generator=generator)
    across = (right >= 0) & (right <= width)
    above, below = (down >= 0) & (down <= half), (down >= half) & (down <= 2 * half)
    drawn = torch.stack(
        [
            (down == 0) & across,
            (right == 0) & above,
            (right == width) & above,
            (down == half) & across,
            (right == 0) & below,
            (right == width) & below,
            (down == 2 * half) & across,
        ],
        dim=1,
    )
    images = (drawn * bars[labels].view(count, 7, 1, 1)).amax(dim=1)
    images = images + 0.3 * torch.randn(images.shape, generator=generator)
    images = (images - images.mean()) / images.std()
    return Data(*parts(images.unsqueeze(1), labels, held_out=2_000), 10, "classes")


def gratings() -> Data:
    """Noisy images of 12 × 12 pixels of waves: 6 classes by the direction."""
    generator = torch.Generator().manual_seed(24)
    count = 14_000
    labels = torch.randint(6, (count,), generator=generator)
    angle = math.pi * (labels + 0.6 * (torch.rand(count, generator=generator) - 0.5)) / 6
    frequency = 0.6 + 0.9 * torch.rand(count, generator=generator)
    phase = 2 * math.pi * torch.rand(count, 1, 1, generator=generator)
    place = torch.arange(12.0)
    along = (frequency * angle.cos()).view(-1, 1, 1) * place.view(1, 12, 1)
    along = along + (frequency * angle.sin()).view(-1, 1, 1) * place.view(1, 1, 12)
    images = torch.sin(along + phase) + 0.6 * torch.randn(count, 12, 12, generator=generator)
    images = (images - images.mean()) / images.std()
    return Data(*parts(images.unsqueeze(1), labels, held_out=2_000), 6, "classes")


def points() -> Data:
    """16 points in a plane in any order: 4 classes, of a circle, a square, a cross or a line."""
    generator = torch.Generator().manual_seed(25)
    count = 14_000
    labels = torch.randint(4, (count,), generator=generator)
    along = 2 * torch.rand(count, 16, generator=generator) - 1
    side = torch.randint(4, (count, 16), generator=generator)
    turn = math.pi * along
    ends = 2.0 * (side % 2) - 1
    square = torch.stack(
        [torch.where(side < 2, along, ends), torch.where(side < 2, ends, along)], dim=2
    )
    zero = torch.zeros_like(along)
    cross = torch.stack([torch.where(side < 2, along, zero), torch.where(side < 2, zero, along)], 2)
    kinds = torch.stack(
        [torch.stack([turn.cos(), turn.sin()], 2), square, cross, torch.stack([along, zero], 2)]
    )
    found = kinds[labels, torch.arange(count)]
    angle = 2 * math.pi * torch.rand(count, generator=generator)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    found = found @ rotation * (0.6 + torch.rand(count, 1, 1, generator=generator))
    found = found + 0.15 * torch.randn(found.shape, generator=generator)
    return Data(*parts(found / 0.7, labels, held_out=2_000), 4, "classes")


def pulses() -> Data:
    """A noisy signal of 30 points with two pulses: 6 classes by the kind of each and their order."""
    generator = torch.Generator().manual_seed(26)
    count = 14_000
    labels = torch.randint(6, (count,), generator=generator)
    pairs = torch.tensor([[0, 1], [1, 0], [0, 2], [2, 0], [1, 2], [2, 1]])[labels]
    place = torch.arange(30.0).view(1, 1, 30)
    first = 4 + 6 * torch.rand(count, 1, generator=generator)
    second = 18 + 7 * torch.rand(count, 1, generator=generator)
    away = place - torch.cat([first, second], dim=1).unsqueeze(2)
    kinds = torch.stack(
        [
            torch.exp(-((away / 1.5) ** 2)),
            (away.abs() < 2).float(),
            -away / 1.5 * torch.exp(0.5 - (away / 1.5) ** 2 / 2),
        ],
        dim=2,
    )
    chosen = pairs.view(count, 2, 1, 1).expand(-1, -1, 1, 30)
    signal = kinds.gather(2, chosen).sum(dim=(1, 2))
    signal = signal + 0.25 * torch.randn(signal.shape, generator=generator)
    return Data(*parts(3 * signal.unsqueeze(2), labels, held_out=2_000), 6, "classes")


def brackets() -> Data:
    """The next of 12 tokens in sequences of 22: three kinds of brackets, one within the other,
    and letters that depend on the innermost one."""
    generator = np.random.default_rng(27)
    rows = []
    for _ in range(8_000):
        inside: list[int] = []
        row: list[int] = []
        while len(row) < 23:
            chance = generator.random()
            if inside and chance < 0.3:
                row.append(3 + inside.pop())
            elif chance < 0.6 and len(inside) < 5:
                inside.append(int(generator.integers(3)))
                row.append(inside[-1])
            else:
                kind = inside[-1] if inside else 0
                row.append(6 + (2 * kind + int(generator.random() < 0.25)) % 6)
        rows.append(row)
    tokens = torch.tensor(rows)
    return Data(*parts(tokens[:, :-1], tokens[:, 1:], held_out=800), 12, "tokens")


def handbook() -> Data:
    """The next of 36 characters in windows of 24 of what functions of NumPy and PyTorch say of
    themselves."""
    functions = [
        getattr(module, name)
        for module in (np, np.linalg, torch, functional)
        for name in sorted(vars(module))
        if callable(vars(module)[name])
    ]
    texts = dict.fromkeys(str(function.__doc__).lower() for function in functions)
    text = re.sub(r"\s+", " ", " ".join(texts))[:400_000]
    common = [letter for letter, _ in Counter(text).most_common(35)]
    number = {letter: index for index, letter in enumerate(common)}
    codes = torch.tensor([number.get(letter, 35) for letter in text])
    windows = codes.unfold(0, 25, 25)
    _, first = np.unique(windows[:, :-1].numpy(), axis=0, return_index=True)
    windows = windows[torch.from_numpy(first)]
    windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(28))]
    return Data(*parts(windows[:, :-1], windows[:, 1:], held_out=1_200), 36, "tokens")


# ---- networks


class Gated(nn.Module):
    """A linear layer whose one half is gated by the other half."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """From [..., inputs] to [..., width]."""
        value, gate = self.layer(x).chunk(2, dim=-1)
        return value * functional.silu(gate)


class LastTokens(nn.Module):
    """The vectors of a position and of those before it, side by side."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, time, width] to [examples, time, count × width]."""
        padded = functional.pad(x, (0, 0, self.count - 1, 0))
        return padded.unfold(1, self.count, 1).flatten(2)


def narrow(data: Data, activation: Kind) -> Body:
    """Four layers of 24."""
    return dense(data.shape.numel(), (24,) * 4, activation)


def elu(data: Data, activation: Kind) -> Body:
    """Three layers of 100, with ELU in place of ReLU."""
    return dense(data.shape.numel(), (100,) * 3, nn.ELU if activation is nn.ReLU else activation)


def bottleneck(data: Data, activation: Kind) -> Body:
    """Layers of 128, 12 and 96."""
    return dense(data.shape.numel(), (128, 12, 96), activation)


def middling(data: Data, activation: Kind) -> Body:
    """Two layers of 512."""
    return dense(data.shape.numel(), (512, 512), activation)


def gated(data: Data, activation: Kind) -> Body:
    """Three gated layers of 48."""
    inputs = data.shape.numel()
    return [nn.Flatten(), Gated(inputs, 48), Gated(48, 48), Gated(48, 48)], 48


def norm_skips(data: Data, activation: Kind) -> Body:
    """Four residual blocks of width 40 with BatchNorm."""
    blocks = [
        Residual(nn.BatchNorm1d(40), nn.Linear(40, 40), activation(), nn.Linear(40, 40))
        for _ in range(4)
    ]
    return [nn.Flatten(), nn.Linear(data.shape.numel(), 40), *blocks, activation()], 40


def separable(data: Data, activation: Kind) -> Body:
    """Convolutions of single channels and of single pixels in turn, with BatchNorm."""
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, stride=2, padding=1)]
    for inputs, width in ((16, 24), (24, 32)):
        layers += [
            nn.BatchNorm2d(inputs),
            activation(),
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs),
            nn.Conv2d(inputs, width, 1),
        ]
    return [*layers, nn.BatchNorm2d(32), activation(), Mean()], 32


def lenet(data: Data, activation: Kind) -> Body:
    """Two convolutions of 5 × 5 pixels with mean pooling, and layers of 64 and 32."""
    layers = [
        nn.Conv2d(1, 6, 5, padding=2),
        activation(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 12, 5, padding=2),
        activation(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(108, 64),
        activation(),
        nn.Linear(64, 32),
        activation(),
    ]
    return layers, 32


def of_sets(data: Data, activation: Kind) -> Body:
    """Two layers of 64 at every point, their mean, and a layer of 64."""
    layers = [
        nn.Linear(data.shape[1], 64),
        activation(),
        nn.Linear(64, 64),
        activation(),
        MeanOverTime(),
        nn.Linear(64, 64),
        activation(),
    ]
    return layers, 64


def temporal(data: Data, activation: Kind) -> Body:
    """Three convolutions along the time with pooling."""
    layers = Transposed(
        nn.Conv1d(data.shape[1], 16, 5, padding=2),
        activation(),
        nn.MaxPool1d(2),
        nn.Conv1d(16, 24, 5, padding=2),
        activation(),
        nn.MaxPool1d(2),
        nn.Conv1d(24, 24, 3, padding=1),
        activation(),
    )
    return [layers, MeanOverTime()], 24


def modern(data: Data, activation: Kind) -> Body:
    """Two blocks of a transformer of width 36 with RMSNorm and gated layers."""
    layers: list[nn.Module] = [nn.Embedding(data.outputs, 36), Positions(data.shape[0], 36)]
    for _ in range(2):
        layers += [
            Residual(nn.RMSNorm(36), Causal(36, 3)),
            Residual(nn.RMSNorm(36), Gated(36, 72), nn.Linear(72, 36)),
        ]
    return [*layers, nn.RMSNorm(36)], 36


def window(data: Data, activation: Kind) -> Body:
    """The vectors of the last five tokens, and layers of 96 and 64."""
    return [
        nn.Embedding(data.outputs, 16),
        LastTokens(5),
        nn.Linear(80, 96),
        activation(),
        nn.Linear(96, 64),
        activation(),
    ], 64


DATA: dict[str, Callable[[], Data]] = {
    "teacher": teacher,
    "credit": credit,
    "prices": prices,
    "film": film,
    "segments": segments,
    "gratings": gratings,
    "points": points,
    "pulses": pulses,
    "brackets": brackets,
    "handbook": handbook,
}
NETWORKS: dict[str, Callable[[Data, Kind], Body]] = {
    "narrow": narrow,
    "elu": elu,
    "bottleneck": bottleneck,
    "middling": middling,
    "gated": gated,
    "norm_skips": norm_skips,
    "separable": separable,
    "lenet": lenet,
    "of_sets": of_sets,
    "temporal": temporal,
    "modern": modern,
    "window": window,
}
