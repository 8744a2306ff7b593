"""The four networks of `horizons.py`, two of them with AdamW, each in the middle of
its training."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer import supervised
from gradiometer.measurement import Batch
from gradiometer.measurement.objective import Loss
from gradiometer.problems import load

EARLY = 150
"""Updates before the fork, at a constant rate."""

SYMBOLS, LENGTH, WIDTH = 12, 16, 24
INPUTS, NOISE = 12, 0.5
WRONG = 0.1


@dataclass(frozen=True)
class Network:
    """A network with its data, its optimizer and about the best rate for the rest of its training.

    Args:
        name: Its name in the table.
        model: Makes the model.
        data: Training examples and test examples, as tensors.
        loss: Its loss, one value per example.
        optimizer: Makes the optimizer from parameters and rate.
        rate: The rate before the fork.
        batch_size: Examples in an update.
        rest: Updates after the fork.
    """

    name: str
    model: Callable[[], nn.Module]
    data: Callable[[], tuple[Any, Any]]
    loss: Loss
    optimizer: Callable[..., torch.optim.Optimizer]
    rate: float
    batch_size: int
    rest: int

    def started(
        self, seed: int, updates: int = EARLY
    ) -> tuple[nn.Module, torch.optim.Optimizer, Any, Any]:
        """Model and optimizer after the first updates, training examples and test examples."""
        train, test = self.data()
        torch.manual_seed(seed)
        model = self.model()
        optimizer = self.optimizer(model.parameters(), lr=self.rate)
        count = len(train[0] if isinstance(train, tuple) else train)
        for _ in range(updates):
            chosen = torch.randint(count, (self.batch_size,))
            batch = (
                tuple(part[chosen] for part in train) if isinstance(train, tuple) else train[chosen]
            )
            optimizer.zero_grad()
            self.loss(model, batch).mean().backward()
            optimizer.step()
        return model, optimizer, train, test


class Symbols(nn.Module):
    """A transformer of one block that predicts the next symbol."""

    def __init__(self) -> None:
        super().__init__()
        self.symbol = nn.Embedding(SYMBOLS, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mixed, self.joined = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, SYMBOLS)

    def forward(self, symbols: Tensor) -> Tensor:
        """The logits of the next symbol at every place."""
        hidden = self.symbol(symbols) + self.place
        queries, keys, values = self.mixed(self.first(hidden)).chunk(3, dim=-1)
        hidden = hidden + self.joined(
            nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        )
        hidden = hidden + self.narrow(nn.functional.gelu(self.wide(self.second(hidden))))
        logits: Tensor = self.head(hidden)
        return logits


def next_symbol(model: nn.Module, batch: Batch) -> Tensor:
    """The mean cross-entropy of a sequence, in nats."""
    logits = model(batch[:, :-1])
    return nn.functional.cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none").mean(
        1
    )


def _sequences() -> tuple[Tensor, Tensor]:
    """Sequences in which a symbol depends on the two before it."""
    generator = torch.Generator().manual_seed(0)
    once, twice = (
        torch.randn(SYMBOLS, SYMBOLS, generator=generator),
        torch.randn((SYMBOLS,) * 3, generator=generator),
    )
    table = torch.softmax(2 * once + twice, dim=-1)
    drawn = torch.zeros(12_000, LENGTH + 1, dtype=torch.long)
    drawn[:, :2] = torch.randint(SYMBOLS, (len(drawn), 2), generator=generator)
    for place in range(2, LENGTH + 1):
        drawn[:, place] = torch.multinomial(
            table[drawn[:, place - 2], drawn[:, place - 1]], 1, generator=generator
        ).squeeze(1)
    return drawn[:10_000], drawn[10_000:]


def _taught() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Numbers from a random network of two layers, with noise."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(24_000, INPUTS, generator=generator)
    first = torch.randn(INPUTS, 32, generator=generator) / math.sqrt(INPUTS)
    second = torch.randn(32, generator=generator) / math.sqrt(8)
    targets = torch.tanh(2 * inputs @ first) @ second + NOISE * torch.randn(
        len(inputs), generator=generator
    )
    return (inputs[:20_000], targets[:20_000]), (inputs[20_000:], targets[20_000:])


def _mislabelled() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The digits, with a tenth of the labels drawn at random."""
    problem, generator = load("digits", model="mlp"), torch.Generator().manual_seed(2)
    assert problem.test is not None
    parts = []
    for images, labels in (problem.train.data, problem.test.data):
        wrong = torch.rand(len(labels), generator=generator) < WRONG
        parts.append(
            (
                images,
                torch.where(wrong, torch.randint(10, labels.shape, generator=generator), labels),
            )
        )
    return parts[0], parts[1]


def _normed() -> nn.Module:
    return nn.Sequential(
        nn.Linear(INPUTS, 48),
        nn.LayerNorm(48),
        nn.GELU(),
        nn.Linear(48, 48),
        nn.LayerNorm(48),
        nn.GELU(),
        nn.Linear(48, 1),
        nn.Flatten(0),
    )


CLASSES, NUMBERS = (
    supervised(kind(reduction="none")) for kind in (nn.CrossEntropyLoss, nn.MSELoss)
)
ADAMW = partial(torch.optim.AdamW, betas=(0.9, 0.95), weight_decay=0.1)

NETWORKS = (
    Network(
        "MLP, SGD with momentum",
        lambda: load("digits", model="mlp").model(),
        _mislabelled,
        CLASSES,
        partial(torch.optim.SGD, momentum=0.9),
        rate=0.1,
        batch_size=32,
        rest=500,
    ),
    Network(
        "CNN, SGD",
        lambda: load("digits", model="cnn").model(),
        _mislabelled,
        CLASSES,
        torch.optim.SGD,
        rate=0.2,
        batch_size=16,
        rest=300,
    ),
    Network(
        "MLP with LayerNorm, AdamW",
        _normed,
        _taught,
        NUMBERS,
        ADAMW,
        rate=8e-3,
        batch_size=32,
        rest=300,
    ),
    Network(
        "transformer, AdamW",
        Symbols,
        _sequences,
        next_symbol,
        ADAMW,
        rate=16e-3,
        batch_size=16,
        rest=300,
    ),
)
