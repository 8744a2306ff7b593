"""How a drifting quantity has changed since the beginning of a run."""

from dataclasses import dataclass

import numpy as np

from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.batch_means import finite_samples
from gradiometer.measurement.uncertainty.means import FEWEST_READINGS, mean, ratio_of_means
from gradiometer.measurement.uncertainty.now import (
    Readings,
    Steps,
)


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
    >>> from gradiometer.measurement.uncertainty.trends import trend
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
