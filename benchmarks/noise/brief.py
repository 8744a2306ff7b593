"""Short trainings of other networks and other data, which judge the width of intervals in short runs
once."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from noise.products import Training
from noise.runs import (
    Characters,
    Data,
    adamw,
    cosine,
    hyperbola,
    images,
    linear,
    markov,
    one_cycle,
    perceptron,
    sgd,
    staircase,
    text,
)
from noise.trainings import nesterov

entropy = functional.cross_entropy


def spirals(examples: int) -> Data:
    """Points on three spiral arms in the plane, with noise, and their arms."""
    generator = torch.Generator().manual_seed(21)
    labels = torch.randint(3, (examples,), generator=generator)
    along = torch.rand(examples, generator=generator)
    angle = 4 * along + labels * 2.094 + 0.2 * torch.randn(examples, generator=generator)
    return torch.stack([along * angle.sin(), along * angle.cos()], dim=1), labels


def majority(examples: int) -> Data:
    """Fifteen signs, and which sign the first seven have more often."""
    generator = torch.Generator().manual_seed(22)
    signs = torch.randint(2, (examples, 15), generator=generator) * 2.0 - 1
    return signs, (signs[:, :7].sum(dim=1) > 0).long()


def labels_together(examples: int) -> Data:
    """Points in 24 dimensions, each with six labels that are zero or one."""
    generator = torch.Generator().manual_seed(23)
    points = torch.randn(examples, 24, generator=generator)
    odds = points @ torch.randn(24, 6, generator=generator) / 2 - 1
    return points, (torch.rand(examples, 6, generator=generator) < odds.sigmoid()).float()


def counts(examples: int) -> Data:
    """Counts with Poisson's law, whose rate depends on ten inputs."""
    generator = torch.Generator().manual_seed(24)
    points = torch.rand(examples, 10, generator=generator)
    rates = (2 * points[:, :3].sum(dim=1) - 1.5).exp()
    return points, torch.poisson(rates, generator=generator)[:, None]


def rows(examples: int) -> Data:
    """Digits as sequences of eight rows."""
    pictures, labels = images("digits", examples)
    return pictures.reshape(examples, 8, 8), labels


def words(examples: int) -> Data:
    """Twelve characters, and the one after them."""
    letters, following = text(examples, 12)
    return letters, following[:, -1]


def bent(examples: int) -> Data:
    """A bent surface over eight inputs, one output in twenty far off."""
    generator = torch.Generator().manual_seed(25)
    points = torch.randn(examples, 8, generator=generator)
    outputs = (points[:, :2].prod(dim=1) + points[:, 2].sin())[:, None]
    far = (torch.rand(examples, 1, generator=generator) < 0.05).float()
    return points, outputs + far * 10 * torch.randn(examples, 1, generator=generator)


class OverRows(nn.Module):
    """A GRU over the rows of a picture; returns the logits of ten classes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell, self.out = nn.GRU(8, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits, [batch, 10]."""
        return self.out(self.cell(pictures)[0][:, -1])


class Bag(nn.Module):
    """The mean of the embeddings of some symbols, then two linear layers."""

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.symbols = nn.EmbeddingBag(symbols, width)
        self.layers = perceptron(width, 2 * width, symbols)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, [batch, symbols]."""
        return self.layers(self.symbols(tokens))


def lines() -> nn.Module:
    """One-dimensional convolutions over the rows of a picture as channels."""
    return nn.Sequential(
        nn.Conv1d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv1d(16, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def smoothed(outputs: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy with a tenth of the label on all classes."""
    return entropy(outputs, labels, label_smoothing=0.1)


def poisson(outputs: Tensor, seen: Tensor) -> Tensor:
    """The negative log likelihood of counts."""
    return functional.poisson_nll_loss(outputs, seen)


def normed() -> nn.Module:
    """Linear layers with LayerNorm for digits."""
    layers = [nn.Linear(64, 48), nn.LayerNorm(48), nn.GELU(), nn.Linear(48, 32), nn.LayerNorm(32)]
    return nn.Sequential(nn.Flatten(), *layers, nn.GELU(), nn.Linear(32, 10))


BRIEF = {
    "spirals MLP, SGD": Training(
        lambda: spirals(1500),
        lambda: perceptron(2, 32, 32, 3),
        entropy,
        sgd(0.1),
        batch=16,
        steps=800,
    ),
    "majority, AdamW": Training(
        lambda: majority(1600), lambda: perceptron(15, 48, 2), entropy, adamw(2e-3), steps=600
    ),
    "Markov of 8 symbols, transformer, momentum, cosine": Training(
        lambda: markov(1000, 16, 8),
        lambda: Characters(8, 24, 1, 16),
        entropy,
        sgd(0.05, 0.9),
        cosine,
        batch=20,
        steps=600,
        passes=30,
    ),
    "digits rows, convolutions, Nesterov": Training(
        lambda: rows(1400), lines, entropy, nesterov(0.02, 0.9), batch=24, steps=700, passes=35
    ),
    "six labels, AdamW, linear": Training(
        lambda: labels_together(1500),
        lambda: perceptron(24, 40, 6),
        functional.binary_cross_entropy_with_logits,
        adamw(4e-3),
        linear,
        batch=24,
        steps=700,
        passes=35,
    ),
    "digits rows, GRU, AdamW, OneCycle": Training(
        lambda: rows(1200),
        lambda: OverRows(32),
        entropy,
        adamw(5e-3),
        one_cycle,
        batch=32,
        steps=600,
        passes=30,
    ),
    "counts, SGD, staircase": Training(
        lambda: counts(1500),
        lambda: perceptron(10, 24, 1, kind=nn.Tanh),
        poisson,
        sgd(0.03),
        staircase,
        batch=20,
        steps=800,
    ),
    "bag of characters, AdamW, reshuffled": Training(
        lambda: words(1600),
        lambda: Bag(128, 24),
        entropy,
        adamw(3e-3),
        batch=32,
        steps=700,
        reshuffled=True,
        passes=35,
    ),
    "digits LayerNorm, smoothed, SGD, cosine": Training(
        lambda: images("digits", 1300),
        normed,
        smoothed,
        sgd(0.1),
        cosine,
        batch=48,
        steps=700,
        passes=35,
    ),
    "bent surface, Huber, momentum, one over time": Training(
        lambda: bent(1500),
        lambda: perceptron(8, 32, 32, 1),
        functional.huber_loss,
        sgd(0.01, 0.9),
        hyperbola,
        batch=16,
        steps=800,
    ),
}
"""Named before the widths of short runs were looked at, and looked at once."""
