"""What some of the entries of a gradient add to the noise of a product of two."""

import pydoc_data.topics
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional

from gradiometer.integrations import gradients
from gradiometer.integrations.gradients import LastGradient
from noise.larger import Memory
from noise.runs import Characters, Data, Optimizer, adamw, convolutions, images, perceptron, sgd
from noise.runs import text as characters_of_text

BATCHES = 24
"""Gradients at fixed parameters; all their pairs give the noise of a product."""

COUNTS = (2**13, 2**15, 2**17, 2**20, 2**21)
"""Entries that are asked for. Small tensors are kept as a whole, so there may be more."""

DRAWS = 8
"""The error is averaged over so many draws of the entries."""

VOCABULARY, CONTEXT, CLASSES = 50_000, 8, 1000


@dataclass(frozen=True)
class Network:
    """A network on data, and how long it was trained before it is looked at.

    Args:
        data: Makes inputs and targets.
        model: Makes the network.
        optimizer: Makes the optimizer of the parameters.
        updates: Updates before the gradients are taken.
        batch: Examples of each gradient.
    """

    data: Callable[[], Data]
    model: Callable[[], nn.Module]
    optimizer: Optimizer
    updates: int = 100
    batch: int = 64


class BagOfWords(nn.Module):
    """The next word from the mean of the vectors of those before it."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.hidden, self.out = nn.Linear(width, width), nn.Linear(width, words)

    def forward(self, context: Tensor) -> Tensor:
        """Logits, [batch, words]."""
        return self.out(torch.tanh(self.hidden(self.words(context).mean(1))))


def words() -> Data:
    """Stretches of Python's own help texts, as ranks of their words, and the word after each."""
    found = re.findall(r"\w+|[^\w\s]", " ".join(pydoc_data.topics.topics.values()))
    ranks = {word: rank for rank, (word, _) in enumerate(Counter(found).most_common(VOCABULARY))}
    codes = torch.tensor([ranks[word] for word in found])
    stretches = codes.unfold(0, CONTEXT + 1, 3)
    return stretches[:, :-1], stretches[:, -1]


def many_groups(examples: int = 20_000) -> Data:
    """Points of a thousand Gaussian groups that overlap, and their groups."""
    generator = torch.Generator().manual_seed(21)
    centres = torch.randn(CLASSES, 128, generator=generator)
    labels = torch.randint(CLASSES, (examples,), generator=generator)
    return centres[labels] + 2 * torch.randn(examples, 128, generator=generator), labels


def fashion() -> Data:
    """Pictures of Fashion-MNIST."""
    return images("fashion-mnist", 4000)


CHOOSING = {
    "MLP of 1.3 million, SGD": Network(fashion, lambda: perceptron(784, 1024, 512, 10), sgd(0.1)),
    "CNN of 0.6 million, momentum": Network(
        fashion, lambda: convolutions(128, 448, features=448 * 49), sgd(0.02, 0.9), updates=60
    ),
}
"""With these the number of entries was chosen."""

JUDGING = {
    "transformer of 1.6 million, AdamW": Network(
        lambda: characters_of_text(2000, 32),
        lambda: Characters(128, 256, 2, 32),
        adamw(1e-3),
        updates=40,
        batch=16,
    ),
    "LSTM of 1.2 million, momentum": Network(
        lambda: characters_of_text(2000, 32), lambda: Memory(128, 360), sgd(0.3, 0.9), batch=16
    ),
    "MLP of 20 million, SGD": Network(
        fashion, lambda: perceptron(784, 4096, 3900, 192, 10), sgd(0.05), updates=30
    ),
    "words, 50,000 rows, AdamW": Network(
        words, lambda: BagOfWords(VOCABULARY, 64), adamw(1e-3), updates=60, batch=32
    ),
    "words, 50,000 rows, SGD": Network(
        words, lambda: BagOfWords(VOCABULARY, 64), sgd(0.5), updates=60, batch=32
    ),
    "a thousand classes, AdamW": Network(
        many_groups, lambda: perceptron(128, 1024, 1024, CLASSES), adamw(1e-3)
    ),
}
"""These judged it. On words a million was too few, and two million were chosen after that."""


def added(network: Network) -> Iterator[tuple[int, int, float, float]]:
    """For each number of entries: that of the parameters, that of the entries, the standard
    deviation that they add to a product over the one that it has, and the mean error over its
    standard error."""
    torch.manual_seed(0)
    inputs, targets = network.data()
    model = network.model()
    parameters = list(model.parameters())
    optimizer = network.optimizer(parameters)
    generator = torch.Generator().manual_seed(1)

    def differentiate() -> None:
        chosen = torch.randint(len(inputs), (network.batch,), generator=generator)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()

    for _ in range(network.updates):
        differentiate()
        optimizer.step()
    sampled = []
    for _ in range(BATCHES):
        differentiate()
        sampled.append([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
    table = _products(sampled)
    pairs = table[torch.triu_indices(BATCHES, BATCHES, 1).unbind()]
    noise = float(pairs.std())
    exact = table.diagonal(1)
    for count in COUNTS:
        with mock.patch.object(gradients, "ENTRIES", count):
            last = LastGradient(parameters, [], None)
            if not last.draws_entries:
                continue
            errors = [_estimated(last, sampled, first=1000 * draw) - exact for draw in range(DRAWS)]
            off = torch.stack(errors)
            # those of one pair have the gradients in common, and no draw
            standard_error = float(off.square().mean().sqrt()) / off.numel() ** 0.5
            yield (
                sum(one.numel() for one in parameters),
                len(last.empty()),
                float(off.square().mean().sqrt()) / noise,
                float(off.mean()) / standard_error,
            )


def _products(sampled: list[list[Tensor]]) -> Tensor:
    """All products, in double precision."""
    total = torch.zeros(BATCHES, BATCHES, dtype=torch.float64)
    for place in range(len(sampled[0])):
        rows = torch.stack([one[place].reshape(-1) for one in sampled])
        for piece in rows.split(2**18, dim=1):
            wide = piece.double()
            total += wide @ wide.T
    return total


def _estimated(last: LastGradient, sampled: list[list[Tensor]], *, first: int) -> Tensor:
    """The products of successive gradients, as a watched loop has them."""
    found = []
    for step, each in enumerate(sampled, first):
        for parameter, gradient in zip(last.parameters, each, strict=True):
            parameter.grad = gradient
        product = last.take(step).product
        if product is not None:
            found.append(float(product))
    last.free()
    return torch.tensor(found, dtype=torch.float64)
