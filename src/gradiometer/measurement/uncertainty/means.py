"""The interval of a mean, of a ratio of means and of a proportion, once for all gauges.

Readings along a run depend on their neighbours, so that their plain standard error is too small. They are averaged
in batches of consecutive readings, long enough that the averages hardly depend on one another any more, and the
spread of the batch means gives the standard error. A mean then has Student's interval, a ratio of means Fieller's.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri, stdtrit

from gradiometer.errors import BadArgument
from gradiometer.measurement.reading import Estimate
from gradiometer.measurement.uncertainty.fieller import ratio_interval, steps_to_bound

FEWEST_READINGS = 4
"""Readings, and batches, below which nothing is said: Student's 90 % quantile is 6.3 with two and 2.4 with four."""

MOST_BATCHES = 24
"""Batches aimed at where readings are independent: more would narrow an interval by 4 % at most."""

FEWEST_BATCHES = 6
"""Batches kept where readings depend on one another: with fewer, Student's quantile (2.0 with six) grows fast."""

CORRELATED = 0.5
"""Correlation of neighbouring batch means, in its standard errors, above which batches are made longer."""


def batch_means(
    samples: Float[np.ndarray, "steps ..."], batches: int | None = None
) -> Float[np.ndarray, "batches ..."]:
    """Means over batches of consecutive readings of equal length, oldest first; the oldest remainder is dropped.

    By default the length follows the dependence seen. It starts at ⌊steps/24⌋, at least 1, and is doubled while
    neighbouring batch means correlate (lag-one correlation, corrected for its bias of −1/batches and averaged over
    columns, above half its standard error 1/√batches) and 6 batches would remain. Independent readings mostly keep
    24 batches or a few more (each reading its own where there are fewer than 48), dependent ones end at 6 to 13.

    Simulated at nominal 90 %, Student's interval covers in 90 to 93 % of windows of 30, 200 and 2,000 independent
    readings (Gaussian, χ² with 5 degrees of freedom, Student t with 3; with 30 readings as skewed as χ² with 1
    degree of freedom 87 %, as a lognormal 86 %). Where a Gaussian's correlations decay as exp(−60·lag/steps), an
    integrated autocorrelation time of a thirtieth of the window, it covers in 88 %, and at twice that time in 86 to
    87 %; but of the square of such a Gaussian, as slow and strongly skewed, in 83 %. Answering chance correlations
    costs 7 to 10 % of the width.

    Args:
        samples: Readings, oldest first.
        batches: Number of batches, between 1 and the number of readings; None for the default.

    Source: Law & Carson (1979), A Sequential Procedure for Determining the Length of a Steady-State Simulation;
    Flegal & Jones (2010), Batch Means and Spectral Variance Estimators in Markov Chain Monte Carlo.
    """
    samples = _finite(samples, "samples")
    if batches is None:
        return _batched(samples, _batch_length(samples))
    if not 1 <= batches <= len(samples):
        raise BadArgument(f"`batches` must lie between 1 and the {len(samples)} readings, got {batches}.")
    return _batched(samples, len(samples) // batches, batches)


def mean(
    samples: Float[np.ndarray, " steps"],
    *,
    level: float = 0.9,
    unit: str = "",
    batches: int | None = None,
    spacing: float = 1.0,
) -> Estimate:
    """The mean of readings along a run, with Student's interval on their batch means.

    For independent values (losses over the examples of a test set) `batches=len(samples)` makes each its own
    batch. Readings that never vary give an interval of no width; fewer than four, or than `batches`, say nothing.

    Args:
        samples: Readings, oldest first.
        level: Confidence level, between 0 and 1.
        unit: Unit of the readings.
        batches: Number of batches, at least 4; None for as many as `batch_means` makes.
        spacing: Training steps from one reading to the next.

    Source: Law & Carson (1979); Flegal & Jones (2010).
    """
    samples = _finite(samples, "samples")
    _check(level, spacing)
    readings = len(samples)
    if (missing := _missing(readings, batches)) > 0:
        return _too_few(readings, missing * spacing, level, unit)
    length = readings // batches if batches else _batch_length(samples)
    means, value = _batched(samples, length, batches), float(samples.mean())
    margin = _quantile(level, len(means)) * math.sqrt(float(means.var(ddof=1)) * length / readings)
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
    level: float = 0.9,
    unit: str = "",
    batches: int | None = None,
    spacing: float = 1.0,
) -> Estimate:
    """Mean of `first` less mean of `second`, paired: both taken at the same steps, or on the same examples.

    What the two have in common cancels, and the interval is the narrower the more that is. Arguments as in `mean`.
    """
    first, second = _finite(first, "first"), _finite(second, "second")
    _check_paired("first", first, "second", second)
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
    """Mean of the numerator over mean of the denominator, with Fieller's interval on their batch means.

    Never the mean of the ratios, which is biased and has no finite variance. Where the denominator cannot be told
    from zero there is no upper end, and the interval says so: [L, ∞), "at least L". `needed` then is about how
    many more steps would bound it, from a standard error that falls as 1/√steps; after so many, 59 to 78 % were
    bounded in simulation. There is no such number where the denominator's mean is not above zero: taken at its
    word, no run however long would bound the ratio.

    Where `nonnegative`, a mean below zero is noise around a true mean of zero or more. The interval is widened to
    hold what a mean of exactly zero would give, so that a chance sign never claims more than zero would, and no
    interval is empty. The price: where the denominator is all noise, coverage rises from `level` towards
    (1 + level)/2, that of a one-sided bound. The value then is ∞ for a denominator at or below zero (the nearest
    possible denominator is zero, and ∞ is an end of the interval), 0 for a numerator below zero, NaN for both.

    Where not, and the denominator cannot be told from zero, the interval is the whole line: Fieller's set is that,
    or lacks a piece in its middle that no interval can leave out.

    Args:
        numerator, denominator: Readings at the same steps, oldest first, unbiased at every step.
        level: Confidence level, between 0 and 1.
        unit: Unit of the ratio.
        batches: Number of batches, at least 4; None for as many as `batch_means` makes of the readings of
            mean(denominator) × numerator − mean(numerator) × denominator, whose spread the interval rests on.
        spacing: Training steps from one reading to the next.
        nonnegative: Whether both true means are known not to be negative, as those of a noise scale are.

    Source: Fieller (1954), Some Problems in Interval Estimation; Franz (2007), Ratios: A Short Guide to Confidence
    Limits and Proper Use; the ratio of means: McCandlish et al. (2018), app. A.
    """
    numerator, denominator = _finite(numerator, "numerator"), _finite(denominator, "denominator")
    _check_paired("numerator", numerator, "denominator", denominator)
    _check(level, spacing)
    readings = len(numerator)
    if (missing := _missing(readings, batches)) > 0:
        return _too_few(readings, missing * spacing, level, unit)
    pairs = np.stack([numerator, denominator], axis=1)
    length = readings // batches if batches else _batch_length(_deciding(numerator, denominator))
    means, center = _batched(pairs, length, batches), pairs.mean(axis=0)
    covariance = np.cov(means, rowvar=False) * length / readings
    quantile = _quantile(level, len(means))
    value, low, high = ratio_interval(center, covariance, quantile, nonnegative)
    needed = None
    if not math.isfinite(high):
        told = float(center[1] if nonnegative else abs(center[1]))
        needed = steps_to_bound(told, quantile * math.sqrt(covariance[1, 1]), readings * spacing)
    return Estimate.interval(
        value,
        low,
        high,
        level=level,
        method=f"Fieller, {len(means)} batches of {length}",
        samples=readings,
        unit=unit,
        needed=needed,
    )


