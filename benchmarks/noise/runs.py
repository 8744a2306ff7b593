"""Trained networks whose gradient noise is read at every step, and known from full passes along the
run."""

import math
import pydoc_data.topics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gradiometer.problems import load

NORMS_PER_PASS = 2
"""‖g‖² jumps from step to step, so it is known twice as often as tr Σ, which does not."""
LARGE_CHUNK = 250
"""Examples of one backward pass for ‖g‖² alone."""
SHARPNESS_BATCHES = 96
"""Batches behind the true batch sharpness at each pass."""

Data = tuple[Tensor, Tensor]


class Characters(nn.Module):
    """A causal transformer over characters or symbols; returns the logits of the next one."""

    def __init__(self, symbols: int, width: int, blocks: int, length: int) -> None:
        super().__init__()
        self.symbols, self.places = (
            nn.Embedding(symbols, width),
            nn.Parameter(0.02 * torch.randn(length, width)),
        )
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(blocks)
        )
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, symbols)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, [batch, symbols, length] as the cross entropy takes them."""
        hidden = self.symbols(tokens) + self.places
        for block in self.blocks:
            hidden = block(hidden, src_mask=self.mask)
        return self.out(self.norm(hidden)).transpose(1, 2)


class Recurrent(nn.Module):
    """A GRU over symbols; returns the logits of the next one."""

    def __init__(self, symbols: int, width: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, width)
        self.cell, self.out = nn.GRU(width, width, batch_first=True), nn.Linear(width, symbols)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, [batch, symbols, length]."""
        return self.out(self.cell(self.symbols(tokens))[0]).transpose(1, 2)


def perceptron(*widths: int, kind: type[nn.Module] = nn.ReLU) -> nn.Module:
    """Linear layers of these widths with a nonlinearity between."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), kind()]
    return nn.Sequential(*layers[:-1])


def convolutions(*channels: int, features: int, norm: bool = False) -> nn.Module:
    """Convolutions of stride 2, then one linear layer to 10 classes."""
    layers: list[nn.Module] = []
    for before, after in pairwise((1, *channels)):
        layers += [
            nn.Conv2d(before, after, 3, stride=2, padding=1),
            *([nn.GroupNorm(4, after)] if norm else []),
        ]
        layers += [nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 10))


def images(name: str, examples: int) -> Data:
    """The first training images of a problem that ships, and their labels."""
    pictures, labels = load(name, model="mlp", data_dir=None, seed=0).train.batch(
        torch.arange(examples)
    )
    return pictures.reshape(
        examples, 1, *((28, 28) if pictures[0].numel() == 784 else (8, 8))
    ), labels


def itself(examples: int) -> Data:
    """Digits, with the pictures as the targets of an autoencoder."""
    pictures, _ = images("digits", examples)
    return pictures, pictures.flatten(1)


def text(examples: int, length: int) -> Data:
    """Stretches of Python's own help texts, as characters below 128, and the same one character
    later."""
    letters = "".join(pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    codes = torch.tensor([min(ord(letter), 127) for letter in letters])
    return _stretches(codes, examples, length)


def markov(examples: int, length: int, symbols: int = 24) -> Data:
    """Symbols drawn by a random chain of the second order."""
    rng = np.random.default_rng(0)
    odds = rng.dirichlet(np.full(symbols, 0.15), size=(symbols, symbols)).cumsum(axis=-1)
    draws, chain = rng.random(examples * length + 1), [0, 1]
    for draw in draws:
        chain.append(min(int(np.searchsorted(odds[chain[-2], chain[-1]], draw)), symbols - 1))
    return _stretches(torch.tensor(chain), examples, length)


def _stretches(codes: Tensor, examples: int, length: int) -> Data:
    starts = torch.arange(examples)[:, None] * length + torch.arange(length)
    return codes[starts], codes[starts + 1]


def teacher(examples: int, inputs: int) -> Data:
    """Gaussian inputs with the outputs of a fixed random network, with noise."""
    generator = torch.Generator().manual_seed(5)
    points = torch.randn(examples, inputs, generator=generator)
    hidden = torch.tanh(points @ torch.randn(inputs, 20, generator=generator) / 2)
    outputs = hidden @ torch.randn(20, 1, generator=generator)
    return points, outputs + 0.3 * torch.randn(examples, 1, generator=generator)


Optimizer = Callable[[list[Tensor]], torch.optim.Optimizer]
Schedule = Callable[[float], float]


def sgd(rate: float, momentum: float = 0.0) -> Optimizer:
    """SGD, with the heavy ball if there is momentum."""
    return lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=momentum)


def adamw(rate: float) -> Optimizer:
    """AdamW with torch's defaults."""
    return lambda parameters: torch.optim.AdamW(parameters, lr=rate)


