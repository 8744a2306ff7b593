"""Arithmetic with estimates: functions, differences, ratios, products, averages and slopes, with
intervals.

The estimates are taken to be independent. Then the distances from the values to the ends of their
intervals add as squares (the method of variance estimates recovery, MOVER). Adding the ends
themselves would be right only if all estimates erred the same way at once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate


def transform(
    estimate: Estimate, function: Callable[[float], float], *, unit: str = ""
) -> Estimate:
    """A monotone function of an estimate. Its interval ends are the function of the ends, at the
    same level.

    Args:
        estimate: The estimate. An end may be infinite if the function has a limit there.
        function: Increasing or decreasing over the whole interval.
        unit: Unit of the result.

    >>> import math
    >>> from gradiometer import Estimate
    >>> from gradiometer.measurement.uncertainty.arithmetic import transform
    >>> print(transform(Estimate.interval(4.0, 1.0, 9.0, level=0.9, method="Student", samples=8), math.sqrt))
    2.00 [1.00, 3.00]
    """
    low, high = sorted((function(estimate.low), function(estimate.high)))
    value = math.nan if math.isnan(estimate.value) else function(estimate.value)
    found = _combination([estimate], value, low, high, estimate.method)
    return replace(
        found,
        unit=unit,
        step=estimate.step,
        earlier=None
        if estimate.earlier is None
        else (estimate.earlier[0], function(estimate.earlier[1])),
    )


def average(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates, such as those of windows along a run.

    An estimate whose value is NaN counts as the middle of its interval.

    Source: Zou & Donner (2008), Construction of Confidence Limits about Effect Measures, section 2.
    """
    if not estimates:
        raise BadArgument("`estimates` is empty: at least one is needed to average.")
    values = [(e.low + e.high) / 2 if math.isnan(e.value) else e.value for e in estimates]
    below = math.hypot(
        *(value - estimate.low for value, estimate in zip(values, estimates, strict=True))
    )
    above = math.hypot(
        *(estimate.high - value for value, estimate in zip(values, estimates, strict=True))
    )
    count, value = len(estimates), math.fsum(values) / len(estimates)
    first = estimates[0].method
    method = first if count == 1 else f"mean of {count} windows, {first.partition(',')[0]}"
    return _combination(estimates, value, value - below / count, value + above / count, method)


def product(*estimates: Estimate) -> Estimate:
    """The product of independent positive estimates, by their logarithms.

    Raises:
        BadArgument: An interval reaches below zero.

    Source: Zou & Donner (2008), section 2, of the logarithms.
    """
    for estimate in estimates:
        if not estimate.low >= 0:
            raise BadArgument(f"`estimates` must be positive to be multiplied, got {estimate}.")
    value = math.prod(estimate.value for estimate in estimates)
    below = math.hypot(*(_log_ratio(estimate.value, estimate.low) for estimate in estimates))
    above = math.hypot(*(_log_ratio(estimate.high, estimate.value) for estimate in estimates))
    method = (
        " × ".join(dict.fromkeys(e.method for e in estimates if e.method != "exact")) or "exact"
    )
    if math.isnan(value):
        return _combination(estimates, value, 0.0, math.inf, method)
    # exp overflows above 709.
    high = value * math.exp(min(above, 700.0))
    return _combination(estimates, value, value * math.exp(-below), high, method)


def weighted_slope(places: Sequence[float], estimates: Sequence[Estimate]) -> Estimate:
    """The slope of the straight line through independent estimates, each weighted by its width.

    Args:
        places: Position of each estimate on the horizontal axis, at least two of them different.
        estimates: Intervals of finite width, all at one level.

    Source: weighted least squares; the interval: Zou & Donner (2008), section 2.
    """
    if not (len(places) == len(estimates) >= 2 and len(set(places)) >= 2):
        raise BadArgument(
            "`places` and `estimates` must have one length and at least two different places, "
            f"got {len(places)} and {len(estimates)}."
        )
    low, value, high = np.array([(each.low, each.value, each.high) for each in estimates]).T
    widths = high - low
    for width in widths:
        if not 0 < width < math.inf:
            raise BadArgument(f"`estimates` must have intervals of finite width, got {width}.")
    weights = widths**-2.0
    away = np.asarray(places, dtype=np.float64) - np.average(places, weights=weights)
    shares = weights * away / (weights @ away**2)
    slope = float(shares @ value)
    below = shares * np.where(shares > 0, value - low, high - value)
    above = shares * np.where(shares > 0, high - value, value - low)
    method = f"weighted line through {len(estimates)} points"
    return _combination(
        estimates, slope, slope - math.hypot(*below), slope + math.hypot(*above), method
    )


