"""Networks and data of the fourth and the fifth fresh part, which no other part has."""

import math
import re
import unicodedata
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
    Recurrent,
    Residual,
    dense,
)

# ---- data of the fourth fresh part


def vertices() -> Data:
    """A table of 20 columns: 4 classes around the corners of a cube in 6 columns, 6 more that are
    sums of these, 8 that say nothing, and 3 % of wrong labels."""
    generator = torch.Generator().manual_seed(41)
    count = 16_000
    corner = torch.randint(16, (count,), generator=generator)
    places = 2.0 * torch.randint(2, (16, 6), generator=generator) - 1
    found = 1.4 * places[corner] + torch.randn(count, 6, generator=generator)
    sums = found @ torch.randn(6, 6, generator=generator)
    noise = torch.randn(count, 8, generator=generator)
    labels = torch.randint(4, (16,), generator=generator)[corner]
    wrong = torch.rand(count, generator=generator) < 0.03
    labels = torch.where(wrong, torch.randint(4, (count,), generator=generator), labels)
    x = torch.cat([found, sums, noise], dim=1)
    return Data(*parts(standard(x), labels, held_out=2_000), 4, "classes")


def houses() -> Data:
    """A price of 8 columns, most of them with heavy tails, with 15 % of noise in the variance."""
    generator = torch.Generator().manual_seed(42)
    x = torch.randn(16_000, 8, generator=generator)
    area, rooms = (0.5 * x[:, 0]).exp(), 1 + x[:, 1].abs()
    place = torch.exp(-((x[:, 2] - 0.5) ** 2) - (x[:, 3] + 0.3) ** 2)
    y = area * (0.5 + 2 * place) + 0.3 * rooms.log() - 0.4 * torch.relu(x[:, 4]) * (x[:, 5] > 0)
    y = standard(y) + 0.4 * torch.randn(len(y), generator=generator)
    inputs = torch.cat([area.unsqueeze(1), rooms.unsqueeze(1), x[:, 2:]], dim=1)
    return Data(*parts(standard(inputs), standard(y).unsqueeze(1), held_out=2_000), 1, "values")


def spectra() -> Data:
    """36 points of a spectrum of three lines, to be given back: the targets are the inputs."""
    generator = torch.Generator().manual_seed(43)
    count = 14_000
    place = torch.arange(36.0).view(1, 1, 36)
    centres = 36 * torch.rand(count, 3, 1, generator=generator)
    heights = 0.3 + torch.rand(count, 3, 1, generator=generator)
    lines = heights / (1 + ((place - centres) / 2.5) ** 2)
    x = lines.sum(dim=1) + 0.03 * torch.randn(count, 36, generator=generator)
    x = standard(x)
    return Data(*parts(x, x, held_out=2_000), 36, "values")


def clocks() -> Data:
    """Noisy images of 12 × 12 pixels of a clock: 8 classes by where its longer hand points."""
    generator = torch.Generator().manual_seed(44)
    count = 13_000
    labels = torch.randint(8, (count,), generator=generator)
    long = 2 * math.pi * (labels + 0.7 * (torch.rand(count, generator=generator) - 0.5)) / 8
    short = 2 * math.pi * torch.rand(count, generator=generator)
    down = torch.arange(12.0).view(1, 12, 1) - 5.5
    right = torch.arange(12.0).view(1, 1, 12) - 5.5

    def hand(angle: Tensor, length: float) -> Tensor:
        sine, cosine = angle.sin().view(-1, 1, 1), angle.cos().view(-1, 1, 1)
        along, across = down * sine + right * cosine, down * cosine - right * sine
        return ((along > 0) & (along < length) & (across.abs() < 0.7)).float()

    images = torch.maximum(hand(long, 5.5), hand(short, 3.0))
    images = images + 0.3 * torch.randn(images.shape, generator=generator)
    images = (images - images.mean()) / images.std()
    return Data(*parts(images.unsqueeze(1), labels, held_out=2_000), 8, "classes")


def names() -> Data:
    """The next of 32 characters in windows of 24 of the names that Unicode gives its characters."""
    order = np.random.default_rng(45).permutation(0x3000)
    text = "\n".join(unicodedata.name(chr(code), "") for code in order)
    text = re.sub(r"\n+", "\n", text).lower()
    common = [letter for letter, _ in Counter(text).most_common(31)]
    number = {letter: index for index, letter in enumerate(common)}
    codes = torch.tensor([number.get(letter, 31) for letter in text])
    windows = codes.unfold(0, 25, 25)
    _, first = np.unique(windows[:, :-1].numpy(), axis=0, return_index=True)
    windows = windows[torch.from_numpy(first)]
    windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(46))]
    return Data(*parts(windows[:, :-1], windows[:, 1:], held_out=1_000), 32, "tokens")