def constant(share: float) -> float:
    """The rate as a factor, at this share of the run."""
    return 1.0


def cosine(share: float) -> float:
    """Linear over the first 5 %, then half a cosine to 1 %."""
    return (
        share / 0.05
        if share < 0.05
        else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (share - 0.05) / 0.95))
    )


def one_cycle(share: float) -> float:
    """Up by a cosine over 30 % from a 25th, then down to nearly zero."""
    if share < 0.3:
        return 1 + (1 / 25 - 1) * 0.5 * (1 + math.cos(math.pi * share / 0.3))
    return 1e-3 + (1 - 1e-3) * 0.5 * (1 + math.cos(math.pi * (share - 0.3) / 0.7))


def drop(at: float, factor: float) -> Schedule:
    """One cut of the rate."""
    return lambda share: factor if share >= at else 1.0


def staircase(share: float) -> float:
    """Three cuts of the rate to a third each, at 30, 55 and 75 %."""
    return 3.0 ** -sum(share >= at for at in (0.3, 0.55, 0.75))


def linear(share: float) -> float:
    """Linear over the first 10 %, then linear down to nearly zero."""
    return share / 0.1 if share < 0.1 else max((1 - share) / 0.9, 1e-3)


def hyperbola(share: float) -> float:
    """In proportion to one over the time, after the first tenth of the run."""
    return 1 / (1 + 10 * share)


@dataclass(frozen=True)
class Network:
    """One training: data, model, loss, optimizer, schedule, and how it is read.

    Args:
        data: Makes inputs and targets.
        model: Makes the network.
        loss: Mean loss of a batch.
        optimizer: Makes the optimizer of the parameters.
        schedule: Factor of the rate at a share of the run.
        batch: Examples a step.
        steps: Steps of the run.
        reshuffled: Draw every epoch without replacement.
        sharpness: Read the batch sharpness too, at every second step.
        chunk: Examples of one backward pass in a full pass that gives tr Σ.
        passes: Full passes along the run that give tr Σ.
    """

    data: Callable[[], Data]
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Optimizer
    schedule: Schedule = constant
    batch: int = 32
    steps: int = 1200
    reshuffled: bool = False
    sharpness: bool = False
    chunk: int = 25
    passes: int = 60


def recorded(name: str, network: Network, cache: Path) -> dict[str, np.ndarray]:
    """The readings and the truth of a run: trained once, then kept in the cache."""
    file = cache / f"{name}.npz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(file.with_suffix(".part.npz"), **Recording(network).run())
        file.with_suffix(".part.npz").rename(file)
    with np.load(file) as kept:
        return dict(kept)


