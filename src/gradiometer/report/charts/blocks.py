"""A long series as a few blocks: a curve that can be drawn, with an interval per block."""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from gradiometer.arguments import check_whole
from gradiometer.measurement.estimate import LEVEL, Estimate
from gradiometer.measurement.uncertainty.means import mean
from gradiometer.report.charts.theme import POINTS

# Maximum number of blocks in a curve: more could not be distinguished on a page.
MOST: int = POINTS.blocks


@dataclass(frozen=True)
class Block:
    """Consecutive steps as one point.

    Attributes:
        first, last: First and last step, both included.
        mean: Mean of the finite values, with its interval.
        lowest, highest: Smallest and largest finite value; NaN if no value is finite.
        count: Number of values, finite or not.
        spoiled: Number of values that are not finite. No mean includes them, and the page reports
            their number.
    """

    first: int
    last: int
    mean: Estimate
    lowest: float
    highest: float
    count: int
    spoiled: int

    @property
    def middle(self) -> float:
        """The place of the block on the step axis."""
        return (self.first + self.last) / 2


def blocks(
    steps: Int[np.ndarray, " steps"],
    values: Float[np.ndarray, " steps"],
    level: float = LEVEL,
    most: int = MOST,
) -> tuple[Block, ...]:
    """Split a series into blocks of equal length, each with its mean, the interval of the mean, and
    its range.

    The intervals use batch means, because consecutive losses depend on one another. They are about
    the mean loss over the steps of the block, during which training went on, and not about the loss
    at a single step.

    Args:
        steps: Steps in increasing order.
        values: One number per step. Values that are not finite are counted and left out.
        level: Confidence level of the intervals.
        most: Maximum number of blocks.

    Source: batch means, Law & Carson (1979).
    """
    check_whole("most", most, 1)
    if len(steps) == 0:
        return ()
    number = int(np.clip(len(steps) // POINTS.shortest_block, 1, most))
    found = []
    pieces = zip(np.array_split(steps, number), np.array_split(values, number), strict=True)
    for places, losses in pieces:
        finite = np.asarray(losses[np.isfinite(losses)], dtype=np.float64)
        if len(finite) == 0:
            estimate = Estimate.unknown(level=level, method="no finite value", samples=0)
        else:
            estimate = mean(finite, level=level)
            if not math.isfinite(estimate.value):  # too few values for an interval
                estimate = replace(estimate, value=float(finite.mean()))
        found.append(
            Block(
                first=int(places[0]),
                last=int(places[-1]),
                mean=estimate,
                lowest=float(finite.min()) if len(finite) else math.nan,
                highest=float(finite.max()) if len(finite) else math.nan,
                count=len(losses),
                spoiled=len(losses) - len(finite),
            )
        )
    return tuple(found)
