"""The horizons and batches of a critical batch, from what a person asks for."""

from collections.abc import Sequence

from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument
from gradiometer.forks.critical.batch import FEWEST_UPDATES

FACTORS, HORIZON, REPLICATES, TOLERANCE = (0.25, 1, 4), "25%", 4, 0.2
"""Defaults: batches as multiples of the present one, the longest horizon, replicates, and the tolerance."""

SHARES = (0.25, 0.5, 1)
"""Horizons as shares of the longest."""


def horizons_up_to(longest: int, batch_size: int, factors: Sequence[Amount]) -> list[int]:
    """The horizons in examples, if two of them have enough updates with the two smallest batches.

    Args:
        longest: The longest, in examples.
        batch_size: The present batch.
        factors: The batches as multiples of it.

    Raises:
        BadArgument: The longest is too short.

    >>> horizons_up_to(6_400, batch_size=32, factors=(0.25, 1, 4))
    [1600, 3200, 6400]
    """
    found = [max(int(share * longest), 1) for share in SHARES]
    second = max(sorted(factors)[:2], default=0) * batch_size
    if not found[-2] >= FEWEST_UPDATES * second:
        raise BadArgument(
            f"`horizon` is {longest:,} examples, too few for two lengths of {FEWEST_UPDATES} updates with two batches: "
            f"give at least {2 * FEWEST_UPDATES * second:,.0f}, or an earlier step."
        )
    return found
