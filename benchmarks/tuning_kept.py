"""Ten tasks of other kinds than those of `tuning_problems.py`, gridded and judged once.

    .venv/bin/python benchmarks/tuning_kept.py --out kept.jsonl

Tables whose columns differ by 10^4, likelihoods that cross zero, ratings as products of factors, a
variational autoencoder, a recurrent network, a residual network with BatchNorm, mixtures, counts,
2,000 updates and 100. The grid has 13 rates a factor of 2 apart, linear and cosine to zero, SGD
with Nesterov momentum 0.9. Ends are in percent above
the mean of its best over three seeds, over the floor: 0 for losses that cannot be lower, and
elsewhere the loss of the best training three times as long.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from now_runs import images, perceptron
from torch import Tensor, nn
from torch.nn import functional
from tuning_networks import Residual, entropy, squared
from tuning_problems import Cell
from tuning_runs import SHAPES, End, stacked, tuned

from gradiometer.problems import Examples
from tuning import COARSE, COARSE_SEED, EACH_WAY, SEEDS, Grid, finite, grid_of

COUNT, HELD_OUT = 2048, 1000


def cell(
    name: str,
    data: tuple[Tensor, Tensor],
    network: Callable[[], nn.Module],
    loss: Callable[[nn.Module, Any], Tensor],
    steps: int = 300,
    batch: int = 32,
) -> Cell:
    """A task from its examples, of which the last are held out."""

    def model(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return network()

    inputs, targets = data
    train = Examples((inputs[:-HELD_OUT], targets[:-HELD_OUT]))
    test = Examples((inputs[-HELD_OUT:], targets[-HELD_OUT:]))
    return Cell(name, model, loss, train, test, steps, batch)


def generator(seed: int) -> torch.Generator:
    """A generator of a task."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, by: torch.Generator) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=by)


def table() -> Cell:
    """A table of 12 columns of sizes from 0.01 to 100, and a smooth function of the standardised
    ones with noise."""
    by = generator(201)
    plain = normal(COUNT + HELD_OUT, 12, by=by)
    hidden = torch.tanh(plain @ normal(12, 16, by=by) / 3)
    targets = hidden @ normal(16, 1, by=by) + 0.5 * normal(COUNT + HELD_OUT, 1, by=by)
    return cell(
        "table of unequal columns",
        (plain * torch.logspace(-2, 2, 12), targets),
        lambda: perceptron(12, 32, 32, 1),
        lambda model, batch: squared(model(batch[0]), batch[1]),
    )


def likelihood() -> Cell:
    """A Gaussian with a mean and a log standard deviation that depend on the inputs: the likelihood
    crosses zero."""
    by = generator(202)
    inputs = normal(COUNT + HELD_OUT, 6, by=by)
    spread = 0.05 + 0.3 * inputs[:, :1].abs()
    targets = (inputs[:, 1:2] * inputs[:, 2:3]).sin() * 0.5 + spread * normal(
        COUNT + HELD_OUT, 1, by=by
    )

    def loss(model: nn.Module, batch: Any) -> Tensor:
        mean, log = model(batch[0]).chunk(2, dim=1)
        return (log + (batch[1] - mean).square() * (-2 * log).exp() / 2).squeeze(1)

    return cell(
        "likelihood of a Gaussian",
        (inputs, targets),
        lambda: perceptron(6, 40, 40, 2, kind=nn.Tanh),
        loss,
    )


class Factors(nn.Module):
    """A rating as the product of a person's and a film's factors."""

    def __init__(self) -> None:
        super().__init__()
        self.people = nn.Parameter(0.1 * torch.randn(120, 6))
        self.films = nn.Parameter(0.1 * torch.randn(80, 6))

    def forward(self, pairs: Tensor) -> Tensor:
        """The ratings of pairs."""
        people = functional.one_hot(pairs[:, 0], 120).to(self.people.dtype) @ self.people
        films = functional.one_hot(pairs[:, 1], 80).to(self.films.dtype) @ self.films
        return (people * films).sum(1, keepdim=True)


def ratings() -> Cell:
    """Ratings of 80 films by 120 people, of four hidden tastes, with noise."""
    by = generator(203)
    pairs = torch.stack(
        [torch.randint(n, (COUNT + HELD_OUT,), generator=by) for n in (120, 80)], dim=1
    )
    truth = (normal(120, 4, by=by)[pairs[:, 0]] * normal(80, 4, by=by)[pairs[:, 1]]).sum(
        1, keepdim=True
    )
    targets = truth + 0.5 * normal(COUNT + HELD_OUT, 1, by=by)
    return cell(
        "factors of ratings",
        (pairs, targets),
        Factors,
        lambda model, batch: squared(model(batch[0]), batch[1]),
        steps=600,
    )


