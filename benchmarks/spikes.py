"""How often does noise look like a spike, and which spikes are found? `python benchmarks/spikes.py
[--runs 200]`

Noise of many kinds and planted spikes, in records of 300 to 4,000 losses. The recorded losses of
real trainings are a
test: tests/drift/test_spikes.py. Five minutes on one core.
"""

import sys
import time
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from gradiometer.drift.spikes import find_spikes

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from noisy_losses import NOISES, Noise, falling, without_variance

LENGTHS = (100, 300, 1000, 4000)
SPREAD = 0.1
SPIKES = ((1, 2.0), (1, 4.0), (3, 2.0), (20, 2.0), (20, 4.0), (100, 2.0), (100, 4.0))
"""Number of high losses, and the factor by which the loss rises."""


def alarms(noise: Noise, steps: int, runs: int) -> float:
    """The share of records of noise in which a spike is found."""
    random, rates = np.random.default_rng(1), np.full(steps, 0.1)
    return sum(bool(find_spikes(noise(random, steps), rates=rates)) for _ in range(runs)) / runs


def found(length: int, factor: float, steps: int, runs: int) -> float:
    """The share of planted spikes that are found, in Gaussian noise of 10 % of the loss."""
    random, rates, hits = np.random.default_rng(2), np.full(steps, 0.1), 0
    for _ in range(runs):
        at = int(random.integers(steps // 3, steps - 2 * length - 20))
        after = np.arange(steps - at)
        shape = np.zeros(steps)
        decaying = np.minimum(1, (after + 1) * 10 / length) * np.exp(-1.5 * after / length)
        shape[at:] = after < length if length <= 3 else decaying
        losses = falling(steps) * (1 + SPREAD * random.standard_normal(steps)) * factor**shape
        hits += any(
            spike.first < at + length and spike.last >= at
            for spike in find_spikes(losses, rates=rates)
        )
    return hits / runs


@click.command(help=__doc__)
@click.option("--runs", default=200, show_default=True, help="Records for each number.")
def main(runs: int) -> None:
    """Print both tables, and the time for a million losses."""
    console = Console()
    false = Table(
        "noise",
        *(f"{steps:,} losses" for steps in LENGTHS),
        title="share of records with a false alarm",
    )
    for name, noise in {**NOISES, "student 2": without_variance}.items():
        false.add_row(name, *(f"{alarms(noise, steps, runs):.3f}" for steps in LENGTHS))
    true = Table(
        "spike",
        *(f"{steps:,} losses" for steps in LENGTHS[1:]),
        title="share of planted spikes found",
    )
    for length, factor in SPIKES:
        shares = (
            f"{found(length, factor, steps, runs):.2f}" if 6 * length < steps else ""
            for steps in LENGTHS[1:]
        )
        true.add_row(f"{length} high, {factor:g} times", *shares)
    console.print(false, true)
    losses = 2 + 0.1 * np.random.default_rng(0).standard_normal(10**6)
    began = time.process_time()
    find_spikes(losses, rates=np.full(10**6, 0.1))
    console.print(f"a million losses: {time.process_time() - began:.2f} s")


if __name__ == "__main__":
    main()
