"""Intervals of a mean, of a difference of means and of a ratio of means, for readings along a run.

Readings depend on their neighbours, so their plain standard error is too small. The standard error
comes instead from the spread of batch means (see `batch_length`). A mean has Student's interval, a
ratio of means Fieller's.
"""

import math
import sys

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from gradiometer.arguments import check_level
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.batch_means import (
    batch_length,
    batch_means,
    finite_samples,
)
from gradiometer.measurement.uncertainty.fieller import ratio_interval, steps_to_bound

# Smallest number of readings and batches. Student's 90 % quantile is 6.3 with two and 2.4 with
# four.
FEWEST_READINGS = 4


def mean(
    samples: Float[np.ndarray, " steps"],
    *,
    level: float = 0.9,
    unit: str = "",
    batches: int | None = None,
    spacing: float = 1.0,
) -> Estimate:
    """The mean of readings along a run, with Student's interval on their batch means.

    Fewer readings than four, or than `batches`, give an unknown estimate.

    Args:
        samples: Readings, oldest first.
        level: Confidence level, between 0 and 1.
        unit: Unit of the readings.
        batches: Number of batches, at least 4; default: see `batch_length`. For independent values,
            such as losses over the examples of a test set, use `batches=len(samples)`.
        spacing: Training steps from one reading to the next.

    Source: Law & Carson (1979); Flegal & Jones (2010).

    >>> import numpy as np
    >>> from gradiometer.measurement.uncertainty.means import mean
    >>> print(mean(np.array([4.0, 6.0, 5.0, 7.0, 3.0, 5.0]), level=0.9, unit="examples"))
    5.00 [3.84, 6.16] examples
    """
    samples = finite_samples(samples, "samples")
    _check(level, spacing)
    readings = len(samples)
    missing = _missing(readings, batches)
    if missing > 0:
        return _too_few(readings, missing * spacing, level, unit)
    length = readings // batches if batches else batch_length(samples)
    means, value = batch_means(samples, length, batches), float(samples.mean())
    size = largest(means)
    margin = (
        size
        * _quantile(level, len(means))
        * math.sqrt(float((means / size).var(ddof=1)) * length / readings)
    )
    method = f"Student, {len(means)} batches of {length}"
    return Estimate.interval(
        value,
        value - margin,
        value + margin,
        level=level,
        method=method,
        samples=readings,
        unit=unit,
    )


def difference_of_means(
    first: Float[np.ndarray, " steps"],
    second: Float[np.ndarray, " steps"],
    *,
    level: float = 0.9,
    unit: str = "",
    batches: int | None = None,
    spacing: float = 1.0,
) -> Estimate:
    """Mean of `first` minus mean of `second`, paired: both at the same steps, or on the same
    examples.

    Variation that both share cancels, so the interval is narrow if they are correlated. Arguments
    as in `mean`.

    >>> import numpy as np
    >>> from gradiometer.measurement.uncertainty.means import difference_of_means
    >>> before, after = np.array([4.0, 6.0, 5.0, 7.0, 3.0, 5.0]), np.array([3.1, 4.8, 4.1, 5.9, 2.0, 4.1])
    >>> print(difference_of_means(before, after))
    1.00 [0.896, 1.10]
    """
    first, second = finite_samples(first, "first"), finite_samples(second, "second")
    _check_pairs("first", first, "second", second)
    return mean(first - second, level=level, unit=unit, batches=batches, spacing=spacing)


