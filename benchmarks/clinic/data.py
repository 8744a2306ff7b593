"""The data of the clinic: each set has rows to train on, rows to evaluate on and fresh rows that
training never sees.

The parts of the clinic share no data set.
"""

import argparse
import ast
import asyncio
import inspect
import math
import typing
import unittest.mock
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pydoc_data.topics import topics

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gradiometer.problems.images import digits, fashion_mnist

Pairs = tuple[Tensor, Tensor]
"""Inputs and targets, with the examples along the first axis."""


@dataclass(frozen=True)
class Data:
    """A data set in three parts.

    Args:
        train, evaluation, fresh: Rows of (inputs, targets). The loss that counts is that of the
            fresh rows.
        outputs: Number of classes, of tokens or of values to predict.
        kind: "classes" (one label a row), "tokens" (one label a position) or "values" (regression).
    """

    train: Pairs
    evaluation: Pairs
    fresh: Pairs
    outputs: int
    kind: str

    @property
    def shape(self) -> torch.Size:
        """Shape of the inputs of one example."""
        return self.train[0].shape[1:]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        if self.kind == "values":
            return functional.mse_loss(outputs, targets)
        if self.kind == "tokens":
            return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())
        return functional.cross_entropy(outputs, targets)

    def guess(self) -> float:
        """The loss of the best constant answer on the rows to train on."""
        targets = self.train[1]
        if self.kind == "values":
            return float(targets.var(dim=0).mean())
        frequencies = targets.flatten().bincount().double() / targets.numel()
        return float(-(frequencies * frequencies.clamp_min(1e-12).log()).sum())


def parts(inputs: Tensor, targets: Tensor, *, held_out: int) -> tuple[Pairs, Pairs, Pairs]:
    """All rows but the last 2 × `held_out` to train on, and so many to evaluate on and as fresh
    rows."""
    first = len(inputs) - 2 * held_out
    second = len(inputs) - held_out
    return (
        (inputs[:first], targets[:first]),
        (inputs[first:second], targets[first:second]),
        (inputs[second:], targets[second:]),
    )


def standard(inputs: Tensor) -> Tensor:
    """Columns of mean 0 and standard deviation 1."""
    return (inputs - inputs.mean(0)) / inputs.std(0)


# ---- the development half


def shifted_digits() -> Data:
    """The digits that ship with the package, moved by up to one pixel and with noise: 10 classes, 8
    × 8 pixels."""
    images, labels, held_out = digits.read_digits()
    generator = torch.Generator().manual_seed(1)
    images = images.float() / 16

    def copies(rows: Tensor, count: int) -> Pairs:
        chosen = torch.randint(len(rows), (count,), generator=generator)
        selected = functional.pad(images[rows[chosen]], (1, 1, 1, 1))
        moves = torch.randint(3, (count, 2), generator=generator)
        moved = torch.stack(
            [
                image[down : down + 8, right : right + 8]
                for image, (down, right) in zip(selected, moves.tolist(), strict=True)
            ]
        )
        noise = 0.15 * torch.randn(moved.shape, generator=generator)
        return ((moved + noise - 0.3) / 0.45).unsqueeze(1), labels[rows[chosen]].long()

    trained = torch.nonzero(~held_out).flatten()
    unseen = torch.nonzero(held_out).flatten()
    return Data(
        copies(trained, 12_000),
        copies(unseen[:180], 1_500),
        copies(unseen[180:], 1_500),
        10,
        "classes",
    )


def clusters() -> Data:
    """A table of 16 columns: 5 classes, each of four overlapping clusters."""
    generator = torch.Generator().manual_seed(2)
    centres = 1.2 * torch.randn(20, 16, generator=generator)
    cluster = torch.randint(20, (16_000,), generator=generator)
    inputs = centres[cluster] + torch.randn(16_000, 16, generator=generator)
    return Data(*parts(standard(inputs), cluster % 5, held_out=2_000), 5, "classes")


