"""Is the batch sharpness from two slopes that of a product with the Hessian?

    .venv/bin/python benchmarks/slopes.py              # the judging trainings, two minutes
    .venv/bin/python benchmarks/slopes.py --choosing   # those on which the distance was chosen

Every fifth of 60 updates a batch is read by both. *ratio* is the sum of the curvatures from slopes
over that of the products, as the gauge takes a ratio of means; *one* is the standard deviation of
the relative error of one batch. The columns are for a tenth of the distance that is used, for that
distance, and for ten times as much. *time* is that of the slopes over that of the product, with the
gradient of each, interleaved. Losses that bend, as with ReLU, are refused by the gauge; their rows
are what slopes would have given.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import torch
from costs.memory import GPT
from noise.runs import (
    Characters,
    Data,
    Optimizer,
    Recurrent,
    adamw,
    convolutions,
    images,
    markov,
    perceptron,
    sgd,
    teacher,
    text,
)
from torch import Tensor, nn
from torch.nn import functional

from gradiometer import Objective
from gradiometer.measurement import slopes
from gradiometer.measurement.gradient_graph import GradientGraph
from gradiometer.measurement.parts import inner_products
from gradiometer.measurement.preconditioner import is_adaptive, preconditioner_of
from gradiometer.measurement.slopes import SHARE, own_curvature

UPDATES, EVERY, BATCH = 60, 5, 64
DISTANCES = (0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Trained:
    """A training.

    Args:
        data: Makes inputs and targets.
        model: Makes the network.
        optimizer: Makes the optimizer.
        loss: The loss of every example.
    """

    data: Callable[[], Data]
    model: Callable[[], nn.Module]
    optimizer: Optimizer
    loss: Callable[..., Tensor] = functional.cross_entropy


def fashion() -> Data:
    """Pictures of Fashion-MNIST."""
    return images("fashion-mnist", 4000)


def smooth(*channels: int, features: int) -> nn.Module:
    """Convolutions with group normalisation and SiLU in place of ReLU."""
    model = convolutions(*channels, features=features, norm=True)
    for place, layer in enumerate(model):
        if isinstance(layer, nn.ReLU):
            model[place] = nn.SiLU()
    return model


class Gelu(nn.Module):
    """The transformer of the benchmark of memory, which has GELU; returns logits [examples,
    symbols, positions]."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.model = GPT(width, blocks)

    def forward(self, symbols: Tensor) -> Tensor:
        """The logits of the next symbols."""
        return torch.as_tensor(self.model(symbols)).transpose(1, 2)


CHOOSING = {
    "MLP, ReLU, SGD": Trained(fashion, lambda: perceptron(784, 256, 128, 10), sgd(0.1)),
    "MLP, GELU, SGD": Trained(
        fashion, lambda: perceptron(784, 256, 128, 10, kind=nn.GELU), sgd(0.1)
    ),
    "transformer, text, AdamW": Trained(
        lambda: text(2000, 32), lambda: Characters(128, 64, 2, 32), adamw(2e-3)
    ),
    "GRU, text, SGD": Trained(lambda: text(2000, 32), lambda: Recurrent(128, 64), sgd(0.5)),
}
JUDGING = {
    "MLP of 1.3 million, ReLU, SGD": Trained(
        fashion, lambda: perceptron(784, 1024, 512, 10), sgd(0.1)
    ),
    "MLP of 1.3 million, tanh, momentum": Trained(
        fashion, lambda: perceptron(784, 1024, 512, 10, kind=nn.Tanh), sgd(0.02, 0.9)
    ),
    "CNN, SiLU, group norm, AdamW": Trained(
        fashion, lambda: smooth(16, 32, features=1568), adamw(2e-3)
    ),
    "CNN, SiLU, group norm, momentum": Trained(
        fashion, lambda: smooth(16, 32, features=1568), sgd(0.05, 0.9)
    ),
    "transformer, ReLU, symbols, SGD": Trained(
        lambda: markov(2000, 32), lambda: Characters(24, 64, 3, 32), sgd(0.2)
    ),
    "transformer of 0.8 million, GELU, text, AdamW": Trained(
        lambda: text(2000, 32), lambda: Gelu(128, 4), adamw(1e-3)
    ),
    "transformer, GELU, text, SGD": Trained(lambda: text(2000, 32), lambda: Gelu(64, 2), sgd(0.2)),
    "GRU, symbols, AdamW": Trained(
        lambda: markov(2000, 32), lambda: Recurrent(24, 96), adamw(3e-3)
    ),
    "MLP, softplus, regression, AdamW": Trained(
        lambda: teacher(4000, 20),
        lambda: perceptron(20, 128, 64, 1, kind=nn.Softplus),
        adamw(3e-3),
        functional.mse_loss,
    ),
}


def row_of(name: str, training: Trained) -> str:
    """Train, read some batches by both ways, and print what they say."""
    torch.manual_seed(0)
    inputs, targets = training.data()
    model = training.model()
    optimizer = training.optimizer(model.parameters())

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        values = training.loss(model(batch[0]), batch[1], reduction="none")
        return values.flatten(1).mean(1) if values.dim() > 1 else values

    objective = Objective(model, loss)
    exact: list[float] = []
    found: list[list[float]] = []
    times: list[float] = []
    is_smooth = True
    for update in range(1, UPDATES + 1):
        drawn = torch.randint(len(inputs), (BATCH,))
        batch = inputs[drawn], targets[drawn]
        optimizer.zero_grad()
        value = loss(model, batch).mean()
        is_smooth = not slopes.bends(value)
        value.backward()
        if update % EVERY == 0:
            factors = (
                preconditioner_of(optimizer, objective.parameters)
                if is_adaptive(optimizer)
                else None
            )
            start = time.perf_counter()
            exact.append(product(objective, batch, factors))
            middle = time.perf_counter()
            found.append([along(objective, batch, factors, share) for share in DISTANCES])
            end = time.perf_counter()
            times.append((end - middle) / len(DISTANCES) / (middle - start))
        optimizer.step()
    truth, readings = np.array(exact)[:, None], np.array(found)
    ratios = readings.sum(0) / truth.sum()
    errors = np.std(readings / truth - 1, axis=0)
    cells = " | ".join(f"{a:.4f}, {b:.4f}" for a, b in zip(ratios, errors, strict=True))
    kind = "smooth" if is_smooth else "bends"
    return (
        f"| {name} | {objective.dimension:,} | {kind} | {cells} | {statistics.median(times):.2f} |"
    )


def product(objective: Objective, batch: object, factors: list[Tensor] | None) -> float:
    """The curvature along the gradient by a product with the Hessian."""
    graph = GradientGraph(objective, batch)
    direction = graph.gradients
    if factors is not None:
        direction = [one * factor for one, factor in zip(direction, factors, strict=True)]
    return float(inner_products(direction, graph.product(direction)).sum())


def along(objective: Objective, batch: object, factors: list[Tensor] | None, share: float) -> float:
    """The same by slopes, at a distance in units of the one that is used, also where they bend."""
    with (
        patch.object(slopes, "SHARE", SHARE * share),
        patch.object(slopes, "bends", lambda loss: False),
    ):
        read = own_curvature(objective, batch, None if factors is None else list(factors))
    return float("nan") if read is None else read.along


def main() -> None:
    """Print a row for each training."""
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    arguments.add_argument("--choosing", action="store_true")
    torch.set_num_threads(1)
    print("| training | parameters | loss | a tenth: ratio, one | used | ten times | time |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, training in (CHOOSING if arguments.parse_args().choosing else JUDGING).items():
        print(row_of(name, training), flush=True)


if __name__ == "__main__":
    main()
