"""Differences between two groups of a few runs each, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, stdtrit

from gradiometer.arguments import check_level
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate

# Largest number of pairs to report. A difference that needs more pairs is negligible.
MOST_PAIRS = 10_000


@dataclass(frozen=True)
class PairsNeeded:
    """How many pairs of runs would show a difference of the observed size.

    Args:
        about: Estimate from the observed spread; infinite above `MOST_PAIRS`.
        low, high: Estimates from the ends of the interval of that spread, which is wide for few
            runs.
    """

    about: float
    low: float
    high: float

    def __str__(self) -> str:
        about, low, high = (
            f"{pairs:,.0f}" if math.isfinite(pairs) else f"more than {MOST_PAIRS:,}"
            for pairs in (self.about, self.low, self.high)
        )
        return f"about {about} [{low}, {high}]"


def mean_over_pairs(differences: Sequence[float], level: float = 0.9, unit: str = "") -> Estimate:
    """The mean of the differences of at least two pairs of runs with the same seed, with Student's
    interval.

    Source: Student (1908), The Probable Error of a Mean.

    >>> from gradiometer.measurement.uncertainty.differences import mean_over_pairs
    >>> print(mean_over_pairs([0.021, 0.034, 0.027, 0.018]))
    0.0250 [0.0167, 0.0333]
    """
    pairs = _few(differences, "differences", 2)
    margin = _quantile(level, len(pairs) - 1) * float(pairs.std(ddof=1)) / math.sqrt(len(pairs))
    value = float(pairs.mean())
    method = f"Student over {len(pairs)} pairs"
    return Estimate.interval(
        value,
        value - margin,
        value + margin,
        level=level,
        method=method,
        samples=len(pairs),
        unit=unit,
    )


def difference_over_runs(
    first: Sequence[float], second: Sequence[float], level: float = 0.9
) -> Estimate:
    """Mean over the runs of one group minus that of another, with seeds that are not paired.

    Student's interval with a pooled spread, which assumes the same spread in both groups. One group
    may have a single run.

    Source: Student (1908); Welch (1938) for groups of different spread.
    """
    one, two = _few(first, "first", 1), _few(second, "second", 1)
    freedom = len(one) + len(two) - 2
    if not freedom >= 1:
        raise BadArgument(
            "`first` and `second` have one run each, which shows no spread between seeds: add a "
            "run."
        )
    pooled = math.sqrt(
        float(((one - one.mean()) ** 2).sum() + ((two - two.mean()) ** 2).sum()) / freedom
    )
    margin = _quantile(level, freedom) * pooled * math.sqrt(1 / len(one) + 1 / len(two))
    value = float(one.mean() - two.mean())
    method = f"Student over {len(one)} and {len(two)} runs"
    return Estimate.interval(
        value,
        value - margin,
        value + margin,
        level=level,
        method=method,
        samples=freedom + 2,
    )


def pairs_needed(difference: float, spread: float, freedom: int, level: float = 0.9) -> PairsNeeded:
    """How many pairs of runs would show a difference of this size with a probability of 80 %.

    The smallest n ≥ 2 with |difference| √n / spread ≥ t_{(1+level)/2} + t_{0.8} at n − 1 degrees of
    freedom.

    Args:
        difference: The difference.
        spread: Standard deviation of the differences of single pairs.
        freedom: Degrees of freedom of that spread.
        level: Level of the interval that should exclude zero.

    Source: Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, ch. 2, in
    Student's approximation.

    >>> from gradiometer.measurement.uncertainty.differences import pairs_needed
    >>> print(pairs_needed(difference=0.02, spread=0.03, freedom=4))
    about 16 [8, 80]
    """
    if not freedom >= 1:
        raise BadArgument(f"`freedom` must be at least 1, got {freedom}: one pair shows no spread.")
    # The interval of the spread: χ² with this many degrees of freedom.
    widths = [
        spread * math.sqrt(freedom / chdtri(freedom, 1 - tail))
        for tail in ((1 + level) / 2, (1 - level) / 2)
    ]
    low, high = (_smallest(difference, width, level) for width in widths)
    return PairsNeeded(_smallest(difference, spread, level), low, high)


def _smallest(difference: float, spread: float, level: float) -> float:
    pairs = np.unique(np.round(np.geomspace(2, MOST_PAIRS, 400)))
    reach = abs(difference) * np.sqrt(pairs)
    # 0.8: probability that `PairsNeeded.about` pairs show a difference as large as the observed
    # one.
    enough = reach >= spread * (stdtrit(pairs - 1, (1 + level) / 2) + stdtrit(pairs - 1, 0.8))
    return float(pairs[enough.argmax()]) if enough.any() and difference else math.inf


def _few(values: Sequence[float], name: str, least: int) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if not len(found) >= least:
        raise BadArgument(
            f"`{name}` must hold at least {least} values, got {len(found)}: add runs of other "
            "seeds."
        )
    if not np.isfinite(found).all():
        raise BadArgument(f"`{name}` must be finite, got {found.tolist()}.")
    return found


def _quantile(level: float, freedom: int) -> float:
    check_level(level)
    return float(stdtrit(freedom, (1 + level) / 2))