def friedman() -> Data:
    """Friedman's first regression function of 5 of 10 columns, with 2 % of noise in
    the variance."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(16_000, 10, generator=generator)
    y = (
        10 * torch.sin(math.pi * x[:, 0] * x[:, 1])
        + 20 * (x[:, 2] - 0.5) ** 2
        + 10 * x[:, 3]
        + 5 * x[:, 4]
    )
    y = y + 0.7 * torch.randn(len(y), generator=generator)
    return Data(*parts(standard(x), standard(y).unsqueeze(1), held_out=2_000), 1, "values")


def markov() -> Data:
    """The next of 12 tokens in sequences of 16, from a chain that looks two tokens back."""
    generator = torch.Generator().manual_seed(4)
    logits = 2.0 * torch.randn(12, 12, 12, generator=generator)
    chance = functional.softmax(logits, dim=-1)
    sequence = [torch.randint(12, (8_000,), generator=generator) for _ in range(2)]
    for _ in range(15):
        drawn = torch.multinomial(chance[sequence[-2], sequence[-1]], 1, generator=generator)
        sequence.append(drawn.flatten())
    tokens = torch.stack(sequence, dim=1)
    return Data(*parts(tokens[:, :-1], tokens[:, 1:], held_out=800), 12, "tokens")


# ---- the judged half


def clothes() -> Data:
    """Fashion-MNIST at 14 × 14 pixels: 10 classes."""
    problem = fashion_mnist.load("mlp")
    rows = torch.randperm(60_000, generator=torch.Generator().manual_seed(5))[:16_000]
    images, labels = problem.train.batch(rows)
    images = (functional.avg_pool2d(images, 2) - 0.29) / 0.33
    return Data(*parts(images, labels, held_out=2_000), 10, "classes")


def interactions() -> Data:
    """A table of 24 columns, 8 of them zeros and ones: 3 classes by the signs of products of
    columns."""
    generator = torch.Generator().manual_seed(6)
    numbers = torch.randn(20_000, 16, generator=generator)
    flags = (torch.rand(20_000, 8, generator=generator) < 0.3).float()
    x = torch.cat([numbers, flags], dim=1)
    scores = torch.stack(
        [
            2 * x[:, 0] * x[:, 1] + 2 * x[:, 2] + 2 * x[:, 16],
            2 * x[:, 3] * x[:, 4] - 2 * x[:, 5] + 2 * x[:, 17],
            x[:, 6] ** 2 + 2 * x[:, 7] * x[:, 18],
        ],
        dim=1,
    )
    gumbel = -torch.log(-torch.log(torch.rand(scores.shape, generator=generator)))
    return Data(
        *parts(standard(x), (scores + 0.5 * gumbel).argmax(1), held_out=2_000), 3, "classes"
    )


def waves() -> Data:
    """Two values, sums of waves along directions in 8 columns, with 2 % of noise in
    the variance."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(16_000, 8, generator=generator)
    directions = torch.randn(8, 6, generator=generator) * 0.5
    y = torch.sin(x @ directions) @ torch.randn(6, 2, generator=generator)
    y = standard(y) + 0.14 * torch.randn(y.shape, generator=generator)
    return Data(*parts(x, y, held_out=2_000), 2, "values")


def manual() -> Data:
    """The next of 32 characters in windows of 20 of the reference manual that comes with Python."""
    text = "\n".join(topics[name] for name in sorted(topics)).lower()
    common = [letter for letter, _ in Counter(text).most_common(31)]
    number = {letter: index for index, letter in enumerate(common)}
    codes = torch.tensor([number.get(letter, 31) for letter in text[:400_000]])
    windows = codes.unfold(0, 21, 21)
    # The manual repeats itself: without this, 5 % of the rows of the evaluation would also be
    # trained on.
    _, first = np.unique(windows[:, :-1].numpy(), axis=0, return_index=True)
    windows = windows[torch.from_numpy(first)]
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(8))
    windows = windows[order]
    return Data(*parts(windows[:, :-1], windows[:, 1:], held_out=1_200), 32, "tokens")


def tones() -> Data:
    """Noisy waves of 24 points: 4 classes by frequency."""
    generator = torch.Generator().manual_seed(9)
    labels = torch.randint(4, (14_000,), generator=generator)
    time = torch.arange(24) / 24
    frequency = 1.5 + 0.9 * labels + 0.15 * torch.randn(len(labels), generator=generator)
    phase = torch.rand(len(labels), 1, generator=generator)
    signal = torch.sin(2 * math.pi * (frequency.unsqueeze(1) * time + phase))
    signal = signal + 0.5 * torch.randn(signal.shape, generator=generator)
    return Data(*parts(signal.unsqueeze(2), labels, held_out=2_000), 4, "classes")


# ---- the fresh part


