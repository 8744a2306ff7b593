"""Long series in few blocks: a million losses as a curve that can be drawn, each block with its interval."""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean

MOST = 120
"""Blocks in a curve: about as many as an eye tells apart on a page."""
SHORTEST = 20
"""Steps in a block: fewer give an interval too loose to look at."""


@dataclass(frozen=True)
class Block:
    """Consecutive steps as one point.

    Attributes:
        first, last: The steps it covers, both included.
        mean: Mean of its finite values, with its interval.
        lowest, highest: The envelope of its finite values; NaN where there is none.
        count: Number of values, finite or not.
        spoiled: Number of values that are not finite. They are in no mean, and the page says how many.
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
        """Where on the step axis the block is drawn."""
        return (self.first + self.last) / 2


def blocks(
    steps: Int[np.ndarray, " steps"],
    values: Float[np.ndarray, " steps"],
    level: float = 0.9,
    most: int = MOST,
) -> tuple[Block, ...]:
    """Cut a series into blocks of equal length, each with its mean, the mean's interval, and its envelope.

    The interval is that of batch means: consecutive losses depend on one another. It is about the mean loss
    over the block's steps, while training moved on, and not about the loss at any one step.

    Args:
        steps: In increasing order.
        values: A number at each step; one that is not finite is counted and left out.
        level: Confidence level of the intervals.
        most: Number of blocks at most.

    Source: batch means, Law & Carson (1979).
    """
    if not most >= 1:
        raise BadArgument(f"`most` must be at least 1, got {most}.")
    if len(steps) == 0:
        return ()
    number = int(np.clip(len(steps) // SHORTEST, 1, most))
    return tuple(
        _block(some_steps, some_values, level)
        for some_steps, some_values in zip(np.array_split(steps, number), np.array_split(values, number), strict=True)
    )


def _block(steps: Int[np.ndarray, " steps"], values: Float[np.ndarray, " steps"], level: float) -> Block:
    finite = np.asarray(values[np.isfinite(values)], dtype=np.float64)
    return Block(
        first=int(steps[0]),
        last=int(steps[-1]),
        mean=_mean(finite, level),
        lowest=float(finite.min()) if len(finite) else math.nan,
        highest=float(finite.max()) if len(finite) else math.nan,
        count=len(values),
        spoiled=len(values) - len(finite),
    )


def _mean(finite: Float[np.ndarray, " finite"], level: float) -> Estimate:
    """The mean with its interval; of values too few for an interval, the mean alone within the whole line."""
    if len(finite) == 0:
        return Estimate.unknown(level=level, method="no finite value", samples=0)
    estimate = mean(finite, level=level)
    return estimate if math.isfinite(estimate.value) else replace(estimate, value=float(finite.mean()))