def proportion(successes: int, trials: int, level: float = 0.9) -> Estimate:
    """The share of successes in independent trials, such as an accuracy over test examples: Wilson's interval.

    It stays within [0, 1], and keeps a width at 0 and at 1, where the plain standard error is zero.

    Args:
        successes: Between 0 and `trials`.
        trials: At least 1.
        level: Confidence level, between 0 and 1.

    Source: Wilson (1927), Probable Inference, the Law of Succession, and Statistical Inference.
    """
    _check(level)
    if not trials >= 1:
        raise BadArgument(f"`trials` must be at least 1, got {trials}.")
    if not 0 <= successes <= trials:
        raise BadArgument(f"`successes` must lie between 0 and the {trials} trials, got {successes}.")
    share, z = successes / trials, float(ndtri((1 + level) / 2))
    shrinkage = 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / shrinkage
    margin = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / shrinkage
    low, high = max(middle - margin, 0.0), min(middle + margin, 1.0)
    return Estimate.interval(
        share,
        min(low, share),  # at 0 and 1 the end is the share itself, up to rounding
        max(high, share),
        level=level,
        method="Wilson score",
        samples=trials,
    )


def _batched(
    samples: Float[np.ndarray, "steps ..."], length: int, count: int | None = None
) -> Float[np.ndarray, "batches ..."]:
    count = len(samples) // length if count is None else count
    kept = samples[len(samples) - count * length :]
    means: np.ndarray = kept.reshape(count, length, *samples.shape[1:]).mean(axis=1)
    return means


