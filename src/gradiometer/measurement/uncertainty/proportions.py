"""Intervals of a proportion, and of the difference of two proportions seen on the same examples."""

import math

import numpy as np
from jaxtyping import Shaped
from scipy.special import ndtri

from gradiometer.arguments import check_level
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import LEVEL, Estimate

STEP = 1e-10


def proportion(successes: int, trials: int, level: float = LEVEL) -> Estimate:
    """The share of successes in independent trials, such as an accuracy on test examples, with
    Wilson's interval.

    The interval stays within [0, 1]. It has a width also at 0 and at 1, where the plain standard
    error is zero.

    Args:
        successes: Between 0 and `trials`.
        trials: At least 1.
        level: Confidence level, between 0 and 1.

    Source: Wilson (1927), Probable Inference, the Law of Succession, and Statistical Inference.

    >>> from gradiometer.measurement.uncertainty.proportions import proportion
    >>> print(proportion(95, 100))
    0.950 [0.901, 0.975]
    >>> print(proportion(100, 100))
    1.00 [0.974, 1.00]
    """
    check_level(level)
    if not trials >= 1:
        raise BadArgument(f"`trials` must be at least 1, got {trials}.")
    if not 0 <= successes <= trials:
        raise BadArgument(
            f"`successes` must lie between 0 and the {trials} trials, got {successes}."
        )
    share = successes / trials
    low, high = wilson(share, trials, level)
    return Estimate.interval(share, low, high, level=level, method="Wilson score", samples=trials)


def wilson(share: float, trials: int | float, level: float) -> tuple[float, float]:
    """Wilson's interval of a share, which stays inside of 0 and 1 and has a width at both."""
    z = float(ndtri((1 + level) / 2))
    shrinkage = 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / shrinkage
    margin = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / shrinkage
    # At 0 and 1 the end is the share itself, up to rounding.
    return min(max(middle - margin, 0.0), share), max(min(middle + margin, 1.0), share)


def difference_of_proportions(
    first: Shaped[np.ndarray, " trials"],
    second: Shaped[np.ndarray, " others"],
    *,
    level: float = LEVEL,
) -> Estimate:
    """Share of the first minus share of the second, on the same independent trials, with Tango's
    score interval.

    Only the trials on which the two differ carry information. If they are few or all on one side,
    the interval of a difference of means would be far too narrow, and without such trials it would
    have no width.

    Args:
        first, second: Success in each trial, as booleans.
        level: Confidence level, between 0 and 1.

    Source: Tango (1998), Equivalence Test and Confidence Interval for the Difference in Proportions
    for the Paired-Sample Design, eqs. 7 and 8.

    >>> import numpy as np
    >>> from gradiometer.measurement.uncertainty.proportions import difference_of_proportions
    >>> right = np.arange(200) < 180
    >>> print(difference_of_proportions(right, right & (np.arange(200) >= 6)))  # the second fails on 6 more
    0.0300 [0.0156, 0.0570]
    """
    check_level(level)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    low, high = _score_interval(only_first, only_second, len(first), float(ndtri((1 + level) / 2)))
    return Estimate.interval(
        (only_first - only_second) / len(first),
        low,
        high,
        level=level,
        method="Tango score",
        samples=len(first),
    )


def _score_interval(b: int, c: int, n: int, z: float) -> tuple[float, float]:
    """The smallest and largest difference that the score test does not reject; b and c count the
    trials that differ."""
    from scipy.optimize import brentq  # noqa: PLC0415 (a quarter of a second, only for this)

    value = (b - c) / n

    def beyond(difference: float, quantile: float) -> float:
        return (b - c - n * difference) - quantile * _spread(difference, b, c, n)

    # If the two never differ, the value itself is also a root, but not the wanted one.
    low = -1.0 if c == n else brentq(beyond, -1.0, value - STEP, args=(z,))
    high = 1.0 if b == n else brentq(beyond, value + STEP, 1.0, args=(-z,))
    return min(float(low), value), max(float(high), value)


def _spread(difference: float, b: int, c: int, n: int) -> float:
    """Standard deviation of b − c − n·difference if that is the true difference, at the likeliest
    nuisance."""
    linear = -b - c + (2 * n - b + c) * difference
    constant = -c * difference * (1 - difference)
    only_second = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    return math.sqrt(max(n * (2 * only_second + difference * (1 - difference)), 0.0))