def shapes() -> Data:
    """Noisy images of 12 × 12 pixels: 6 classes of lines, corners, crosses and rectangles,
    anywhere."""
    generator = torch.Generator().manual_seed(10)
    count = 16_000
    labels = torch.randint(6, (count,), generator=generator)
    corner = torch.randint(6, (count, 2), generator=generator)
    length = torch.randint(4, 7, (count, 1, 1), generator=generator)
    down = torch.arange(12).view(1, 12, 1) - corner[:, 0].view(-1, 1, 1)
    right = torch.arange(12).view(1, 1, 12) - corner[:, 1].view(-1, 1, 1)
    inside_down, inside_right = (down >= 0) & (down < length), (right >= 0) & (right < length)
    middle = length // 2
    horizontal, vertical = (down == 0) & inside_right, (right == 0) & inside_down
    kinds = torch.stack(
        [
            horizontal | torch.zeros_like(vertical),
            vertical | torch.zeros_like(horizontal),
            horizontal | vertical,
            ((down == middle) & inside_right) | ((right == middle) & inside_down),
            (inside_down & inside_right)
            & ((down == 0) | (right == 0) | (down == length - 1) | (right == length - 1)),
            (down == right) & inside_down,
        ]
    )
    images = kinds[labels, torch.arange(count)].float()
    images = images + 0.25 * torch.randn(images.shape, generator=generator)
    return Data(*parts(((images - 0.07) / 0.35).unsqueeze(1), labels, held_out=2_000), 6, "classes")


def rings() -> Data:
    """A table of 12 columns: 4 classes by the distance and the angle in a plane, which lies askew
    in 4 of them."""
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(18_000, 12, generator=generator)
    plane = x[:, :4] @ torch.tensor([[0.9, 0.1], [-0.1, 0.9], [0.4, 0.2], [0.2, -0.4]])
    turns = torch.atan2(plane[:, 0], plane[:, 1]) / (2 * math.pi) + 0.25 * plane.norm(dim=1)
    turns = turns + 0.02 * torch.randn(len(turns), generator=generator)
    return Data(*parts(x, (4 * turns).floor().long() % 4, held_out=2_000), 4, "classes")


def arm() -> Data:
    """Three values, where the end of an arm of four joints is and how it points, with 1 % of noise
    in the variance."""
    generator = torch.Generator().manual_seed(12)
    angles = (torch.rand(16_000, 4, generator=generator) - 0.5) * torch.tensor([6.0, 3.0, 3.0, 2.0])
    lengths = torch.tensor([1.0, 0.8, 0.5, 0.3])
    total = angles.cumsum(dim=1)
    place = torch.stack(
        [(lengths * total.cos()).sum(1), (lengths * total.sin()).sum(1), total[:, -1].sin()], dim=1
    )
    y = standard(place) + 0.1 * torch.randn(place.shape, generator=generator)
    return Data(*parts(standard(angles), y, held_out=2_000), 3, "values")


def source() -> Data:
    """The next of 40 characters in windows of 24 of source code that comes with Python."""
    text = "".join(
        inspect.getsource(module)
        for module in (argparse, ast, asyncio.tasks, inspect, typing, unittest.mock)
    )
    common = [letter for letter, _ in Counter(text).most_common(39)]
    number = {letter: index for index, letter in enumerate(common)}
    codes = torch.tensor([number.get(letter, 39) for letter in text])
    windows = codes.unfold(0, 25, 25)
    _, first = np.unique(windows[:, :-1].numpy(), axis=0, return_index=True)
    windows = windows[torch.from_numpy(first)]
    windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(13))]
    return Data(*parts(windows[:, :-1], windows[:, 1:], held_out=1_200), 40, "tokens")


# ---- the second fresh part


def tree() -> Data:
    """A table of 10 numbers and 8 flags: 6 classes, in the leaves of a tree of 64 leaves, with 5 %
    of labels at random."""
    generator = torch.Generator().manual_seed(14)
    count = 18_000
    numbers = torch.randn(count, 10, generator=generator)
    flags = (torch.rand(count, 8, generator=generator) < 0.4).float()
    x = torch.cat([numbers, flags], dim=1)
    leaf = torch.zeros(count, dtype=torch.long)
    for _ in range(6):
        column = torch.randint(18, (2 * (int(leaf.max()) + 1),), generator=generator)
        value = x.gather(1, column[leaf].unsqueeze(1)).squeeze(1)
        leaf = 2 * leaf + (value > 0.3).long()
    labels = torch.randint(6, (int(leaf.max()) + 1,), generator=generator)[leaf]
    noise = torch.rand(count, generator=generator) < 0.05
    labels = torch.where(noise, torch.randint(6, (count,), generator=generator), labels)
    return Data(*parts(standard(x), labels, held_out=2_000), 6, "classes")