class Recording:
    """Trains a network with a reading at every step and full passes along the run."""

    def __init__(self, network: Network) -> None:
        torch.manual_seed(0)
        self.network, (self.inputs, self.targets) = network, network.data()
        self.model = network.model()
        self.parameters = list(self.model.parameters())
        self.optimizer = network.optimizer(self.parameters)
        self.peak = float(self.optimizer.param_groups[0]["lr"])

    def run(self) -> dict[str, np.ndarray]:
        """Readings [steps], truths [passes], and more truths of ‖g‖² alone [norms]."""
        network, order = self.network, self._order()
        readings, sharpness, truths, norms = [], [], [], []
        every = network.steps // network.passes
        often = max(every // NORMS_PER_PASS, 1)
        for step in range(network.steps):
            rate = self.peak * network.schedule(step / network.steps)
            self.optimizer.param_groups[0]["lr"] = rate
            chosen = next(order)
            if network.sharpness and step % 2 == 0:
                sharpness.append((step, *self.curvature(chosen)))
            readings.append((step, rate, *self.step(chosen)))
            if step % every == every - 1:
                truths.append((step, *self.full_pass()))
            if step % often == often - 1:
                norms.append((step, self.norm_squared()))
        size = np.array([sum(p.numel() for p in self.parameters), network.batch, len(self.inputs)])
        return {
            "readings": np.array(readings),
            "sharpness": np.array(sharpness),
            "truths": np.array(truths),
            "norms": np.array(norms),
            "size": size,
        }

    def step(self, chosen: Tensor) -> tuple[float, float]:
        """One update; tr Σ and ‖g‖² from its two halves, both about the gradient of the training
        set."""
        half = len(chosen) // 2
        one, two = self.gradient(chosen[:half]), self.gradient(chosen[half:])
        distance = sum(float((a - b).square().sum()) for a, b in zip(one, two, strict=True))
        product = sum(float((a * b).sum()) for a, b in zip(one, two, strict=True))
        for parameter, a, b in zip(self.parameters, one, two, strict=True):
            parameter.grad = (a + b) / 2
        self.optimizer.step()
        variance = half * distance / 2
        return variance, product + (variance / len(self.inputs) if self.network.reshuffled else 0.0)

    def gradient(self, chosen: Tensor, graph: bool = False) -> tuple[Tensor, ...]:
        """The gradient of these examples' mean loss."""
        loss = self.network.loss(self.model(self.inputs[chosen]), self.targets[chosen])
        return torch.autograd.grad(loss, self.parameters, create_graph=graph)

    def curvature(self, chosen: Tensor) -> tuple[float, float]:
        """ĝᵀH_Bĝ and ‖ĝ‖² of one batch."""
        gradient = self.gradient(chosen, graph=True)
        fixed = [g.detach() for g in gradient]
        image = torch.autograd.grad(gradient, self.parameters, grad_outputs=fixed)
        curvature = sum(float((g * h).sum()) for g, h in zip(fixed, image, strict=True))
        return curvature, sum(float(g.square().sum()) for g in fixed)

    def norm_squared(self) -> float:
        """‖g‖² over all examples."""
        total = [torch.zeros_like(parameter) for parameter in self.parameters]
        for chosen in torch.arange(len(self.inputs)).split(LARGE_CHUNK):
            for summed, g in zip(total, self.gradient(chosen), strict=True):
                summed.add_(g, alpha=len(chosen) / len(self.inputs))
        return sum(float(g.square().sum()) for g in total)

    def full_pass(self) -> tuple[float, float, float]:
        """tr Σ and ‖g‖² over all examples, and the batch sharpness over many batches (or NaN)."""
        shuffled = torch.randperm(len(self.inputs), generator=torch.Generator().manual_seed(1))
        chunks = shuffled.split(self.network.chunk)
        total, squares = [torch.zeros_like(p) for p in self.parameters], 0.0
        for chosen in chunks:
            gradient = self.gradient(chosen)
            squares += sum(float(g.square().sum()) for g in gradient)
            for summed, g in zip(total, gradient, strict=True):
                summed.add_(g, alpha=1 / len(chunks))
        norm = sum(float(g.square().sum()) for g in total)
        count = len(chunks)
        variance = self.network.chunk * (squares - count * norm) / (count - 1)
        if not self.network.sharpness:
            return variance, norm, math.nan
        batches = torch.randint(
            len(self.inputs),
            (SHARPNESS_BATCHES, self.network.batch),
            generator=torch.Generator().manual_seed(2),
        )
        pairs = np.array([self.curvature(chosen) for chosen in batches])
        return variance, norm, float(pairs[:, 0].sum() / pairs[:, 1].sum())

    def _order(self) -> Iterator[Tensor]:
        generator, count, batch = (
            torch.Generator().manual_seed(3),
            len(self.inputs),
            self.network.batch,
        )
        while True:
            if not self.network.reshuffled:
                yield torch.randint(count, (batch,), generator=generator)
            else:
                shuffled = torch.randperm(count, generator=generator)
                yield from shuffled[: count - count % batch].split(batch)
