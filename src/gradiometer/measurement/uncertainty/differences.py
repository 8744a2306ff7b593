"""Differences between runs: of two estimates, and over the few runs of two groups, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit
from scipy.stats import chi2

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate

POWER = 0.8
"""Chance with which a difference as large as the one seen would be shown by the number of pairs that is named."""

MOST_PAIRS = 10_000
"""Beyond it no number of pairs is named: such a difference is nothing."""


@dataclass(frozen=True)
class PairsNeeded:
    """How many pairs of runs a difference of the size seen would take to be shown.

    Args:
        about: From the spread seen; infinite beyond `MOST_PAIRS`.
        low, high: From the ends of the interval of that spread, which few runs leave wide.
    """

    about: float
    low: float
    high: float

    def __str__(self) -> str:
        def words(pairs: float) -> str:
            return f"{pairs:,.0f}" if math.isfinite(pairs) else f"more than {MOST_PAIRS:,}"

        return f"about {words(self.about)} [{words(self.low)}, {words(self.high)}]"


def mean_over_pairs(differences: Sequence[float], level: float = 0.9, unit: str = "") -> Estimate:
    """The mean of differences, one a pair of runs with the same seed, with Student's interval, from two pairs on.

    Source: Student (1908), The Probable Error of a Mean.
    """
    pairs = _few(differences, "differences", 2)
    margin = _quantile(level, len(pairs) - 1) * float(pairs.std(ddof=1)) / math.sqrt(len(pairs))
    value = float(pairs.mean())
    return Estimate.interval(
        value,
        value - margin,
        value + margin,
        level=level,
        method=f"Student over {len(pairs)} pairs",
        samples=len(pairs),
        unit=unit,
    )


def difference_over_runs(
    first: Sequence[float], second: Sequence[float], level: float = 0.9, unit: str = ""
) -> Estimate:
    """Mean over the runs of one group less that of another, of seeds that are not paired.

    Student's interval with a pooled spread: one group may have a single run, if runs of both spread alike.

    Source: Student (1908); Welch (1938) on what becomes of it where they do not.
    """
    one, two = _few(first, "first", 1), _few(second, "second", 1)
    freedom = len(one) + len(two) - 2
    if not freedom >= 1:
        raise BadArgument("`first` and `second` have one run each: there is no spread between seeds to see; add a run.")
    pooled = math.sqrt(float(((one - one.mean()) ** 2).sum() + ((two - two.mean()) ** 2).sum()) / freedom)
    margin = _quantile(level, freedom) * pooled * math.sqrt(1 / len(one) + 1 / len(two))
    value = float(one.mean() - two.mean())
    return Estimate.interval(
        value,
        value - margin,
        value + margin,
        level=level,
        method=f"Student over {len(one)} and {len(two)} runs",
        samples=freedom + 2,
        unit=unit,
    )


def pairs_needed(difference: float, spread: float, freedom: int, level: float = 0.9) -> PairsNeeded:
    """Pairs of runs that would show a difference of this size with a chance of 80 %, as far as the spread is known.

    The smallest n ≥ 2 with |difference| √n / spread ≥ t_{(1+level)/2} + t_{0.8} at n − 1 degrees of freedom.

    Args:
        difference: Its size.
        spread: Standard deviation of the differences of single pairs.
        freedom: Degrees of freedom of that spread.
        level: Of the interval that would show it.

    Source: Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, ch. 2, in Student's approximation.
    """
    if not freedom >= 1:
        raise BadArgument(f"`freedom` must be at least 1, got {freedom}: one pair shows no spread.")
    # The spread's interval: χ² with as many degrees of freedom.
    widths = [spread * math.sqrt(freedom / chi2.ppf(tail, freedom)) for tail in ((1 + level) / 2, (1 - level) / 2)]
    low, high = (_smallest(difference, width, level) for width in widths)
    return PairsNeeded(_smallest(difference, spread, level), low, high)


def _smallest(difference: float, spread: float, level: float) -> float:
    pairs = np.unique(np.round(np.geomspace(2, MOST_PAIRS, 400)))
    reach = abs(difference) * np.sqrt(pairs)
    enough = reach >= spread * (stdtrit(pairs - 1, (1 + level) / 2) + stdtrit(pairs - 1, POWER))
    return float(pairs[enough.argmax()]) if enough.any() and difference else math.inf


def _few(values: Sequence[float], name: str, least: int) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if not len(found) >= least:
        raise BadArgument(f"`{name}` must hold at least {least} values, got {len(found)}: add runs of other seeds.")
    if not np.isfinite(found).all():
        raise BadArgument(f"`{name}` must be finite, got {found.tolist()}.")
    return found


def _quantile(level: float, freedom: int) -> float:
    if not 0 < level < 1:
        raise BadArgument(f"`level` must lie between 0 and 1, got {level}: write 0.9 for 90 %.")
    return float(stdtrit(freedom, (1 + level) / 2))