def echoes() -> Data:
    """The next of 10 symbols in sequences of 18: each is that of 2 or 5 steps before, by whether
    the one before is even, or one at random."""
    generator = torch.Generator().manual_seed(47)
    count = 8_000
    symbols = [torch.randint(10, (count,), generator=generator) for _ in range(5)]
    for _ in range(14):
        following = torch.where(symbols[-1] % 2 == 0, symbols[-2], (symbols[-5] + 3) % 10)
        other = torch.rand(count, generator=generator) < 0.2
        following = torch.where(other, torch.randint(10, (count,), generator=generator), following)
        symbols.append(following)
    rows = torch.stack(symbols, dim=1)
    return Data(*parts(rows[:, :-1], rows[:, 1:], held_out=900), 10, "tokens")


def tides() -> Data:
    """The next two values of a signal of 24 points with two periods and a trend, with noise."""
    generator = torch.Generator().manual_seed(48)
    count = 13_000
    time = torch.arange(28.0)
    period = torch.tensor([6.0, 11.0]) * (0.9 + 0.2 * torch.rand(count, 2, generator=generator))
    phase = 2 * math.pi * torch.rand(count, 2, 1, generator=generator)
    waves = torch.sin(2 * math.pi * time / period.unsqueeze(2) + phase)
    strength = 0.5 + torch.rand(count, 2, 1, generator=generator)
    trend = 0.05 * torch.randn(count, 1, generator=generator) * time
    signal = (strength * waves).sum(dim=1) + trend
    shown = signal[:, :24] + 0.2 * torch.randn(count, 24, generator=generator)
    y = standard(signal[:, [25, 27]])
    return Data(*parts(standard(shown).unsqueeze(2), y, held_out=2_000), 2, "values")


# ---- data of the fifth fresh part


def genes() -> Data:
    """A table of 40 zeros and ones: 5 classes by pairs of columns, with 4 % of wrong labels."""
    generator = torch.Generator().manual_seed(51)
    count = 16_000
    x = (torch.rand(count, 40, generator=generator) < 0.5).float()
    signs = 2 * x - 1
    scores = torch.stack(
        [signs[:, 2 * kind] * signs[:, 2 * kind + 1] + signs[:, 20 + kind] for kind in range(5)],
        dim=1,
    )
    scores = scores + 0.5 * torch.randn(scores.shape, generator=generator)
    labels = scores.argmax(dim=1)
    wrong = torch.rand(count, generator=generator) < 0.04
    labels = torch.where(wrong, torch.randint(5, (count,), generator=generator), labels)
    return Data(*parts(standard(x), labels, held_out=2_000), 5, "classes")


def orbits() -> Data:
    """Where a planet is and how fast, after some time, by six numbers of its orbit, with 1 % of
    noise in the variance."""
    generator = torch.Generator().manual_seed(52)
    x = torch.rand(16_000, 6, generator=generator)
    flat, time = 0.6 * x[:, 0], 2 * math.pi * x[:, 1]
    size, tilt, turn = 0.5 + x[:, 2], math.pi * x[:, 3] / 2, math.pi * x[:, 4]
    angle = time.clone()
    for _ in range(20):
        angle = time + flat * angle.sin()
    along = size * (angle.cos() - flat)
    across = size * (1 - flat**2).sqrt() * angle.sin() * tilt.cos()
    speed = (2 / (1 - flat * angle.cos()) - 1).sqrt() / size.sqrt() * (0.5 + x[:, 5])
    place = (along * turn.cos() - across * turn.sin(), along * turn.sin() + across * turn.cos())
    y = standard(torch.stack([*place, speed], dim=1))
    y = y + 0.1 * torch.randn(y.shape, generator=generator)
    return Data(*parts(standard(x), y, held_out=2_000), 3, "values")


