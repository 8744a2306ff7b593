"""Fieller's confidence set of a ratio of two means, in all its shapes, and the interval that
contains it."""

import math

import numpy as np
from jaxtyping import Float

Interval = tuple[float, float]
WHOLE_LINE: Interval = (-math.inf, math.inf)


def fieller_set(
    means: Float[np.ndarray, "2"], covariance: Float[np.ndarray, "2 2"], quantile: float
) -> tuple[Interval, ...]:
    """All ratios r compatible with the two means (n, d): (n − r·d)² ≤ t² Var(n − r·d).

    One bounded interval if d differs significantly from zero, |d| > t·se(d). Otherwise the whole
    line, or two half-lines; one half-line if |d| = t·se(d) exactly. Empty if d is zero and never
    varies and n is not zero.

    Args:
        means: Means of the numerator and the denominator.
        covariance: Covariance of these two means.
        quantile: t, of Student's or the normal distribution.

    Returns:
        Disjoint intervals in increasing order, ends included.

    Source: Fieller (1954), Some Problems in Interval Estimation; the shapes: Franz (2007), Ratios:
    A Short Guide to Confidence Limits and Proper Use.

    >>> import numpy as np
    >>> from gradiometer.measurement.uncertainty.fieller import fieller_set
    >>> [(low, high)] = fieller_set(np.array([6.0, 2.0]), np.diag([1.0, 0.01]), quantile=2.0)
    >>> round(low, 2), round(high, 2)
    (1.98, 4.08)
    >>> fieller_set(np.array([0.0, 1.0]), np.eye(2), quantile=2.0)  # the denominator may be zero
    ((-inf, inf),)
    """
    # Scaled by their size, the squares and products of tiny or huge moments do not overflow.
    size = np.abs(means) + quantile * np.sqrt(np.diag(covariance))
    size = np.where(size > 0, size, 1.0)
    n, d = means / size
    spread = quantile**2 * covariance / size / size[:, None]
    solutions = _quadratic_at_most_zero(
        float(d * d - spread[1, 1]), float(n * d - spread[0, 1]), float(n * n - spread[0, 0])
    )
    unit = float(size[0] / size[1])
    return tuple((low * unit, high * unit) for low, high in solutions)


def ratio_interval(
    means: Float[np.ndarray, "2"],
    covariance: Float[np.ndarray, "2 2"],
    quantile: float,
    nonnegative: bool,
) -> tuple[float, float, float]:
    """The ratio of two means, and the ends of the shortest interval that contains its Fieller set.

    With `nonnegative`, a mean below zero is replaced by zero, and the interval contains the sets
    before and after, from zero on. An empty set (a denominator that is zero at every reading)
    counts as the whole line. Arguments as in `fieller_set`.
    """
    parts = fieller_set(means, covariance, quantile)
    lowest = 0.0 if nonnegative else -math.inf
    if nonnegative and (means < 0).any():
        means = np.maximum(means, 0.0)
        parts += fieller_set(means, covariance, quantile)
    parts = tuple((max(low, lowest), high) for low, high in parts if high >= lowest) or (
        (lowest, math.inf),
    )
    low, high = min(low for low, _ in parts), max(high for _, high in parts)
    numerator, denominator = float(means[0]), float(means[1])
    if denominator == 0:
        return (math.inf if nonnegative and numerator > 0 else math.nan), low, high
    ratio = numerator / denominator
    return ratio, min(low, ratio), max(high, ratio)  # the ratio is in its set, up to rounding


def steps_to_bound(denominator: float, margin: float, steps: float) -> int | None:
    """Further steps until t·se equals the denominator's mean, if the mean stays and se falls as
    1/√steps.

    Args:
        denominator: The mean. The result is None if it is not above zero.
        margin: t·se(denominator) now.
        steps: Number of training steps so far.
    """
    if not denominator > 0:
        return None
    shortfall = margin / denominator
    further = steps * (shortfall * shortfall - 1)
    return max(math.ceil(further), 1) if math.isfinite(further) else None


def _quadratic_at_most_zero(a: float, b: float, c: float) -> tuple[Interval, ...]:
    """All r with a·r² − 2b·r + c ≤ 0. With a > 0 a solution exists, and a negative discriminant is
    rounding."""
    if a == 0:
        if b == 0:
            return (WHOLE_LINE,) if c <= 0 else ()
        return ((c / (2 * b), math.inf),) if b > 0 else ((-math.inf, c / (2 * b)),)
    discriminant = b * b - a * c
    if a < 0 and discriminant <= 0:
        return (WHOLE_LINE,)
    # One root by an addition without cancellation, the other from the product of the roots, c/a.
    larger = b + math.copysign(math.sqrt(max(discriminant, 0.0)), b)
    low, high = sorted((larger / a, c / larger)) if larger != 0 else (0.0, 0.0)
    return ((low, high),) if a > 0 else ((-math.inf, low), (high, math.inf))
