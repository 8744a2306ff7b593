"""Are the readings in shuffled epochs over few examples right, from the training batches and from a probe?

A network is trained in shuffled epochs over 512 digits. At every step tr Σ and ‖g‖² are computed exactly by a full
pass, and read from the two halves of the training batch or from those of a probe. Run:

    python benchmarks/probe.py --seeds 6
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from gradiometer import Objective, Sampling, supervised, watch
from gradiometer.jobs import Job, pool_of
from gradiometer.measurement import Draw
from gradiometer.measurement.uncertainty import mean
from gradiometer.problems import load

EXAMPLES, BATCH, WINDOW = 512, 32, 64
LOSS = supervised(nn.CrossEntropyLoss(reduction="none"))
MOMENTS = ("gradient_variance", "gradient_norm_squared")


@dataclass(frozen=True)
class Compared:
    """Readings of one training run and their exact values: moment → [steps]."""

    exact: dict[str, np.ndarray]
    read: dict[str, np.ndarray]

    def excess(self, name: str) -> float:
        """The relative error of the mean over the run."""
        return float(self.read[name].mean() / self.exact[name].mean()) - 1

    def covered(self, name: str, level: float = 0.9) -> list[bool]:
        """For every window: is the exact mean over its steps inside the interval of the mean of the readings?"""
        hits = []
        for start in range(0, len(self.exact[name]) - WINDOW + 1, WINDOW):
            window = slice(start, start + WINDOW)
            estimate = mean(self.read[name][window], level=level)
            hits.append(bool(estimate.low <= self.exact[name][window].mean() <= estimate.high))
        return hits


def compare(seed: int, *, probe: bool, epochs: int, rate: float = 0.1) -> Compared:
    """Train once, and read every step."""
    digits = load("digits").train.data
    torch.manual_seed(seed)
    some = torch.randperm(len(digits[0]))[:EXAMPLES]
    data = digits[0][some].flatten(1), digits[1][some]
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    objective, exact = Objective(model, LOSS), {name: list[float]() for name in MOMENTS}
    with (
        tempfile.TemporaryDirectory() as out,
        watch(
            model,
            optimizer,
            loss=LOSS,
            out=Path(out),
            sampling=Sampling(Draw.RESHUFFLED, EXAMPLES),
            probe=data if probe else None,
            gauges="noise",
            every=1,
            page=False,
            quiet=True,
        ) as w,
    ):
        for chosen in batches(epochs):
            batch = data[0][chosen], data[1][chosen]
            for name, value in zip(MOMENTS, whole(objective, data), strict=True):
                exact[name].append(value)
            optimizer.zero_grad()
            loss = LOSS(model, batch).mean()
            loss.backward()
            w.step(loss, batch)
            optimizer.step()
        series = w.run and w.run.series("noise")
        assert series is not None
        finite = series.sampling.one_over_examples("train")
        variance, norm_squared = (series.moments[name].sum(axis=1) for name in MOMENTS)
    corrected = dict(zip(MOMENTS, (variance * (1 - finite), norm_squared + finite * variance), strict=True))
    return Compared({name: np.array(values) for name, values in exact.items()}, corrected)


def batches(epochs: int) -> Iterator[torch.Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(EXAMPLES).split(BATCH)


def whole(objective: Objective, data: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, float]:
    """tr Σ and ‖g‖² of all examples."""
    each = [gradients.flatten(1).double() for gradients in objective.per_example_gradients(data)]
    means = [rows.mean(0) for rows in each]
    variance = sum(float((rows - middle).square().sum()) for rows, middle in zip(each, means, strict=True)) / EXAMPLES
    return variance, sum(float(middle.square().sum()) for middle in means)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--pool", default="here", help="here, processes[:COUNT] or ray[:ADDRESS]")
    asked = parser.parse_args()
    settings = f"N = {EXAMPLES}, B = {BATCH}, η = {asked.rate}, {asked.epochs} epochs, {asked.seeds} seeds"
    print(f"{settings}; windows of {WINDOW} steps")
    for probe in (False, True):
        one = partial(compare, probe=probe, epochs=asked.epochs, rate=asked.rate)
        with pool_of(asked.pool) as pool:
            runs = pool.results([Job(f"seed {seed}", one, (seed,)) for seed in range(asked.seeds)])
        print("probe:" if probe else "training batches:")
        for name in MOMENTS:
            excess = np.array([run.excess(name) for run in runs])
            error = excess.std(ddof=1) / np.sqrt(len(runs))
            covered = np.mean([hit for run in runs for hit in run.covered(name)])
            print(f"  {name:<22} {excess.mean():+.1%} ± {error:.1%} too high, 90 % intervals cover {covered:.0%}")


if __name__ == "__main__":
    main()