def dominoes() -> Data:
    """Noisy images of 12 × 12 pixels of a stone: 5 classes, by the sum of the dots on its
    halves."""
    generator = torch.Generator().manual_seed(53)
    count = 13_000
    halves = torch.randint(3, (count, 2), generator=generator)
    shown = torch.rand(count, 2, 4, generator=generator).argsort(dim=2) < halves.unsqueeze(2)
    images = torch.zeros(count, 12, 12)
    for half in range(2):
        for dot in range(4):
            down, right = 1 + 3 * (dot // 2), 1 + 6 * half + 3 * (dot % 2)
            lit = shown[:, half, dot].float().view(-1, 1, 1)
            images[:, 3 + down : 5 + down, right : right + 2] += lit
    images = images + 0.5 * torch.randn(images.shape, generator=generator)
    images = (images - images.mean()) / images.std()
    return Data(*parts(images.unsqueeze(1), halves.sum(dim=1), held_out=2_000), 5, "classes")


def clauses() -> Data:
    """The next of 20 words in sequences of 20: sentences of a grammar whose verbs agree with the
    number of their subject."""
    generator = np.random.default_rng(54)
    rows = []
    for _ in range(7_000):
        row: list[int] = []
        while len(row) < 21:
            many = int(generator.integers(2))
            row.append(many)
            if generator.random() < 0.4:
                row.append(2 + int(generator.integers(3)))
            row.append(5 + 4 * many + min(int(generator.geometric(0.5)) - 1, 3))
            if generator.random() < 0.3:
                row += [13, 14 + int(generator.integers(2))]
            row += [16 + many, 18 + int(generator.random() < 0.3)]
        rows.append(row[:21])
    words = torch.tensor(rows)
    return Data(*parts(words[:, :-1], words[:, 1:], held_out=900), 20, "tokens")


def steps() -> Data:
    """A noisy signal of 28 points that rises or falls at two places: 4 classes."""
    generator = torch.Generator().manual_seed(55)
    count = 13_000
    labels = torch.randint(4, (count,), generator=generator)
    place = torch.arange(28.0)
    first = 4 + 8 * torch.rand(count, 1, generator=generator)
    second = 15 + 9 * torch.rand(count, 1, generator=generator)
    up = 2.0 * torch.stack([labels % 2, labels // 2], dim=1) - 1
    signal = up[:, :1] * (place > first) + up[:, 1:] * (place > second)
    signal = signal + torch.randn(count, 1, generator=generator)
    signal = signal + 0.6 * torch.randn(count, 28, generator=generator)
    return Data(*parts(standard(signal).unsqueeze(2), labels, held_out=2_000), 4, "classes")


# ---- networks of the fourth fresh part


def wedge(data: Data, activation: Kind) -> Body:
    """Layers of 200 and 100."""
    return dense(data.shape.numel(), (200, 100), activation)


def tiny(data: Data, activation: Kind) -> Body:
    """Two layers of 16."""
    return dense(data.shape.numel(), (16, 16), activation)


def ladder(data: Data, activation: Kind) -> Body:
    """Three residual blocks of width 56 without normalisation."""
    blocks = [Residual(nn.Linear(56, 56), activation(), nn.Linear(56, 56)) for _ in range(3)]
    return [nn.Flatten(), nn.Linear(data.shape.numel(), 56), *blocks, activation()], 56


def coder(data: Data, activation: Kind) -> Body:
    """Layers of 64, 8 and 64, as of an autoencoder."""
    return dense(data.shape.numel(), (64, 8, 64), activation)


def resnet(data: Data, activation: Kind) -> Body:
    """Two residual blocks of convolutions of 12 channels with BatchNorm after each."""

    def block() -> nn.Module:
        return Residual(
            nn.Conv2d(12, 12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12),
            activation(),
            nn.Conv2d(12, 12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12),
        )

    first = [nn.Conv2d(1, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), activation()]
    return [*first, block(), activation(), block(), activation(), nn.Flatten()], 432


def stem(data: Data, activation: Kind) -> Body:
    """Three convolutions of 3 × 3 pixels with pooling, and their mean."""
    layers: list[nn.Module] = []
    for inputs, width in ((1, 8), (8, 16), (16, 32)):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), activation(), nn.MaxPool2d(2)]
    return [*layers[:-1], Mean()], 32


def nano(data: Data, activation: Kind) -> Body:
    """Two blocks of a transformer of width 32 that begins as GPT-2 does: weights of 0.02, smaller
    ones where a block ends."""
    embedding, table = nn.Embedding(data.outputs, 32), Positions(data.shape[0], 32)
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [
            Residual(nn.LayerNorm(32), Causal(32, 2)),
            Residual(nn.LayerNorm(32), nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32)),
        ]
    with torch.no_grad():
        table.vectors.mul_(0.2)
        embedding.weight.normal_(std=0.02)
        for layer in layers:
            inner = [part for part in layer.modules() if isinstance(part, nn.Linear)]
            for part in inner:
                part.weight.normal_(std=0.02)
            inner[-1].weight.mul_(0.5)
    return [embedding, table, *layers, nn.LayerNorm(32)], 32


