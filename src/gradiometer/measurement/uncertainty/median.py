"""The median of independent samples, with an interval that assumes nothing of how they are distributed."""

import numpy as np
from jaxtyping import Float
from scipy.special import bdtr

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate


def median(samples: Float[np.ndarray, " samples"], *, level: float = 0.9, unit: str = "") -> Estimate:
    """The median, between two of the samples in order: what a few interrupted timings cannot drag along.

    Of n samples the k-th from either end holds the median of their distribution between them with probability
    1 − 2 P(Binomial(n, ½) < k), whatever the distribution; k is the largest for which that is at least `level`.
    Fewer samples than that takes (five at 90 %) say nothing.

    Args:
        samples: Independent, in any order.
        level: Confidence level, between 0 and 1.
        unit: Unit of the samples.

    Source: David & Nagaraja (2003), Order Statistics, section 7.1.
    """
    samples = np.sort(np.asarray(samples, dtype=np.float64))
    if not np.isfinite(samples).all():
        raise BadArgument("`samples` must be finite: leave out what is not.")
    if not 0 < level < 1:
        raise BadArgument(f"`level` must lie between 0 and 1, got {level}: write 0.9 for 90 %.")
    count = len(samples)
    place = _place(count, level)
    if place == 0:
        needed = next(more for more in range(1, 1000) if _place(count + more, level) > 0)
        return Estimate.unknown(level=level, method="too few samples", samples=count, unit=unit, needed=needed)
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
    """k, the largest place from either end that is far enough out; 0 where none is."""
    place = 0
    while place < count // 2 and 1 - 2 * bdtr(place, count, 0.5) >= level:
        place += 1
    return place
