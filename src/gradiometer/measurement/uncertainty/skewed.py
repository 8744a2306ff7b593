"""The mean of independent, strongly skewed values, such as the losses of test examples."""

import math

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import FEWEST_READINGS, mean

METHOD = "Student, skewness removed"


def skewed_mean(samples: Float[np.ndarray, " examples"], *, level: float = 0.9, unit: str = "") -> Estimate:
    """The mean, with Student's interval after a transformation that removes the skewness of Student's ratio.

    The few test examples that a network gets wrong make most of its loss. A sample with too few of them has too
    small a mean and too small a spread, so the plain interval ends too low. Simulated at nominal 90 %, with losses of
    which 2 % are not zero but exponential above 1, this interval covers in 84, 94 and 91 % with 100, 270 and 1,000
    examples, and the plain one in 76, 85 and 89 %. For Gaussian, exponential and lognormal values it covers in 87 to
    91 % from 30 samples on. Do not use it for differences: their tails are long on both sides, and their sample
    skewness is chance.

    Source: Hall (1992), On the Removal of Skewness by Transformation, eq. 2.4, and its inverse.
    """
    plain = mean(samples, level=level, unit=unit, batches=max(len(samples), FEWEST_READINGS))
    spread = float(np.std(samples, ddof=1)) if len(samples) >= FEWEST_READINGS else 0.0
    if not spread > 0:
        return plain
    size = len(samples)
    skewness = float((((samples - plain.value) / spread) ** 3).mean()) / math.sqrt(size)
    quantile = float(stdtrit(size - 1, (1 + level) / 2))
    below, above = (_untransformed(end, skewness) * spread / math.sqrt(size) for end in (quantile, -quantile))
    return Estimate.interval(
        plain.value, plain.value - below, plain.value - above, level=level, method=METHOD, samples=size, unit=unit
    )


def _untransformed(ratio: float, skewness: float) -> float:
    """The t whose transform t + at²/3 + a²t³/27 + a/6 is this ratio; a is the skewness over √n."""
    if abs(skewness) < 1e-6:
        return ratio
    return 3 / skewness * (float(np.cbrt(1 + skewness * (ratio - skewness / 6))) - 1)
