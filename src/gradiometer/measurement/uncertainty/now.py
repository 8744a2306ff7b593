"""The value of a drifting quantity at the newest reading.

A mean over a window speaks of the whole window. If the quantity drifts, its value at the newest
reading is another number. Here it is estimated from all recent readings, with a drift that follows
a power of time and of the learning rate (see `power_law`). If the newest readings by themselves
contradict the result, the interval contains theirs too.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Shaped

from gradiometer.arguments import check_level
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import LEVEL, Estimate
from gradiometer.measurement.uncertainty.arithmetic import transform
from gradiometer.measurement.uncertainty.means import (
    FEWEST_READINGS,
    finite_samples,
    largest,
    mean,
    ratio_of_means,
)
from gradiometer.measurement.uncertainty.power_law import Drift, Mixture, open_above, power_law
from gradiometer.measurement.uncertainty.skewed import Tails, with_unseen_pairs

# How fast each quantity is expected to drift.
NOISE_PRIOR = Drift.of("noise")
SHARPNESS_PRIOR = Drift.of("sharpness")
TEMPERATURE_PRIOR = Drift.of("temperature")
SIGNAL_PRIOR = Drift.of("signal")
MOMENT_PRIOR = Drift.of("moment")

# Smallest number of readings. Fewer do not show a drift.
FEWEST = 16

Readings = Float[np.ndarray, " steps"]
Steps = Shaped[np.ndarray, " steps"]


def ratio_now(
    numerator: Readings,
    denominator: Readings,
    *,
    steps: Steps,
    learning_rate: Readings | None = None,
    level: float = LEVEL,
    unit: str = "",
    nonnegative: bool = True,
    prior: Drift = NOISE_PRIOR,
    rare_noise: float | None = None,
) -> Estimate:
    """The ratio of two moments at the newest reading, such as the noise scale tr Σ / ‖g‖² now.

    Denominator over numerator is taken to follow a power of time and of the learning rate. Single
    readings of the denominator may be negative by noise. An interval whose ends are more than 30
    apart is given as open, [L, ∞), "at least L"; then `needed` is about how many more steps would
    close it.

    The interval is for the ratio of means around the newest step, over a few per cent of the run:
    ‖g‖² itself jumps from step to step. An open interval's low end, L, holds for the results for
    which "at least L" is said, so it is lower near that decision. With fewer than 16 readings the
    estimate is unknown. With fewer than 8 since the learning
    rate last changed twofold, `method` says "extrapolated": the value rests on the drift that is
    usual after such a change.

    Args:
        numerator, denominator: Readings at the same steps, oldest first, each unbiased.
        steps: Training step of each reading, increasing.
        learning_rate: η at each reading, at least 0. Default: it did not change.
        level: Confidence level, between 0 and 1.
        unit: Unit of the ratio.
        nonnegative: True if neither true mean is below zero, as for a noise scale. False for a
            ratio of either sign: unless both are clearly positive, the one that is more surely so
            is taken as the unit of the other, and the estimate is unknown if that other may be a
            zero denominator.
        prior: The drift that is expected of denominator over numerator.
        rare_noise: For heavy tails, the largest standard deviation that noise of size 1 in the
            numerator can give one reading of the denominator: 2/B for tr Σ over ‖g‖² from two
            halves of a batch of B. The lower end then has room for pairs of rare examples that the
            readings do not contain.

    Raises:
        BadArgument: The arrays differ in length, a reading is not finite, the steps do not
            increase, or a rate is negative.

    Source: estimating equations: Godambe (1960), An Optimum Property of Regular Maximum Likelihood
        Estimation. Their weights are this package's own.

    >>> import numpy as np
    >>> from gradiometer.measurement.uncertainty import ratio_of_means
    >>> from gradiometer.measurement.uncertainty.now import ratio_now
    >>> steps, noise = np.arange(1, 201), np.random.default_rng(0).normal(size=200)
    >>> signal = 10 / steps  # ‖g‖² falls, so the noise scale rises from 10 to 2,000
    >>> variance = np.full(200, 100.0)
    >>> print(ratio_now(variance, signal * (1 + 0.3 * noise), steps=steps, unit="examples"))
    1,980 [1,630, 2,570] examples
    >>> print(ratio_of_means(variance, signal * (1 + 0.3 * noise), unit="examples"))
    337 [241, 559] examples
    """
    numerator, denominator = (
        finite_samples(numerator, "numerator"),
        finite_samples(denominator, "denominator"),
    )
    steps, learning_rate = _as_doubles(
        steps, learning_rate, numerator=numerator, denominator=denominator
    )
    check_level(level)
    if len(steps) < FEWEST:
        return _too_few(steps, level, unit)

    size = largest(numerator), largest(denominator)
    above, below = numerator / size[0], denominator / size[1]

    def recent(count: int, level: float) -> Estimate:
        return ratio_of_means(above[-count:], below[-count:], level=level, nonnegative=nonnegative)

    sure = _errors_above_zero(above), _errors_above_zero(below)
    # 4.0: standard errors above zero from which a moment of either sign counts as positive.
    positive = nonnegative or min(sure) > 4.0
    direct = not positive and sure[1] >= sure[0]
    values, units = (above, below) if direct else (below, above)
    sizes = np.sqrt(_neighbours(above) * _neighbours(below)) if positive else _neighbours(units)
    found = _value_now(
        values, units, sizes, steps, learning_rate, prior, level, positive, inverse=direct
    )
    if found is None or (positive and not found[1] > 0):
        estimate = recent(len(steps), level)
    elif direct:
        estimate = _widen(
            _estimate(found[1], found[0], found[2], len(steps), level, learning_rate), recent
        )
    elif not positive and found[0] <= 0 <= found[2]:
        estimate = Estimate.unknown(level=level, method=_method(learning_rate), samples=len(steps))
    else:
        low, value, high, mixture = found
        if positive and rare_noise is not None:
            used = _newest(prior, len(steps))
            weights = above[used] / sizes[used]
            spread = float(np.std(below[used] / sizes[used] - value * weights) / weights.mean())
            rare_noise *= size[0] / size[1]
            high = with_unseen_pairs(value, high, spread, Tails.of(above).excess, rare_noise)
        # An end of zero is the inverse of an open end.
        least, most = (1 / end if end != 0 else math.inf for end in (high, low))
        estimate = _estimate(1 / value, least, most, len(steps), level, learning_rate)
        estimate = _widen(estimate, recent)
        if positive:
            estimate = open_above(
                estimate, mixture, value, value - low, float(steps[-1] - steps[0])
            )
    scale = min(size[0] / size[1], sys.float_info.max)
    return transform(estimate, lambda ratio: ratio * scale, unit=unit)


def mean_now(
    samples: Readings,
    *,
    steps: Steps,
    learning_rate: Readings | None = None,
    level: float = LEVEL,
    unit: str = "",
    prior: Drift = MOMENT_PRIOR,
) -> Estimate:
    """The mean of one moment at the newest reading, such as tr Σ, ‖g‖² or a temperature, of either
    sign.

    As `ratio_now`, with the moment itself following the power law. Both ends are finite from 16
    readings on.

    Args:
        samples: Readings, oldest first, each unbiased.
        steps, learning_rate, level: See `ratio_now`.
        unit: Unit of the readings.
        prior: The drift that is expected.

    >>> import numpy as np
    >>> from gradiometer.measurement.uncertainty import mean
    >>> from gradiometer.measurement.uncertainty.now import mean_now
    >>> steps, noise = np.arange(1, 201), np.random.default_rng(0).normal(size=200)
    >>> samples = 10 / np.sqrt(steps) * (1 + 0.3 * noise)  # ends at 0.71
    >>> print(mean_now(samples, steps=steps))
    0.699 [0.528, 0.868]
    >>> print(mean(samples))
    1.35 [0.959, 1.74]
    """
    samples = finite_samples(samples, "samples")
    steps, learning_rate = _as_doubles(steps, learning_rate, samples=samples)
    check_level(level)
    if len(steps) < FEWEST:
        return _too_few(steps, level, unit)

    size = largest(samples)
    scaled, positive = samples / size, bool((samples > 0).all())

    def recent(count: int, level: float) -> Estimate:
        return mean(scaled[-count:], level=level)

    found = _value_now(
        scaled,
        np.ones(len(steps)),
        _neighbours(scaled),
        steps,
        learning_rate,
        prior,
        level,
        positive,
    )
    if found is None:
        estimate = recent(len(steps), level)
    else:
        low, value, high, _ = found
        estimate = _widen(_estimate(value, low, high, len(steps), level, learning_rate), recent)
    return transform(estimate, lambda mean: mean * size, unit=unit)


def _value_now(
    values: Readings,
    units: Readings,
    sizes: Readings,
    steps: Readings,
    learning_rate: Readings | None,
    prior: Drift,
    level: float,
    positive: bool,
    *,
    inverse: bool = False,
) -> tuple[float, float, float, Mixture] | None:
    """Low end, median, high end and law of the factor between values and units at the newest
    reading."""
    if not (values.any() and units.any()):
        return None
    newest = _newest(prior, len(steps))
    rate = None if learning_rate is None else learning_rate[newest]
    mixture = power_law(
        (values / sizes)[newest],
        (units / sizes)[newest],
        steps[newest],
        rate,
        prior,
        inverse=inverse,
    )
    if mixture is None:
        return None
    shares = np.array([(1 - level) / 2, 0.5, (1 + level) / 2])
    low, value, high = (float(each) for each in mixture.quantiles(shares, positive))
    return None if math.isnan(value) else (low, value, high, mixture)


def _newest(prior: Drift, readings: int) -> slice:
    """The readings that are used."""
    return slice(-max(FEWEST, math.ceil(prior.share * readings)), None)


def _neighbours(sizes: Readings) -> Readings:
    """For each reading the mean size of its neighbours without itself, so that readings weigh
    alike.

    A reading divided by a mean that contains it would be biased.
    """
    sizes = np.abs(sizes)
    sums, place = np.concatenate([[0.0], np.cumsum(sizes)]), np.arange(len(sizes))
    # Seven neighbours on either side, fewer at the ends.
    first, last = np.maximum(place - 7, 0), np.minimum(place + 8, len(sizes))
    means: np.ndarray = (sums[last] - sums[first] - sizes) / (last - first - 1)
    means += 1e-9 * sizes.mean()
    return means


def _widen(estimate: Estimate, recent: Callable[[int, float], Estimate]) -> Estimate:
    """The estimate, widened to contain the intervals of the newest readings that contradict it."""
    low, high, contradicted = estimate.low, estimate.high, False
    # The newest 16th, 8th and 4th of the readings, and at least 8.
    for share in (16, 8, 4):
        count = max(8, estimate.samples // share)
        strict = recent(count, 0.95)
        if not strict.low <= estimate.value <= strict.high:
            plain = recent(count, estimate.level)
            low, high, contradicted = min(low, plain.low), max(high, plain.high), True
    if not contradicted:
        return estimate
    return replace(
        estimate,
        low=low,
        high=high,
        method=f"{estimate.method}, widened to contain the newest readings",
    )


def _method(learning_rate: Readings | None) -> str:
    """The name of the method; "extrapolated" if few readings were made at about the newest rate."""
    name = "now, power law of time" if learning_rate is None else "now, power law of time and rate"
    if learning_rate is None or not learning_rate.max() > 0:
        return name
    newest = learning_rate[-1]
    changed = ~((learning_rate <= 2 * newest) & (learning_rate >= newest / 2))
    since = int(np.argmax(changed[::-1])) if changed.any() else len(learning_rate)
    # 8: readings at about the newest learning rate. With fewer, the value there is extrapolated.
    return f"{name}, extrapolated" if since < 8 else name


def _estimate(
    value: float,
    low: float,
    high: float,
    samples: int,
    level: float,
    learning_rate: Readings | None,
) -> Estimate:
    return Estimate.interval(
        value, low, high, level=level, method=_method(learning_rate), samples=samples
    )


def _errors_above_zero(samples: Readings) -> float:
    """How many of its plain standard errors the mean is above zero."""
    mean, error = float(samples.mean()), float(samples.std()) / math.sqrt(len(samples))
    return mean / error if error > 0 else math.copysign(math.inf, mean)


def _too_few(steps: Readings, level: float, unit: str) -> Estimate:
    count = len(steps)
    spacing = float(steps[-1] - steps[0]) / (count - 1) if count > 1 else 1.0
    needed = math.ceil((FEWEST - count) * spacing)
    return Estimate.unknown(
        level=level, method="too few readings", samples=count, unit=unit, needed=needed
    )


def _as_doubles(
    steps: np.ndarray, learning_rate: np.ndarray | None, **samples: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Steps and rates in double precision, if they fit to the readings."""
    steps = finite_samples(np.asarray(steps, dtype=np.float64), "steps")
    others = {**samples, "steps": steps}
    if learning_rate is not None:
        learning_rate = finite_samples(learning_rate, "learning_rate")
        others["learning_rate"] = learning_rate
        if not (learning_rate >= 0).all():
            raise BadArgument(f"`learning_rate` must be at least 0, got {learning_rate.min()}.")
    first, count = next((name, len(each)) for name, each in others.items())
    for name, each in others.items():
        if len(each) != count:
            raise BadArgument(
                f"`{name}` must have one entry for each of the {count} of `{first}`, got "
                f"{len(each)}."
            )
    if len(steps) > 1 and not (np.diff(steps) > 0).all():
        place = int((np.diff(steps) <= 0).argmax())
        raise BadArgument(
            f"`steps` must increase, got {steps[place]:g} and then {steps[place + 1]:g}."
        )
    return steps, learning_rate


