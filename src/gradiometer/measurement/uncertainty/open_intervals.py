"""Intervals of a positive quantity that are open above: [L, ∞), "at least L", so that L holds where
it is said."""

import math
from collections.abc import Callable
from functools import lru_cache

from scipy.special import log_ndtr, ndtr, ndtri

from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.fieller import steps_to_bound
from gradiometer.measurement.uncertainty.power_law import Mixture

# Ratio of the ends above which an interval of a positive quantity counts as open.
WIDEST = 30.0


def open_above(
    estimate: Estimate, mixture: Mixture, value: float, margin: float, span: float
) -> Estimate:
    """The estimate of a positive quantity, open above if its ends are more than 30 apart.

    "At least L" is only said if one over the quantity came out small, which happens more often by
    chance than a result of any size. So L is a limit for the results for which it is said.

    Args:
        estimate: The quantity.
        mixture: What is known of one over it, before it is cut at zero.
        value: One over the quantity.
        margin: How far the lower end of its interval is below the value.
        span: Training steps so far.
    """
    if estimate.high <= WIDEST * estimate.low:
        return estimate
    # The ends are 30 apart if value ± margin are, with margin = 29/31 of the value.
    most = value * (WIDEST - 1) / (WIDEST + 1)
    # None: widened for what was not seen
    needed = steps_to_bound(most, margin, span) if margin > most else None
    center, error = mixture.center_and_error(estimate.level)
    # 0.5: standard errors by which the mixture is open earlier than a normal, because of its longer
    # lower tail.
    cutoff, level = 0.5 + _cutoff(estimate.level), estimate.level
    if not error > 0:
        limit = 0.0
    elif center / error < cutoff:
        limit = error * _limit(center / error, cutoff, 1 - level)
    else:  # open because the newest readings contradict the others, so that both are in doubt
        # 20.0: factor on the confidence of an end that the newest readings contradict.
        limit = center + error * float(ndtri(1 - (1 - level) / 20.0))
    low = min(estimate.low, 1 / limit) if limit > 0 else estimate.low
    return Estimate.interval(
        estimate.value,
        low,
        math.inf,
        level=estimate.level,
        method=estimate.method,
        samples=estimate.samples,
        unit=estimate.unit,
        needed=needed,
    )


def _limit(seen: float, cutoff: float, share: float) -> float:
    """The largest mean of a unit normal for which a result below `cutoff` is at most `seen` in this
    share of cases.

    Source: conditional inference after a selection: Lee, Sun, Sun & Taylor (2016), Exact
    Post-Selection Inference.
    """
    # 1e6: standard errors beyond which no limit is sought.
    return _largest(
        lambda mean: log_ndtr(seen - mean) - log_ndtr(cutoff - mean) > math.log(share), seen, 1e6
    )


@lru_cache
def _cutoff(level: float) -> float:
    """The mean, in standard errors, below which a normal's ends above zero are more
    than 30 apart."""

    def apart(mean: float) -> bool:
        none = ndtr(-mean)
        low, high = (
            mean + float(ndtri(none + (1 - none) * share))
            for share in ((1 - level) / 2, (1 + level) / 2)
        )
        return high > WIDEST * low

    return _largest(apart, -5.0, 5.0)


def _largest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest number between two for which this holds, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