def ratio_of_means(
    numerator: Float[np.ndarray, " steps"],
    denominator: Float[np.ndarray, " steps"],
    *,
    level: float = 0.9,
    unit: str = "",
    batches: int | None = None,
    spacing: float = 1.0,
    nonnegative: bool = True,
) -> Estimate:
    """Mean of the numerator over mean of the denominator, with Fieller's interval on their batch
    means.

    This is not the mean of the ratios, which is biased and has no finite variance. If the
    denominator is not significantly different from zero, the interval has no upper end: [L, ∞), "at
    least L". Then `needed` is about how many more steps would bound it, for a standard error that
    falls as 1/√steps; after that many steps, 59 to 78 % were bounded in simulation. If the
    denominator's mean is not above zero, `needed` is None.

    With `nonnegative`, a mean below zero counts as noise around a true mean of zero or more. The
    interval also contains the interval for a mean of exactly zero, so that a negative sign by
    chance claims no more than zero does, and no interval is empty. If the denominator is all noise,
    this raises the coverage from `level` towards (1 + level)/2, that of a one-sided bound. The
    value is then ∞ for a denominator at or below zero, 0 for a numerator below zero, and NaN for
    both.

    Without it, a denominator not significantly different from zero gives the whole line. Fieller's
    set is then the whole line, or the line without a piece in its middle.

    Args:
        numerator, denominator: Readings at the same steps, oldest first, unbiased at every step.
        level, unit, spacing: See `mean`.
        batches: Number of batches, at least 4; default: see `batch_length`, for the readings of
            mean(denominator) × numerator − mean(numerator) × denominator, whose spread sets the
            interval.
        nonnegative: True if both true means are known not to be negative, as for a noise scale.

    Source: Fieller (1954), Some Problems in Interval Estimation; Franz (2007), Ratios: A Short
    Guide to Confidence Limits and Proper Use; the ratio of means: McCandlish et al. (2018), app. A.

    >>> import numpy as np
    >>> from gradiometer.measurement.uncertainty.means import ratio_of_means
    >>> variance, norm_squared = np.array([80.0, 120.0, 90.0, 110.0, 100.0]), np.array([1.1, 0.7, 1.2, 0.8, 1.2])
    >>> print(ratio_of_means(variance, norm_squared, unit="examples"))
    100 [70.6, 146] examples
    >>> print(ratio_of_means(variance, norm_squared - 0.9))  # the denominator may be zero
    at least 270 (90%)
    """
    numerator, denominator = (
        finite_samples(numerator, "numerator"),
        finite_samples(denominator, "denominator"),
    )
    _check_pairs("numerator", numerator, "denominator", denominator)
    _check(level, spacing)
    readings = len(numerator)
    missing = _missing(readings, batches)
    if missing > 0:
        return _too_few(readings, missing * spacing, level, unit)
    # Scaled, the squares and products of tiny or huge moments do not overflow.
    sizes = largest(numerator), largest(denominator)
    above, below = numerator / sizes[0], denominator / sizes[1]
    pairs = np.stack([above, below], axis=1)
    # n − r·d has the mean zero at the estimated ratio r. It is taken times d, which may be zero.
    deciding = below.mean() * above - above.mean() * below
    length = readings // batches if batches else batch_length(deciding)
    means, center = batch_means(pairs, length, batches), pairs.mean(axis=0)
    covariance = np.cov(means, rowvar=False) * length / readings
    quantile = _quantile(level, len(means))
    unit_size = min(sizes[0] / sizes[1], sys.float_info.max)
    value, low, high = (
        unit_size * each for each in ratio_interval(center, covariance, quantile, nonnegative)
    )
    needed, method = None, f"Fieller, {len(means)} batches of {length}"
    if not math.isfinite(high):
        size = float(center[1] if nonnegative else abs(center[1]))
        needed = steps_to_bound(size, quantile * math.sqrt(covariance[1, 1]), readings * spacing)
    return Estimate.interval(
        value, low, high, level=level, method=method, samples=readings, unit=unit, needed=needed
    )


def largest(samples: Float[np.ndarray, " steps"]) -> float:
    """The largest size among the samples, or 1 if all are zero."""
    return float(max(samples.max(), -samples.min())) or 1.0


def _quantile(level: float, batches: int) -> float:
    return float(stdtrit(batches - 1, (1 + level) / 2))


def _missing(readings: int, batches: int | None) -> int:
    """How many readings are missing before an estimate can be made."""
    if batches is not None and not batches >= min(FEWEST_READINGS, readings):
        raise BadArgument(
            f"`batches` must be at least {FEWEST_READINGS}, got {batches}: fewer do not show a "
            "spread."
        )
    return max(FEWEST_READINGS, batches or 0) - readings


def _too_few(readings: int, missing_steps: float, level: float, unit: str) -> Estimate:
    needed = math.ceil(missing_steps)
    return Estimate.unknown(
        level=level, method="too few readings", samples=readings, unit=unit, needed=needed
    )


def _check(level: float, spacing: float) -> None:
    check_level(level)
    if not 0 < spacing < math.inf:
        raise BadArgument(f"`spacing` must be a positive number of training steps, got {spacing}.")


def _check_pairs(name: str, samples: np.ndarray, other_name: str, other: np.ndarray) -> None:
    if len(samples) != len(other):
        raise BadArgument(
            f"`{name}` and `{other_name}` must have the same steps, got {len(samples)} and "
            f"{len(other)} readings."
        )