@dataclass(frozen=True)
class Trend:
    """How a drifting quantity has changed since the beginning of its readings.

    Attributes:
        early: Its estimate over the first third of the readings.
        step: The training step in the middle of them.
        direction: 1 if it is shown to have risen since, −1 if fallen, 0 if neither is shown.
    """

    early: Estimate
    step: int
    direction: int


def trend(
    numerator: Readings,
    denominator: Readings | None = None,
    *,
    steps: Steps,
    now: Estimate,
    level: float = LEVEL,
) -> Trend | None:
    """The early value of a ratio (or, without a denominator, of a mean), and if the change since is
    shown.

    A rise is shown if the low end now is above the high end of the first third. None with fewer
    than 12 readings.

    Args:
        numerator, denominator, steps: As in `ratio_now`.
        now: The estimate at the newest reading.
        level: Confidence level of the early value.

    >>> import numpy as np
    >>> from gradiometer.measurement.uncertainty.now import ratio_now
    >>> from gradiometer.measurement.uncertainty.now import trend
    >>> steps, noise = np.arange(1, 201), np.random.default_rng(0).normal(size=200)
    >>> variance, norm_squared = np.full(200, 100.0), 10 / steps * (1 + 0.3 * noise)
    >>> now = ratio_now(variance, norm_squared, steps=steps)
    >>> found = trend(variance, norm_squared, steps=steps, now=now)
    >>> found.step, found.direction
    (34, 1)
    """
    numerator = finite_samples(numerator, "numerator")
    third = len(numerator) // 3
    if third < FEWEST_READINGS:
        return None
    if denominator is None:
        early = mean(numerator[:third], level=level, unit=now.unit)
    else:
        early = ratio_of_means(numerator[:third], denominator[:third], level=level, unit=now.unit)
    direction = int(now.low > early.high) - int(now.high < early.low)
    return Trend(early, round(float(np.median(steps[:third]))), direction)
