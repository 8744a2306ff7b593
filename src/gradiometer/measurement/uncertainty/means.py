"""Intervals of a mean, of a difference of means and of a ratio of means, for readings along a run.

Readings depend on their neighbours, so their plain standard error is too small. The standard error
comes instead from the spread of batch means (see `batch_length`): averages over consecutive
readings, long enough that they hardly depend on one another. A mean has Student's interval, a ratio
of means Fieller's. A slope is a mean of contributions. The median is for independent samples.
"""

import math
import sys

import numpy as np
from jaxtyping import Float, Int
from scipy.special import bdtr, stdtrit

from gradiometer.arguments import check_level
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import LEVEL, Estimate

# The standard deviation of normal noise over its median absolute deviation.
OF_MEDIAN_DEVIATION = 1.4826

# Smallest number of readings and batches. Student's 90 % quantile is 6.3 with two and 2.4 with
# four.
FEWEST_READINGS = 4

# Number of batches for independent readings. More would narrow an interval by 4 % at most.
MOST_BATCHES = 24


def mean(
    samples: Float[np.ndarray, " steps"],
    *,
    level: float = LEVEL,
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
    readings = len(samples)
    unknown = _too_few(readings, batches, level, spacing, unit)
    if unknown is not None:
        return unknown
    length = readings // batches if batches else batch_length(samples)
    with np.errstate(over="ignore"):
        means, value = batch_means(samples, length, batches), float(samples.mean())
    if not (math.isfinite(value) and np.isfinite(means).all()):  # their sum is beyond doubles
        return Estimate.unknown(level=level, method="mean", samples=readings, unit=unit)
    size = largest(means)
    margin = (
        size
        * student_quantile(level, len(means) - 1)
        * math.sqrt(float((means / size).var(ddof=1)) * length / readings)
    )
    return Estimate.interval(
        value,
        value - margin,
        value + margin,
        level=level,
        method=f"Student, {len(means)} batches of {length}",
        samples=readings,
        unit=unit,
    )


def difference_of_means(
    first: Float[np.ndarray, " steps"],
    second: Float[np.ndarray, " steps"],
    *,
    level: float = LEVEL,
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
    level: float = LEVEL,
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
    readings = len(numerator)
    unknown = _too_few(readings, batches, level, spacing, unit)
    if unknown is not None:
        return unknown
    # Scaled, the squares and products of tiny or huge moments do not overflow.
    sizes = largest(numerator), largest(denominator)
    above, below = numerator / sizes[0], denominator / sizes[1]
    pairs = np.stack([above, below], axis=1)
    # n − r·d has the mean zero at the estimated ratio r. It is taken times d, which may be zero.
    deciding = below.mean() * above - above.mean() * below
    length = readings // batches if batches else batch_length(deciding)
    means, center = batch_means(pairs, length, batches), pairs.mean(axis=0)
    covariance = np.cov(means, rowvar=False) * length / readings
    quantile = student_quantile(level, len(means) - 1)
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


def student_quantile(level: float, freedom: float | int) -> float:
    """Half the width of Student's two-sided interval, in standard errors."""
    check_level(level)
    return float(stdtrit(freedom, (1 + level) / 2))


def _too_few(
    readings: int, batches: int | None, level: float, spacing: float, unit: str
) -> Estimate | None:
    """The unknown estimate of fewer readings than an interval needs; None if they are enough."""
    check_level(level)
    if not 0 < spacing < math.inf:
        raise BadArgument(f"`spacing` must be a positive number of training steps, got {spacing}.")
    if not (batches is None or batches >= min(FEWEST_READINGS, readings)):
        raise BadArgument(
            f"`batches` must be at least {FEWEST_READINGS}, got {batches}: fewer do not show a "
            "spread."
        )
    missing = max(FEWEST_READINGS, batches or 0) - readings
    if missing <= 0:
        return None
    return Estimate.unknown(
        level=level,
        method="too few readings",
        samples=readings,
        unit=unit,
        needed=math.ceil(missing * spacing),
    )


def _check_pairs(name: str, samples: np.ndarray, other_name: str, other: np.ndarray) -> None:
    if len(samples) != len(other):
        raise BadArgument(
            f"`{name}` and `{other_name}` must have the same steps, got {len(samples)} and "
            f"{len(other)} readings."
        )


def batch_means(
    samples: Float[np.ndarray, "steps ..."], length: int, count: int | None = None
) -> Float[np.ndarray, "batches ..."]:
    """Means over `length` consecutive readings each, oldest first; the oldest remainder
    is dropped."""
    count = len(samples) // length if count is None else count
    kept = samples[len(samples) - count * length :]
    means: np.ndarray = kept.reshape(count, length, *samples.shape[1:]).mean(axis=1)
    return means


def batch_length(samples: Float[np.ndarray, "steps ..."]) -> int:
    """The number of readings per batch that makes neighbouring batch means hardly correlated.

    It starts at ⌊steps/24⌋, at least 1, and doubles while neighbouring batch means correlate and 6
    batches would remain. They correlate if their lag-one correlation (corrected for its bias of
    −1/batches, averaged over columns) is above half its standard error 1/√batches. Independent
    readings mostly keep 24 batches or a few more (one per reading below 48 readings); dependent
    readings end at 6 to 13.

    Simulated at nominal 90 %, Student's interval covers in 90 to 93 % of windows of 30, 200 and
    2,000 independent readings (Gaussian, χ² with 5 degrees of freedom, Student t with 3; with 30
    readings as skewed as χ² with 1 degree of freedom 87 %, as a lognormal 86 %). For a Gaussian
    whose correlations decay as exp(−60·lag/steps), an integrated autocorrelation time of a
    thirtieth of the window, it covers in 88 %, and at twice that time in 86 to 87 %; for the square
    of such a Gaussian, which is as slow and strongly skewed, in 83 %. Reacting to chance
    correlations costs 7 to 10 % of the width.

    Source: Law & Carson (1979), A Sequential Procedure for Determining the Length of a Steady-State
    Simulation; Flegal & Jones (2010), Batch Means and Spectral Variance Estimators in Markov Chain
    Monte Carlo.

    >>> import numpy as np
    >>> from gradiometer.measurement.uncertainty.means import batch_length
    >>> batch_length(np.random.default_rng(0).normal(size=2_400)), batch_length(np.arange(2_400.0))
    (100, 400)
    """
    length = max(len(samples) // MOST_BATCHES, 1)
    # 6: smallest number of batches for dependent readings. Student's quantile (2.0 with six) grows
    # fast below it.
    while len(samples) // (2 * length) >= 6:
        means = batch_means(samples, length)
        # 0.5: correlation of neighbouring batch means, in standard errors, above which the batches
        # are made longer.
        if not _lag_one_correlation(means) > 0.5 / math.sqrt(len(means)):
            break
        length *= 2
    return length


def _lag_one_correlation(means: Float[np.ndarray, "batches ..."]) -> float:
    """Correlation of neighbouring batch means, averaged over the columns that vary, corrected for
    its bias."""
    deviations = (means - means.mean(axis=0)).reshape(len(means), -1)
    size = np.abs(deviations).max(axis=0)
    if not (size > 0).any():
        return 0.0
    deviations = deviations[:, size > 0] / size[size > 0]
    correlations = (deviations[1:] * deviations[:-1]).sum(axis=0) / (deviations**2).sum(axis=0)
    return float(correlations.mean()) + 1 / len(means)


def finite_samples(samples: Float[np.ndarray, " steps"], name: str) -> Float[np.ndarray, " steps"]:
    """The samples in double precision, if all are finite."""
    samples = np.asarray(samples, dtype=np.float64)
    if not np.isfinite(samples).all():
        place = int(np.isfinite(samples).argmin())
        raise BadArgument(
            f"`{name}` must be finite, got {samples[place]} at position {place}: drop such "
            "readings."
        )
    return samples


def slope(
    steps: Int[np.ndarray, " logged"], values: Float[np.ndarray, " logged"], level: float = LEVEL
) -> Estimate:
    """The slope by least squares, per 1,000 steps.

    It is the mean of the contributions slope + n(x − x̄)e/Σ(x − x̄)², with residuals e. Their batch
    means give the standard error, as for any mean along a run. Simulated at nominal 90 %, with 256
    to 4,000 values, the interval covers in 87 to 90 % if the values are independent or their
    autocorrelation time is a hundredth of the stretch, in 82 to 86 % at a fortieth, and in 74 to 81
    % at a fifteenth.

    Source: the contributions are the influence function of least squares, Newey & West (1987), A
        Simple, Positive Semi-Definite, Heteroskedasticity and Autocorrelation Consistent Covariance
        Matrix; batch means as in `mean`.

    >>> import numpy as np
    >>> from gradiometer.measurement.uncertainty.means import slope
    >>> steps, noise = np.arange(0, 3_000, 100), np.random.default_rng(0).normal(size=30)
    >>> print(slope(steps, 2.0 - 0.5 * steps / 1_000 + 0.1 * noise))
    −0.503 [−0.532, −0.475] per 1,000 steps
    """
    unit, places = "per 1,000 steps", steps.astype(np.float64) / 1000
    if len(values) < FEWEST_READINGS or not np.ptp(places) > 0:
        return Estimate.unknown(
            level=level, method="too few values", samples=len(values), unit=unit
        )
    away = places - places.mean()
    size = float(away @ away)
    steepness = float(away @ values) / size
    residuals = values - values.mean() - steepness * away
    return mean(steepness + len(values) * away * residuals / size, level=level, unit=unit)


def median(
    samples: Float[np.ndarray, " samples"], *, level: float = LEVEL, unit: str = ""
) -> Estimate:
    """The median, with an interval between two order statistics. A few interrupted timings hardly
    change it.

    The k-th smallest and the k-th largest of n samples enclose the median of any distribution with
    probability 1 − 2 P(Binomial(n, ½) < k). The interval uses the largest k for which this is at
    least `level`. With too few samples (fewer than five at 90 %) the estimate is unknown. The
    samples must be independent.

    Source: David & Nagaraja (2003), Order Statistics, section 7.1.

    >>> import numpy as np
    >>> from gradiometer.measurement.uncertainty.means import median
    >>> print(median(np.array([1.2, 1.1, 1.3, 1.2, 9.0, 1.1, 1.4]), unit="ms"))
    1.20 [1.10, 9.00] ms
    """
    samples = np.sort(np.asarray(samples, dtype=np.float64))
    if not np.isfinite(samples).all():
        raise BadArgument("`samples` must be finite: drop the others.")
    check_level(level)
    count = len(samples)
    place = _place(count, level)
    if place == 0:
        return Estimate.unknown(
            level=level,
            method="too few samples",
            samples=count,
            unit=unit,
            needed=next(more for more in range(1, 1000) if _place(count + more, level) > 0),
        )
    return Estimate.interval(
        float(np.median(samples)),
        float(samples[place - 1]),
        float(samples[count - place]),
        level=level,
        method=f"median of {count}",
        samples=count,
        unit=unit,
    )


def _place(count: int, level: float) -> int:
    """k, the largest rank whose order statistics enclose the median often enough; 0 if there is
    none."""
    return int((1 - 2 * bdtr(np.arange(count // 2), count, 0.5) >= level).sum())


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
    >>> from gradiometer.measurement.uncertainty.means import fieller_set
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