def _batch_length(samples: Float[np.ndarray, "steps ..."]) -> int:
    length = max(len(samples) // MOST_BATCHES, 1)
    while len(samples) // (2 * length) >= FEWEST_BATCHES:
        means = _batched(samples, length)
        if not _lag_one_correlation(means) > CORRELATED / math.sqrt(len(means)):
            break
        length *= 2
    return length


def _lag_one_correlation(means: Float[np.ndarray, "batches ..."]) -> float:
    """Of neighbouring batch means, averaged over the columns that vary, corrected for its bias of −1/batches."""
    deviations = (means - means.mean(axis=0)).reshape(len(means), -1)
    size = np.abs(deviations).max(axis=0)
    if not (size > 0).any():
        return 0.0
    deviations = deviations[:, size > 0] / size[size > 0]
    correlations = (deviations[1:] * deviations[:-1]).sum(axis=0) / (deviations**2).sum(axis=0)
    return float(correlations.mean()) + 1 / len(means)


def _deciding(
    numerator: Float[np.ndarray, " steps"], denominator: Float[np.ndarray, " steps"]
) -> Float[np.ndarray, " steps"]:
    """Readings of a quantity whose mean is zero at the estimated ratio, n − r·d, times d so that d may be zero."""
    n, d = _scaled(numerator), _scaled(denominator)
    readings: np.ndarray = d.mean() * n - n.mean() * d
    return readings


def _scaled(samples: Float[np.ndarray, " steps"]) -> Float[np.ndarray, " steps"]:
    """By the largest; as they are where all are zero."""
    size = float(max(samples.max(), -samples.min()))
    return samples / size if size > 0 else samples


def _quantile(level: float, batches: int) -> float:
    return float(stdtrit(batches - 1, (1 + level) / 2))


def _missing(readings: int, batches: int | None) -> int:
    """Readings that must come before anything can be said."""
    if batches is not None and not batches >= min(FEWEST_READINGS, readings):
        raise BadArgument(f"`batches` must be at least {FEWEST_READINGS}, got {batches}: fewer hardly show a spread.")
    return max(FEWEST_READINGS, batches or 0) - readings


def _too_few(readings: int, missing_steps: float, level: float, unit: str) -> Estimate:
    needed = math.ceil(missing_steps)
    return Estimate.unknown(level=level, method="too few readings", samples=readings, unit=unit, needed=needed)


def _finite(samples: Float[np.ndarray, "steps ..."], name: str) -> Float[np.ndarray, "steps ..."]:
    samples = np.asarray(samples, dtype=np.float64)
    finite = np.isfinite(samples)
    if not finite.all():
        place = tuple(int(index) for index in np.argwhere(~finite)[0])
        position = place[0] if len(place) == 1 else place
        raise BadArgument(
            f"`{name}` must be finite, got {samples[place]} at position {position}: leave such readings out."
        )
    return samples


def _check(level: float, spacing: float = 1.0) -> None:
    if not 0 < level < 1:
        raise BadArgument(f"`level` must lie between 0 and 1, got {level}: write 0.9 for 90 %.")
    if not 0 < spacing < math.inf:
        raise BadArgument(f"`spacing` must be a positive number of training steps, got {spacing}.")


def _check_paired(name: str, samples: np.ndarray, other_name: str, other: np.ndarray) -> None:
    if len(samples) != len(other):
        raise BadArgument(
            f"`{name}` and `{other_name}` must be of the same steps, got {len(samples)} readings and {len(other)}."
        )
