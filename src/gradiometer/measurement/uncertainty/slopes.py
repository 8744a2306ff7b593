"""The slope of a noisy series along a run, with an interval for correlated values."""

import numpy as np
from jaxtyping import Float, Int

from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import FEWEST_READINGS, mean

UNIT = "per 1,000 steps"


def slope(
    steps: Int[np.ndarray, " logged"], values: Float[np.ndarray, " logged"], level: float = 0.9
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
    >>> from gradiometer.measurement.uncertainty.slopes import slope
    >>> steps, noise = np.arange(0, 3_000, 100), np.random.default_rng(0).normal(size=30)
    >>> print(slope(steps, 2.0 - 0.5 * steps / 1_000 + 0.1 * noise))
    −0.503 [−0.532, −0.475] per 1,000 steps
    """
    places = steps.astype(np.float64) / 1000
    if len(values) < FEWEST_READINGS or not np.ptp(places) > 0:
        return Estimate.unknown(
            level=level, method="too few values", samples=len(values), unit=UNIT
        )
    away = places - places.mean()
    size = float(away @ away)
    steepness = float(away @ values) / size
    residuals = values - values.mean() - steepness * away
    return mean(steepness + len(values) * away * residuals / size, level=level, unit=UNIT)
