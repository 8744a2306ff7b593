"""How a drifting quantity has changed: its trend since the beginning of a run, and its curve along the run."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.batch_means import finite_samples
from gradiometer.measurement.uncertainty.means import FEWEST_READINGS, mean, ratio_of_means
from gradiometer.measurement.uncertainty.now import (
    FEWEST,
    MOMENT_PRIOR,
    NOISE_PRIOR,
    Readings,
    Steps,
    mean_now,
    ratio_now,
)
from gradiometer.measurement.uncertainty.power_law import Drift


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
    level: float = 0.9,
) -> Trend | None:
    """The early value of a ratio (or, without a denominator, of a mean), and if the change since is shown.

    A rise is shown if the low end now is above the high end of the first third. None with fewer than 12 readings.

    Args:
        numerator, denominator, steps: As in `ratio_now`.
        now: The estimate at the newest reading.
        level: Confidence level of the early value.

    >>> import numpy as np
    >>> from gradiometer.measurement.uncertainty import ratio_now, trend
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


@dataclass(frozen=True)
class Curve:
    """Estimates at the newest of ever more readings.

    Attributes:
        steps: Training step of each estimate, [points].
        value, low, high: The estimates and the ends of their intervals, [points]; an end may be infinite.
    """

    steps: Float[np.ndarray, " points"]
    value: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"]
    high: Float[np.ndarray, " points"]


def along(
    numerator: Readings,
    denominator: Readings | None = None,
    *,
    steps: Steps,
    learning_rate: Readings | None = None,
    level: float = 0.9,
    prior: Drift | None = None,
    points: int = 40,
) -> Curve:
    """The curve of a drifting ratio, or without a denominator of a mean: each point uses the readings up to its step.

    Arguments as in `ratio_now` and `mean_now`. There is no point before the 16th reading.

    >>> import numpy as np
    >>> from gradiometer.measurement.uncertainty import along
    >>> steps = np.arange(1, 101)
    >>> curve = along(np.full(100, 100.0), 10.0 / (20 + steps), steps=steps, points=3)
    >>> curve.steps, curve.value.round()
    (array([ 16.,  58., 100.]), array([ 351.,  768., 1128.]))
    """
    if not points >= 1:
        raise BadArgument(f"`points` must be at least 1, got {points}.")
    ends = np.unique(np.linspace(FEWEST, len(numerator), points).round().astype(int))
    ends = ends[ends >= FEWEST] if len(numerator) >= FEWEST else ends[:0]

    def at(end: int) -> Estimate:
        rate = None if learning_rate is None else learning_rate[:end]
        if denominator is None:
            return mean_now(
                numerator[:end], steps=steps[:end], learning_rate=rate, level=level, prior=prior or MOMENT_PRIOR
            )
        return ratio_now(
            numerator[:end],
            denominator[:end],
            steps=steps[:end],
            learning_rate=rate,
            level=level,
            prior=prior or NOISE_PRIOR,
        )

    estimates = [at(int(end)) for end in ends]
    return Curve(
        np.asarray(steps, dtype=np.float64)[ends - 1],
        np.array([estimate.value for estimate in estimates]),
        np.array([estimate.low for estimate in estimates]),
        np.array([estimate.high for estimate in estimates]),
    )
