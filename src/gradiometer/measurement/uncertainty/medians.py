"""The median of independent samples, with an interval for any distribution."""

import numpy as np
from jaxtyping import Float
from scipy.special import bdtr

from gradiometer.arguments import check_level
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate


def median(
    samples: Float[np.ndarray, " samples"], *, level: float = 0.9, unit: str = ""
) -> Estimate:
    """The median, with an interval between two order statistics. A few interrupted timings hardly
    change it.

    The k-th smallest and the k-th largest of n samples enclose the median of any distribution with
    probability 1 − 2 P(Binomial(n, ½) < k). The interval uses the largest k for which this is at
    least `level`. With too few samples (fewer than five at 90 %) the estimate is unknown. The
    samples must be independent.

    Source: David & Nagaraja (2003), Order Statistics, section 7.1.

    >>> import numpy as np
    >>> from gradiometer.measurement.uncertainty.medians import median
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
        needed = next(more for more in range(1, 1000) if _place(count + more, level) > 0)
        return Estimate.unknown(
            level=level, method="too few samples", samples=count, unit=unit, needed=needed
        )
    low, high = float(samples[place - 1]), float(samples[count - place])
    method = f"median of {count}"
    return Estimate.interval(
        float(np.median(samples)), low, high, level=level, method=method, samples=count, unit=unit
    )


def _place(count: int, level: float) -> int:
    """k, the largest rank whose order statistics enclose the median often enough; 0 if there is
    none."""
    place = 0
    while place < count // 2 and 1 - 2 * bdtr(place, count, 0.5) >= level:
        place += 1
    return place
