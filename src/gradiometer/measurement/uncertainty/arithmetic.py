"""Intervals carried through a calculation: of a monotone function, a product, an average, a line through estimates.

Estimates that are put together are taken to be independent: their ends are not added up, which would be right only
if all of them erred the same way at once, but their distances to their ends are, as squares.
"""

import math
from collections.abc import Callable, Sequence

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate


def transformed(
    estimate: Estimate, function: Callable[[float], float], *, method: str = "", unit: str = ""
) -> Estimate:
    """A monotone function of an estimate: its interval is the function of the ends, exactly as sure as they are.

    Args:
        estimate: The estimate; its ends may be infinite where the function has a limit there.
        function: Rising or falling over the whole interval.
        method: How the result was made; left out, as the estimate was.
        unit: Unit of the result.
    """
    low, high = sorted((function(estimate.low), function(estimate.high)))
    value = math.nan if math.isnan(estimate.value) else function(estimate.value)
    return _like([estimate], value, low, high, method or estimate.method, unit)


def average(estimates: Sequence[Estimate], *, unit: str = "") -> Estimate:
    """The mean of independent estimates: their distances to their ends add as squares.

    Over windows along a run it is the mean over the run. One that has no value of its own counts as the middle of
    its interval, if that has one.

    Source: the method of variance estimates recovery, Zou & Donner (2008), Construction of Confidence Limits about
        Effect Measures, section 2.
    """
    if not estimates:
        raise BadArgument("`estimates` is empty: at least one is needed to average.")
    values = [_middle(estimate) for estimate in estimates]
    below = math.hypot(*(value - estimate.low for value, estimate in zip(values, estimates, strict=True)))
    above = math.hypot(*(estimate.high - value for value, estimate in zip(values, estimates, strict=True)))
    count, value = len(estimates), math.fsum(values) / len(estimates)
    method = estimates[0].method if count == 1 else f"mean of {count} windows, {_kind(estimates[0].method)}"
    return _like(estimates, value, value - below / count, value + above / count, method, unit)


def product(*estimates: Estimate, unit: str = "") -> Estimate:
    """The product of independent positive estimates, as `average` on a logarithmic scale.

    Raises:
        BadArgument: One of them reaches below zero.

    Source: Zou & Donner (2008), section 2, of the logarithms.
    """
    for estimate in estimates:
        if not estimate.low >= 0:
            raise BadArgument(f"`estimates` must be positive to be multiplied, got {estimate}.")
    value = math.prod(estimate.value for estimate in estimates)
    below = math.hypot(*(_log_ratio(estimate.value, estimate.low) for estimate in estimates))
    above = math.hypot(*(_log_ratio(estimate.high, estimate.value) for estimate in estimates))
    method = " × ".join(dict.fromkeys(e.method for e in estimates if e.method != "exact")) or "exact"
    if math.isnan(value):
        return _like(estimates, value, 0.0, math.inf, method, unit)
    return _like(estimates, value, value * math.exp(-below), value * math.exp(min(above, 700.0)), method, unit)


def weighted_slope(places: Sequence[float], estimates: Sequence[Estimate], *, unit: str = "") -> Estimate:
    """The slope of the straight line through independent estimates, each weighted by its width.

    A weighted sum of them: their distances to their ends, times their weights, add as squares.

    Args:
        places: Where on the horizontal axis each estimate stands, at least two of them different.
        estimates: Of finite width each, at one level.
        unit: Unit of the slope.

    Source: weighted least squares; the interval: Zou & Donner (2008), section 2.
    """
    if not (len(places) == len(estimates) >= 2 and len(set(places)) >= 2):
        raise BadArgument(
            f"`places` and `estimates` must be as many, at two places at least, got {len(places)} and {len(estimates)}."
        )
    widths = [estimate.high - estimate.low for estimate in estimates]
    for width in widths:
        if not 0 < width < math.inf:
            raise BadArgument(f"`estimates` must have intervals of finite width, got {width}.")
    weights = [width**-2 for width in widths]
    center = math.fsum(w * x for w, x in zip(weights, places, strict=True)) / math.fsum(weights)
    spread = math.fsum(w * (x - center) ** 2 for w, x in zip(weights, places, strict=True))
    shares = [w * (x - center) / spread for w, x in zip(weights, places, strict=True)]
    value = math.fsum(share * estimate.value for share, estimate in zip(shares, estimates, strict=True))
    below, above = [], []
    for share, estimate in zip(shares, estimates, strict=True):
        sides = share * (estimate.value - estimate.low), share * (estimate.high - estimate.value)
        below.append(sides[0] if share > 0 else sides[1])
        above.append(sides[1] if share > 0 else sides[0])
    method = f"weighted line through {len(estimates)} points"
    return _like(estimates, value, value - math.hypot(*below), value + math.hypot(*above), method, unit)