def both_ways(data: Data, activation: Kind) -> Body:
    """A GRU of 20 in both directions of time, and its mean."""
    layer = nn.GRU(data.shape[1], 20, batch_first=True, bidirectional=True)
    return [Recurrent(layer), MeanOverTime()], 40


class Flat(nn.Module):
    """All but the first axis as one."""

    def forward(self, x: Tensor) -> Tensor:
        """From [examples, ...] to [examples, numbers]."""
        return x.flatten(1)


def after_norm(data: Data, activation: Kind) -> Body:
    """A block of a transformer of width 24, normalised after each part, and all of its positions."""
    return [
        nn.Linear(data.shape[1], 24),
        Positions(data.shape[0], 24),
        Residual(Causal(24, 2)),
        nn.LayerNorm(24),
        Residual(nn.Linear(24, 48), activation(), nn.Linear(48, 24)),
        nn.LayerNorm(24),
        Flat(),
    ], 24 * data.shape[0]


# ---- networks of the fifth fresh part


def mish(data: Data, activation: Kind) -> Body:
    """Two layers of 96, with Mish in place of ReLU."""
    return dense(data.shape.numel(), (96, 96), nn.Mish if activation is nn.ReLU else activation)


def tall_norm(data: Data, activation: Kind) -> Body:
    """Five layers of 48 with BatchNorm."""
    return dense(data.shape.numel(), (48,) * 5, activation, nn.BatchNorm1d)


def slim(data: Data, activation: Kind) -> Body:
    """Six layers of 32."""
    return dense(data.shape.numel(), (32,) * 6, activation)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape as that of x, [examples, channels, height, width]."""
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def next_convolutions(data: Data, activation: Kind) -> Body:
    """Two residual blocks of convolutions of single channels and of single pixels, with
    LayerNorm."""
    blocks = [
        Residual(
            nn.Conv2d(24, 24, 5, padding=2, groups=24),
            ChannelNorm(24),
            nn.Conv2d(24, 48, 1),
            nn.GELU(),
            nn.Conv2d(48, 24, 1),
        )
        for _ in range(2)
    ]
    return [nn.Conv2d(1, 24, 2, stride=2), *blocks, Mean()], 24


def two_lstm(data: Data, activation: Kind) -> Body:
    """Two layers of an LSTM of 32, of symbols or of a signal."""
    if data.kind == "tokens":
        layer = nn.LSTM(16, 32, num_layers=2, batch_first=True)
        return [nn.Embedding(data.outputs, 16), Recurrent(layer)], 32
    return [Recurrent(nn.LSTM(data.shape[1], 32, num_layers=2, batch_first=True), last=True)], 32


def one_block(data: Data, activation: Kind) -> Body:
    """A block of a transformer of width 64 with four heads."""
    block = [
        Residual(nn.LayerNorm(64), Causal(64, 4)),
        Residual(nn.LayerNorm(64), nn.Linear(64, 128), activation(), nn.Linear(128, 64)),
    ]
    return [
        nn.Embedding(data.outputs, 64),
        Positions(data.shape[0], 64),
        *block,
        nn.LayerNorm(64),
    ], 64


def patches(data: Data, activation: Kind) -> Body:
    """Convolutions along time in strides, with GroupNorm."""

    class Turned(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return functional.adaptive_avg_pool1d(super().forward(x.transpose(1, 2)), 1).flatten(1)

    layers = Turned(
        nn.Conv1d(data.shape[1], 16, 4, stride=2),
        nn.GroupNorm(4, 16),
        activation(),
        nn.Conv1d(16, 32, 4, stride=2),
        nn.GroupNorm(4, 32),
        activation(),
    )
    return [layers], 32


DATA: dict[str, Callable[[], Data]] = {
    "vertices": vertices,
    "houses": houses,
    "spectra": spectra,
    "clocks": clocks,
    "names": names,
    "echoes": echoes,
    "tides": tides,
    "genes": genes,
    "orbits": orbits,
    "dominoes": dominoes,
    "clauses": clauses,
    "steps": steps,
}
NETWORKS: dict[str, Callable[[Data, Kind], Body]] = {
    "wedge": wedge,
    "tiny": tiny,
    "ladder": ladder,
    "coder": coder,
    "resnet": resnet,
    "stem": stem,
    "nano": nano,
    "both_ways": both_ways,
    "after_norm": after_norm,
    "mish": mish,
    "tall_norm": tall_norm,
    "slim": slim,
    "next_convolutions": next_convolutions,
    "two_lstm": two_lstm,
    "one_block": one_block,
    "patches": patches,
}