def variational() -> Cell:
    """A variational autoencoder of digits; the noise of an example comes with it."""
    pictures, _ = images("digits", 1400)
    inputs = torch.cat([pictures.flatten(1), normal(1400, 5, by=generator(204))], dim=1)

    class Auto(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = perceptron(64, 48, 10), perceptron(5, 48, 64)

        def forward(self, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mean, log = self.into(given[:, :64]).chunk(2, dim=1)
            return self.out(mean + log.exp() * given[:, 64:]), mean, log

    def loss(model: nn.Module, batch: Any) -> Tensor:
        seen, mean, log = model(batch[0])
        distance = (mean.square() + (2 * log).exp() - 1 - 2 * log).sum(1) / 2
        return 5 * (seen - batch[0][:, :64]).square().sum(1) + distance

    return replace(
        cell("variational autoencoder", (inputs, inputs), Auto, loss, steps=400), steps=400
    )


class Recurrent(nn.Module):
    """A plain recurrent network, and one linear layer on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.back, self.out = (
            nn.Linear(2, 24),
            nn.Linear(24, 24, bias=False),
            nn.Linear(24, 1),
        )
        nn.init.orthogonal_(self.back.weight)

    def forward(self, stretches: Tensor) -> Tensor:
        """The outputs."""
        state = torch.zeros(len(stretches), 24)
        for step in range(stretches.shape[1]):
            state = torch.tanh(self.into(stretches[:, step]) + self.back(state))
        return self.out(state)


def adding() -> Cell:
    """The sum of the two marked numbers of a stretch of 12."""
    by = generator(205)
    values = torch.rand(COUNT + HELD_OUT, 12, generator=by)
    marks = torch.zeros_like(values)
    chosen = torch.stack([torch.randperm(12, generator=by)[:2] for _ in range(COUNT + HELD_OUT)])
    marks.scatter_(1, chosen, 1.0)
    targets = (values * marks).sum(1, keepdim=True) + 0.1 * normal(COUNT + HELD_OUT, 1, by=by)
    return cell(
        "recurrent network, sums",
        (torch.stack([values, marks], dim=2), targets),
        Recurrent,
        lambda model, batch: squared(model(batch[0]), batch[1]),
        steps=500,
    )


def residual() -> Cell:
    """A residual network with BatchNorm on Fashion-MNIST, 7 x 7, a tenth of whose labels are
    random."""
    pictures, labels = images("fashion-mnist", COUNT + HELD_OUT)
    noisy = torch.where(
        torch.rand(len(labels), generator=generator(206)) < 0.1,
        torch.randint(10, labels.shape, generator=generator(207)),
        labels,
    )

    def network() -> nn.Module:
        blocks = [
            Residual(nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
            for _ in range(3)
        ]
        return nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, 10),
        )

    return cell(
        "residual network, BatchNorm",
        (functional.avg_pool2d(pictures, 4), noisy),
        network,
        lambda model, batch: entropy(model(batch[0]), batch[1]),
    )


def mixture() -> Cell:
    """A mixture of three Gaussians whose places depend on the input: a likelihood that crosses
    zero."""
    by = generator(208)
    inputs = 2 * torch.rand(COUNT + HELD_OUT, 1, generator=by) - 1
    branch = torch.randint(3, (COUNT + HELD_OUT, 1), generator=by).float() - 1
    targets = branch * (0.4 + 0.5 * inputs) + 0.03 * normal(COUNT + HELD_OUT, 1, by=by)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        weights, means, logs = model(batch[0]).chunk(3, dim=1)
        each = weights.log_softmax(1) - logs - ((batch[1] - means) * (-logs).exp()).square() / 2
        return -each.logsumexp(1)

    return cell(
        "mixture of densities",
        (inputs, targets),
        lambda: perceptron(1, 32, 32, 9, kind=nn.SiLU),
        loss,
    )


def counts() -> Cell:
    """Counts whose logarithm of the mean is linear: the Poisson likelihood without its constant,
    which is negative."""
    by = generator(209)
    inputs = normal(COUNT + HELD_OUT, 20, by=by)
    means = (1.0 + inputs @ normal(20, 1, by=by) / 6).exp()
    targets = torch.poisson(means, generator=by)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        log = model(batch[0])
        return (log.exp() - batch[1] * log).squeeze(1)

    return cell("counts", (inputs, targets), lambda: nn.Linear(20, 1), loss)


def long() -> Cell:
    """2,000 updates of a network that learns which of two noisy pictures of digits is the larger
    number."""
    pictures, labels = images("digits", 1400)
    by = generator(210)
    pairs = torch.randint(1400, (COUNT + HELD_OUT, 2), generator=by)
    first, second = pictures[pairs[:, 0]].flatten(1), pictures[pairs[:, 1]].flatten(1)
    larger = (labels[pairs[:, 0]] > labels[pairs[:, 1]]).long()
    flipped = torch.rand(len(larger), generator=by) < 0.1
    return cell(
        "2,000 updates",
        (torch.cat([first, second], dim=1), torch.where(flipped, 1 - larger, larger)),
        lambda: perceptron(128, 24, 2),
        lambda model, batch: entropy(model(batch[0]), batch[1]),
        steps=2000,
    )


def short() -> Cell:
    """100 updates of a network on Fashion-MNIST, 7 x 7, with 20 added to the loss."""
    pictures, labels = images("fashion-mnist", COUNT + HELD_OUT)
    return cell(
        "100 updates, loss + 20",
        (functional.avg_pool2d(pictures, 4), labels),
        lambda: perceptron(49, 40, 10),
        lambda model, batch: entropy(model(batch[0]), batch[1]) + 20,
        steps=100,
        batch=64,
    )


TASKS: Mapping[str, tuple[Callable[[], Cell], float | None]] = {
    "table": (table, 0.0),
    "likelihood": (likelihood, None),
    "ratings": (ratings, 0.0),
    "variational": (variational, 0.0),
    "adding": (adding, 0.0),
    "residual": (residual, 0.0),
    "mixture": (mixture, None),
    "counts": (counts, None),
    "long": (long, 0.0),
    "short": (short, 20.0),
}
"""The tasks, and the floor of each loss; None if it has none."""


class Results:
    """Results in a file, which are not computed again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.known: dict[str, Any] = {}
        if file.exists():
            self.known = dict(json.loads(line) for line in file.read_text().splitlines())

    def of(self, name: str, make: Callable[[], Any]) -> Any:
        """The result with this name."""
        if name not in self.known:
            self.known[name] = json.loads(json.dumps(make()))
            with self.file.open("a") as file:
                file.write(json.dumps([name, self.known[name]]) + "\n")
        return self.known[name]


def ended(run: Callable[[Cell, int], End], cell: Cell, seed: int) -> dict[str, float]:
    """One training by a method."""
    return vars(run(cell, seed))


def rows(cell: Cell, seed: int, exponents: list[int], shapes: list[str]) -> list[list[Any]]:
    """[exponent, shape, training loss, test loss] of every training."""
    ends = stacked(cell, seed, [2.0**exponent for exponent in exponents], shapes)
    keys = [(exponent, shape) for shape in shapes for exponent in exponents]
    return [
        [*key, finite(end.train), finite(end.test)] for key, end in zip(keys, ends, strict=True)
    ]


def grid(results: Results, name: str, cell: Cell) -> Grid:
    """The grid of a task, extended while its best rate is at an end."""
    coarse = results.of(f"{name}/coarse", lambda: rows(cell, COARSE_SEED, list(COARSE), ["linear"]))
    centre = min(coarse, key=lambda row: row[2])[0]
    wanted, found = list(range(centre - EACH_WAY, centre + EACH_WAY + 1)), list[list[Any]]()
    while wanted:
        for seed in SEEDS:
            part = f"{name}/grid {wanted[0]}..{wanted[-1]} seed {seed}"
            found += [
                [*row, seed]
                for row in results.of(part, partial(rows, cell, seed, wanted, list(SHAPES)))
            ]
        made = grid_of(found)
        wanted = made.missing
    return made


def floor_of(results: Results, name: str, cell: Cell, best: tuple[int, str]) -> float:
    """The loss of the best training three times as long, among the best rate of the grid and its
    neighbours."""
    longer = replace(cell, steps=3 * cell.steps)
    near = [best[0] + step for step in (-1, 0, 1)]
    return min(
        row[2] for row in results.of(f"{name}/floor", lambda: rows(longer, 0, near, [best[1]]))
    )


METHODS: Mapping[str, Callable[[Cell, int], End]] = {
    "tune": tuned,
    "race of SGD and AdamW": partial(tuned, optimizer="sgd,adamw"),
}


@cache
def made(name: str) -> Cell:
    """A task."""
    return TASKS[name][0]()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="file of finished trainings")
    parser.add_argument("--only", action="append", choices=list(TASKS))
    given = parser.parse_args()
    results, scores = Results(given.out), dict[str, list[float]]()
    print(f"| training loss | best of grid | at | {' | '.join(METHODS)} | costs |")
    print(f"|{' --- |' * (4 + len(METHODS))}")
    for name in given.only or TASKS:
        task, floor = made(name), TASKS[name][1]
        gridded = grid(results, name, task)
        best = gridded.train[gridded.best]
        level = floor_of(results, name, task, gridded.best) if floor is None else floor
        shown, costs = [], []
        for method, run in METHODS.items():
            ends = [
                results.of(f"{name}/{method} seed {seed}", partial(ended, run, task, seed))
                for seed in SEEDS
            ]
            above = 100 * (statistics.fmean(end["train"] for end in ends) - best) / (best - level)
            scores.setdefault(method, []).append(above)
            shown.append(f"{above:+.1f}" if math.isfinite(above) else "diverged")
            costs.append(f"{max(end['cost'] for end in ends):.2f}")
        exponent, shape = gridded.best
        print(
            f"| {task.name} | {best:.4g} | 2^{exponent} {shape} | {' | '.join(shown)} | "
            f"{', '.join(costs)} |",
            flush=True,
        )
    for what, of in (("worst", max), ("median", statistics.median)):
        print(f"| {what} | | | {' | '.join(f'{of(each):+.1f}' for each in scores.values())} | |")
    near = [f"{sum(value <= 1 for value in each)} of {len(each)}" for each in scores.values()]
    print(f"| at most +1 % | | | {' | '.join(near)} | |")


if __name__ == "__main__":
    main()