def pendulum() -> Data:
    """Angle (as sine and cosine) and speed of a driven pendulum after one second, with 1 % of
    noise in the variance."""
    generator = torch.Generator().manual_seed(15)
    count = 18_000
    angle = (torch.rand(count, generator=generator) - 0.5) * 2 * math.pi
    speed = 2 * torch.randn(count, generator=generator)
    force, damping = (torch.rand(count, generator=generator) for _ in range(2))
    x = torch.stack([angle.sin(), angle.cos(), speed, force, damping], dim=1)
    for step in range(40):
        push = 2 * force * math.cos(0.05 * step)
        speed = speed + 0.025 * (push - 4 * angle.sin() - damping * speed)
        angle = angle + 0.025 * speed
    y = standard(torch.stack([angle.sin(), angle.cos(), speed], dim=1))
    y = y + 0.1 * torch.randn(y.shape, generator=generator)
    return Data(*parts(standard(x), y, held_out=2_000), 3, "values")


def blobs() -> Data:
    """Noisy images of 12 × 12 pixels: 5 classes, the number of round blobs less one."""
    generator = torch.Generator().manual_seed(16)
    count = 14_000
    labels = torch.randint(5, (count,), generator=generator)
    centres = 1 + 9 * torch.rand(count, 5, 2, generator=generator)
    place = torch.arange(12.0)
    down = (place.view(1, 1, 12, 1) - centres[:, :, 0].view(count, 5, 1, 1)) ** 2
    right = (place.view(1, 1, 1, 12) - centres[:, :, 1].view(count, 5, 1, 1)) ** 2
    shown = (torch.arange(5) <= labels.unsqueeze(1)).view(count, 5, 1, 1)
    images = (torch.exp(-(down + right) / 1.5) * shown).sum(dim=1)
    images = images + 0.1 * torch.randn(images.shape, generator=generator)
    return Data(*parts(((images - 0.09) / 0.22).unsqueeze(1), labels, held_out=2_000), 5, "classes")


def moods() -> Data:
    """The next of 14 symbols in sequences of 18, from a chain of 5 hidden states that stay for
    some time."""
    generator = torch.Generator().manual_seed(17)
    stay = functional.softmax(3.5 * torch.eye(5) + torch.randn(5, 5, generator=generator), dim=-1)
    emit = functional.softmax(2.5 * torch.randn(5, 14, 14, generator=generator), dim=-1)
    state = torch.randint(5, (9_000,), generator=generator)
    symbols = [torch.randint(14, (9_000,), generator=generator)]
    for _ in range(18):
        state = torch.multinomial(stay[state], 1, generator=generator).flatten()
        chance = emit[state, symbols[-1]]
        symbols.append(torch.multinomial(chance, 1, generator=generator).flatten())
    tokens = torch.stack(symbols, dim=1)
    return Data(*parts(tokens[:, :-1], tokens[:, 1:], held_out=900), 14, "tokens")


def swings() -> Data:
    """Two noisy channels of 20 points: 5 classes by how the second follows the first."""
    generator = torch.Generator().manual_seed(18)
    count = 14_000
    labels = torch.randint(5, (count,), generator=generator)
    first = torch.randn(count, 24, generator=generator).cumsum(dim=1)
    first = (first - first.mean(dim=1, keepdim=True)) / first.std(dim=1, keepdim=True)
    late = torch.stack([first[:, 4 - lag : 24 - lag] for lag in range(5)], dim=1)
    second = late[torch.arange(count), labels]
    signal = torch.stack([first[:, 4:], second], dim=2)
    signal = signal + 0.2 * torch.randn(signal.shape, generator=generator)
    return Data(*parts(signal, labels, held_out=2_000), 5, "classes")


EARLIER: dict[str, Callable[[], Data]] = {
    "digits": shifted_digits,
    "clusters": clusters,
    "friedman": friedman,
    "markov": markov,
    "clothes": clothes,
    "interactions": interactions,
    "waves": waves,
    "manual": manual,
    "tones": tones,
    "shapes": shapes,
    "rings": rings,
    "arm": arm,
    "source": source,
    "tree": tree,
    "pendulum": pendulum,
    "blobs": blobs,
    "moods": moods,
    "swings": swings,
}
"""The data of the parts before the third fresh one."""
