"""Branches of one batch to one horizon at several rates: the loss at the best rate."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from gradiometer.convergence.formulas.number import Amount
from gradiometer.loop.branch import Branch, BranchResult, Tail
from gradiometer.loop.changes.rates import BatchSize
from gradiometer.loop.comparison.effects import readout_name

# Trains branches and gives their results, in any order.
Grow = Callable[[Sequence[Branch]], Iterable[BranchResult]]

# Ratio of neighbouring rates.
STEP = 2.0

LOPSIDED = 3.0

# Most rates that are tried for one batch and horizon.
MOST_RATES = 9


@dataclass
class Cell:
    """The branches of one batch to one horizon.

    Args:
        factor: The batch as a multiple of the present one.
        batch_size: The batch.
        horizon: Length in examples.
        losses: Loss of every replicate, by the factor of the rate; infinite if a branch diverged.
    """

    factor: Amount
    batch_size: int
    horizon: int
    losses: dict[float, Float[np.ndarray, " replicates"]] = field(default_factory=dict)

    @property
    def best_rate(self) -> float:
        """The factor of the rate with the lowest mean loss."""
        return min(self.losses, key=lambda rate: float(self.losses[rate].mean()))

    @property
    def is_bracketed(self) -> bool:
        """True if a lower and a higher rate than the best were tried."""
        return min(self.losses) < self.best_rate < max(self.losses)

    def loss(self, chosen: Int[np.ndarray, " chosen"]) -> float:
        """The loss at the best rate, as a mean over these replicates: the lowest point of a
        parabola in log rate.

        Near the edge of stability the loss of the next rate may be huge, and is no part of a
        parabola: the higher of the two neighbours counts at most `LOPSIDED` times as high above the
        best as the lower one.
        """
        rates = sorted(self.losses)
        means = [float(self.losses[rate][chosen].mean()) for rate in rates]
        place = int(np.argmin(means))
        if not 0 < place < len(rates) - 1:
            return means[place]
        lower, higher = sorted(means[side] - means[place] for side in (place - 1, place + 1))
        if not 0 < lower < math.inf:
            return means[place]
        higher = min(higher, LOPSIDED * lower)
        return means[place] - (higher - lower) ** 2 / (8 * (higher + lower))


def grown_cells(
    grow: Grow,
    cells: Sequence[Cell],
    centers: Mapping[Amount, float],
    *,
    replicates: int,
    tail: Tail,
    readout: str | None,
) -> list[BranchResult]:
    """Branches of every cell at three rates around its center, and at further ones until the best
    is between others."""
    results: list[BranchResult] = []
    wanted = {
        id(cell): [centers[cell.factor] * STEP**step for step in (-1, 0, 1)] for cell in cells
    }
    while any(wanted.values()):
        branches = [
            Branch(BatchSize(cell.factor, rate=rate), replicate, cell.horizon, tail)
            for cell in cells
            for rate in wanted[id(cell)]
            for replicate in range(replicates)
        ]
        found = list(grow(branches))
        results += found
        name = readout_name(results, readout)
        by_branch = {(each.alternative, each.replicate, each.horizon): each for each in found}
        for cell in cells:
            for rate in wanted[id(cell)]:
                text = BatchSize(cell.factor, rate=rate).name
                ends = [
                    by_branch.get((text, replicate, cell.horizon))
                    for replicate in range(replicates)
                ]
                cell.losses[rate] = np.array([_loss(end, name) for end in ends])
            wanted[id(cell)] = _further(cell)
    return results


def _further(cell: Cell) -> list[float]:
    """The next rate beyond the end at which the best one is."""
    if cell.is_bracketed or len(cell.losses) >= MOST_RATES:
        return []
    low, high = min(cell.losses), max(cell.losses)
    return [high * STEP] if cell.best_rate == high and len(cell.losses) > 1 else [low / STEP]


def _loss(result: BranchResult | None, readout: str) -> float:
    """The readout, with the sign with which lower is better; infinite if the branch diverged."""
    end = None if result is None else result.readouts.get(readout)
    if end is None:
        return math.inf
    return end.mean if end.lower_is_better else -end.mean