def difference_of_estimates(first: Estimate, second: Estimate) -> Estimate:
    """`first` minus `second`, from two independent estimates.

    Two estimates on the same test examples are usually positively correlated. Then the interval is
    too wide rather than too narrow.

    Source: Zou & Donner (2008), eq. 7.

    >>> from gradiometer import Estimate
    >>> from gradiometer.measurement.uncertainty.arithmetic import difference_of_estimates
    >>> first = Estimate.interval(5.0, 2.0, 8.0, level=0.9, method="Student", samples=30)
    >>> second = Estimate.interval(1.0, -3.0, 5.0, level=0.9, method="Student", samples=30)
    >>> print(difference_of_estimates(first, second))
    4.00 [−1.00, 9.00]
    """
    samples = _common_samples(first, second)
    value = first.value - second.value
    if not (first.tells and second.tells and math.isfinite(value)):
        return Estimate.unknown(
            level=first.level, method="one of the two is open", samples=samples, unit=first.unit
        )
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Estimate.interval(
        value, low, high, level=first.level, method="MOVER", samples=samples, unit=first.unit
    )


def ratio_of_estimates(first: Estimate, second: Estimate) -> Estimate:
    """`first` over `second`, both positive: `difference_of_estimates` of their logarithms. An end
    may stay open.

    Source: Zou & Donner (2008), section 3.
    """
    samples = _common_samples(first, second)
    logs = [
        [math.log(end) if end > 0 else -math.inf for end in (each.value, each.low, each.high)]
        for each in (first, second)
    ]
    (one, one_low, one_high), (two, two_low, two_high) = logs
    if not (math.isfinite(one) and math.isfinite(two)):
        return Estimate.unknown(
            level=first.level, method="one of the two is not known", samples=samples
        )
    low = math.exp(one - two - math.hypot(one - one_low, two_high - two))
    high = one - two + math.hypot(one_high - one, two - two_low)
    high = math.exp(high) if high < 700 else math.inf
    return Estimate.interval(
        math.exp(one - two),
        low,
        high,
        level=first.level,
        method="MOVER of logarithms",
        samples=samples,
    )


def _combination(
    estimates: Sequence[Estimate], value: float, low: float, high: float, method: str
) -> Estimate:
    """A result at the common level of the estimates; exact if all of them are."""
    uncertain = [estimate for estimate in estimates if estimate.level < 1]
    levels = {estimate.level for estimate in uncertain}
    if len(levels) > 1:
        raise BadArgument(
            "`estimates` must be at one level, got "
            f"{', '.join(f'{level:.0%}' for level in sorted(levels))}."
        )
    if not levels:
        return Estimate.exact(value)
    if not math.isnan(value):
        low, high = min(low, value), max(high, value)
    samples = [estimate.samples for estimate in uncertain]
    return Estimate.interval(
        value,
        low,
        high,
        level=levels.pop(),
        method=method,
        # The same estimate several times, as in a square, has its samples once.
        samples=sum(samples) if len(set(map(id, estimates))) > 1 else samples[0],
        needed=max(
            (estimate.needed for estimate in estimates if estimate.needed is not None), default=None
        ),
    )


def _common_samples(first: Estimate, second: Estimate) -> int:
    if first.level != second.level:
        raise BadArgument(
            f"`first` and `second` must be at one level, got {first.level} and {second.level}."
        )
    return min(first.samples, second.samples)


def _log_ratio(larger: float, smaller: float) -> float:
    if larger == smaller:
        return 0.0
    return math.log(larger / smaller) if smaller > 0 and math.isfinite(larger) else math.inf
