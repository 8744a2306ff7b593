"""Does a part smaller than half of the batch give more information a second? `python benchmarks/smaller_parts.py`

At fixed parameters, over many batches of 128: the gradient of a part of the batch is run, and that of the rest follows
by subtraction. From both come tr Σ and ‖g‖², and their ratio over many readings is the noise scale. A part of B/k costs
its own gradient, in those of a batch, and the reading of norms. The information of a reading is one over the relative
variance of the ratio, by the delta method. Everything is given relative to halves.
"""

import statistics
import time
from collections.abc import Callable

import click
import numpy as np
import torch
from torch import Tensor

from gradiometer import Objective, Problem
from gradiometer.problems import load
from gradiometer.problems.images.fashion_mnist import load as fashion

BATCH, SHARES = 128, (2, 4, 8, 16)
NORMS = 0.08
"""What the reading of norms costs, in gradients of a batch: about that of the CNN."""

CASES: dict[str, tuple[Callable[[], Problem], int]] = {
    "Fashion-MNIST MLP, 100 steps": (lambda: fashion("mlp"), 100),
    "Fashion-MNIST MLP, 2,000 steps": (lambda: fashion("mlp"), 2000),
    "Fashion-MNIST CNN, 300 steps": (lambda: fashion("cnn"), 300),
    "digits MLP, 100 steps": (lambda: load("digits", model="mlp"), 100),
    "digits MLP, 3,000 steps": (lambda: load("digits", model="mlp"), 3000),
}
"""Problems, and the steps before they are measured."""


def trained(problem: Problem, steps: int, draw: torch.Generator) -> Objective:
    """The objective after some steps of SGD with batches of 64."""
    torch.manual_seed(0)
    model = problem.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        chosen = problem.train.batch(torch.randint(len(problem.train), (64,), generator=draw))
        problem.loss(model, chosen).mean().backward()
        optimizer.step()
    return Objective(model, problem.loss)


def readings(problem: Problem, steps: int, draws: int) -> tuple[dict[int, np.ndarray], dict[int, float]]:
    """tr Σ and ‖g‖² of every batch, by the share of the part; and what the part costs, in gradients of a batch."""
    draw = torch.Generator().manual_seed(0)
    objective, made, seconds = trained(problem, steps, draw), {k: [] for k in SHARES}, {k: [] for k in (1, *SHARES)}

    def gradient(rows: Tensor, share: int) -> Tensor:
        began = time.process_time()
        found = objective.gradient(problem.train.batch(rows))
        seconds[share].append(time.process_time() - began)
        return torch.cat([each.reshape(-1) for each in found]).double()

    for _ in range(draws):
        rows = torch.randint(len(problem.train), (BATCH,), generator=draw)
        whole = gradient(rows, 1)
        for share in SHARES:
            size = BATCH // share
            part = gradient(rows[:size], share)
            rest = (BATCH * whole - size * part) / (BATCH - size)
            variance = size * (BATCH - size) / BATCH * float((part - rest).square().sum())
            made[share].append((variance, float(whole.square().sum()) - variance / BATCH))
    unit = statistics.median(seconds[1])
    return {k: np.array(each) for k, each in made.items()}, {k: statistics.median(seconds[k]) / unit for k in SHARES}


def variance_of_ratio(pairs: np.ndarray) -> float:
    """The relative variance of the ratio of one reading to the means, by the delta method."""
    relative = pairs / pairs.mean(axis=0)
    return float((relative[:, 0] - relative[:, 1]).var())


@click.command()
@click.option("--draws", type=click.IntRange(min=20), default=150, show_default=True, help="Batches at each point.")
def main(draws: int) -> None:
    """Does a part smaller than half of the batch give more information a second?"""
    torch.set_num_threads(1)
    for name, (make, steps) in CASES.items():
        found, costs = readings(make(), steps, draws)
        halves = variance_of_ratio(found[2]) * (costs[2] + NORMS)
        for share in SHARES:
            spread = variance_of_ratio(found[share])
            gain = halves / (spread * (costs[share] + NORMS))
            print(
                f"{name}, B/{share}: cost {costs[share]:.2f}, variance {spread:.2f}, information a second {gain:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