def difference_of_estimates(first: Estimate, second: Estimate) -> Estimate:
    """`first` less `second`, from two independent estimates, their intervals not being symmetric.

    The distances of each end from its estimate are added in quadrature. Estimates on the same test examples are
    not independent but mostly go together, and then the interval is wider than it need be, not narrower.

    Source: Zou & Donner (2008), Construction of Confidence Limits about Effect Measures, eq. 7 (MOVER).
    """
    if not first.level == second.level:
        raise BadArgument(f"`first` and `second` must be at one level, got {first.level} and {second.level}.")
    value = first.value - second.value
    samples = min(first.samples, second.samples)
    if not (first.tells and second.tells and math.isfinite(value)):
        return Estimate.unknown(level=first.level, method="one of the two is open", samples=samples, unit=first.unit)
    down = math.hypot(first.value - first.low, second.high - second.value)
    up = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate.interval(
        value, value - down, value + up, level=first.level, method="MOVER", samples=samples, unit=first.unit
    )


def ratio_of_estimates(first: Estimate, second: Estimate) -> Estimate:
    """`first` over `second`, both positive, in logarithms as `difference_of_estimates`; an open end leaves it open.

    Source: Zou & Donner (2008), section 3.
    """
    if not first.level == second.level:
        raise BadArgument(f"`first` and `second` must be at one level, got {first.level} and {second.level}.")
    samples = min(first.samples, second.samples)
    logs = [[_log(end) for end in (each.value, each.low, each.high)] for each in (first, second)]
    (one, one_low, one_high), (two, two_low, two_high) = logs
    if not (math.isfinite(one) and math.isfinite(two)):
        return Estimate.unknown(level=first.level, method="one of the two is not known", samples=samples)
    low = one - two - math.hypot(one - one_low, two_high - two)
    high = one - two + math.hypot(one_high - one, two - two_low)
    return Estimate.interval(
        math.exp(one - two), math.exp(low), _exp(high), level=first.level, method="MOVER of logarithms", samples=samples
    )


def _like(estimates: Sequence[Estimate], value: float, low: float, high: float, method: str, unit: str) -> Estimate:
    """A result at the level of what it was made of."""
    levels = {estimate.level for estimate in estimates if estimate.level < 1}
    if len(levels) > 1:
        raise BadArgument(
            f"`estimates` must be at one level, got {', '.join(f'{level:.0%}' for level in sorted(levels))}."
        )
    if not levels:
        return Estimate.exact(value, unit=unit)
    samples = [estimate.samples for estimate in estimates if estimate.level < 1]
    needed = [estimate.needed for estimate in estimates if estimate.needed is not None]
    return Estimate.interval(
        value,
        min(low, value) if not math.isnan(value) else low,
        max(high, value) if not math.isnan(value) else high,
        level=levels.pop(),
        method=method,
        samples=sum(samples) if len(set(map(id, estimates))) > 1 else samples[0],
        unit=unit,
        needed=max(needed, default=None),
    )


def _middle(estimate: Estimate) -> float:
    return (estimate.low + estimate.high) / 2 if math.isnan(estimate.value) else estimate.value


def _kind(method: str) -> str:
    return method.partition(",")[0]


def _log_ratio(larger: float, smaller: float) -> float:
    if larger == smaller:
        return 0.0
    return math.log(larger / smaller) if smaller > 0 and math.isfinite(larger) else math.inf


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
