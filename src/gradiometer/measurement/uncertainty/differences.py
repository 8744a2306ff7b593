"""Differences between groups of a few runs: one by one, or with intervals that cover all of them
together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import chdtri, ndtr, polygamma, psi, stdtrit

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import LEVEL, Estimate
from gradiometer.measurement.uncertainty.means import student_quantile

# Largest number of pairs. A difference that needs more is negligible, and more branches would fill
# the memory before the first one is trained.
MOST_PAIRS = 10_000

# Simulated sets of pairs behind a quantile: its level is known to ±0.5 %.
DRAWS = 4000

# Degrees of freedom that the common variance may be worth.
_LIKENESS = np.geomspace(0.2, 100, 400)

Differences = Float[np.ndarray, "pairs alternatives"]


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


def mean_of_few(differences: Sequence[float], level: float = LEVEL) -> Estimate:
    """The mean of at least two independent values, such as the differences of pairs of runs with
    the same seed, with Student's interval.

    Source: Student (1908), The Probable Error of a Mean.

    >>> from gradiometer.measurement.uncertainty.differences import mean_of_few
    >>> print(mean_of_few([0.021, 0.034, 0.027, 0.018]))
    0.0250 [0.0167, 0.0333]
    """
    pairs = _few(differences, "differences", 2)
    margin = (
        student_quantile(level, len(pairs) - 1) * float(pairs.std(ddof=1)) / math.sqrt(len(pairs))
    )
    value = float(pairs.mean())
    return Estimate.interval(
        value,
        value - margin,
        value + margin,
        level=level,
        method=f"Student over {len(pairs)} pairs",
        samples=len(pairs),
    )


def difference_over_runs(
    first: Sequence[float], second: Sequence[float], level: float = LEVEL
) -> Estimate:
    """Mean over the runs of one group minus that of another, with seeds that are not paired.

    Student's interval with a pooled spread, which assumes the same spread in both groups. One group
    may have a single run.

    Source: Student (1908); Welch (1938) for groups of different spread.
    """
    one, two = _few(first, "first", 1), _few(second, "second", 1)
    freedom = len(one) + len(two) - 2
    pooled = math.sqrt(
        float(((one - one.mean()) ** 2).sum() + ((two - two.mean()) ** 2).sum()) / freedom
    )
    margin = student_quantile(level, freedom) * pooled * math.sqrt(1 / len(one) + 1 / len(two))
    value = float(one.mean() - two.mean())
    return Estimate.interval(
        value,
        value - margin,
        value + margin,
        level=level,
        method=f"Student over {len(one)} and {len(two)} runs",
        samples=freedom + 2,
    )


def pairs_needed(
    difference: float, spread: float, freedom: int, level: float = LEVEL
) -> PairsNeeded:
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
    if len(found) < least:
        raise BadArgument(
            f"`{name}` must hold at least {least} values, got {len(found)}: add runs of other "
            "seeds."
        )
    if not np.isfinite(found).all():
        raise BadArgument(f"`{name}` must be finite, got {found.tolist()}.")
    return found


def simultaneous_means(differences: Differences, *, level: float = LEVEL) -> tuple[Estimate, ...]:
    """The mean difference of each alternative, with intervals that cover all means together at this
    level.

    With three or four pairs the variance of one alternative is hardly known, and Bonferroni's
    correction for six alternatives doubles Student's interval. Two things make the intervals
    narrower:

    - The variances of three or more alternatives are drawn towards their common size: the more
      alike they look, the more, but by half at most.
    - The quantile of the largest |mean|/error is simulated, for normal differences with the
      observed variances and half the observed correlations, and with the variances drawn together
      in the same way.

    At nominal 90 % they covered in 87 to 95 % of simulations with 2 to 8 pairs and 2 to 12
    alternatives whose standard deviations were equal or up to 25 times apart. With 4 pairs and 6
    alternatives of equal spread they were 25 % narrower than Bonferroni's.

    Args:
        differences: Alternative minus baseline, [pairs, alternatives], at least 2 pairs, finite.
        level: Probability that all intervals cover.

    Raises:
        BadArgument: There are fewer than two pairs, or a difference is not finite.

    Source: the largest of several t-statistics: Dunnett (1955), A Multiple Comparison Procedure for
        Comparing Several Treatments with a Control; variances drawn together: Smyth (2004), Linear
        Models and Empirical Bayes Methods for Assessing Differential Expression, section 6.2; the
        simulated quantile: Efron & Tibshirani (1993), An Introduction to the Bootstrap, section
        6.5.

    >>> import numpy as np
    >>> from gradiometer.measurement.uncertainty.differences import simultaneous_means
    >>> differences = np.array([[0.021, -0.004], [0.034, 0.001], [0.027, -0.002], [0.018, 0.003]])
    >>> for mean in simultaneous_means(differences):
    ...     print(mean)
    0.0250 [0.0138, 0.0362]
    −0.000500 [−0.00544, 0.00444]
    """
    differences = _as_pairs(differences)
    pairs, alternatives = differences.shape
    if alternatives == 1:
        return (mean_of_few(differences[:, 0].tolist(), level),)
    values, variances = differences.mean(axis=0), differences.var(axis=0, ddof=1)
    largest = float(variances.max())
    margins = np.zeros(alternatives)
    if largest > 0:
        varied = variances > 0
        shared = _drawn_together(variances[varied] / largest, pairs - 1)
        quantile = _simulated_quantile(differences[:, varied] / math.sqrt(largest), level)
        margins[varied] = quantile * np.sqrt(shared * largest / pairs)
    method = f"largest of {alternatives} t-statistics, {pairs} pairs"
    return tuple(
        Estimate.interval(
            value,
            value - margin,
            value + margin,
            level=level,
            method=method,
            samples=pairs,
        )
        for value, margin in zip(values.tolist(), margins.tolist(), strict=True)
    )


def over_examples_too(
    estimates: Sequence[Estimate], differences: Sequence[Float[np.ndarray, "_ examples"]]
) -> tuple[Estimate, ...]:
    """Estimates over pairs of runs on fixed examples, widened by the sampling of these examples.

    The variance between examples of the mean over pairs contains a share of the variance within
    pairs, which the
    estimates have counted: it is subtracted. The margins of both parts are added as squares. The
    intervals cover all
    means together if those of the estimates do: the quantile is that of the largest of as many
    normal variables with the correlations that the alternatives have over the examples.

    Args:
        estimates: The mean difference of each alternative, with its interval over pairs.
        differences: For each alternative its differences, [pairs, examples], at least 2 of each, on
            common examples.

    Source: two crossed samples: Searle, Casella & McCulloch (1992), Variance Components, section
        4.5; margins added as squares: Graybill & Wang (1980), Confidence Intervals on Nonnegative
        Linear Combinations of Variances.

    >>> import numpy as np
    >>> from gradiometer import Estimate
    >>> from gradiometer.measurement.uncertainty.differences import over_examples_too
    >>> here = Estimate.interval(2.0, 1.9, 2.1, level=0.9, method="Student over 2 pairs", samples=2)
    >>> (in_general,) = over_examples_too([here], [np.array([[1.0, 3.0, 2.0, 2.1], [0.9, 3.1, 1.9, 2.0]])])
    >>> print(in_general)
    2.00 [0.987, 3.01]
    """
    checked = [_as_pairs(each) for each in differences]
    examples = checked[0].shape[1]
    if not examples >= 2:
        raise BadArgument(f"`differences` must hold at least 2 examples, got {examples}.")
    across = np.stack([each.mean(axis=0) for each in checked], axis=1)
    level = _single_level(across, estimates[0].level)
    quantile = student_quantile(level, examples - 1)
    found = []
    for estimate, each in zip(estimates, checked, strict=True):
        wider = quantile * math.sqrt(_variance_of_sampling(each))
        low, high = estimate.value - estimate.low, estimate.high - estimate.value
        found.append(
            Estimate.interval(
                estimate.value,
                estimate.value - math.hypot(low, wider),
                estimate.value + math.hypot(high, wider),
                level=estimate.level,
                method=f"{estimate.method}; {examples:,} examples",
                samples=estimate.samples,
                unit=estimate.unit,
            )
        )
    return tuple(found)


def _variance_of_sampling(differences: Float[np.ndarray, "pairs examples"]) -> float:
    """The variance that the sampling of the examples gives the mean, beyond that within pairs."""
    pairs, examples = differences.shape
    across = differences.mean(axis=0)
    within = differences - across - differences.mean(axis=1, keepdims=True) + differences.mean()
    counted = (within**2).sum() / ((pairs - 1) * (examples - 1)) / (pairs * examples)
    return max(float(across.var(ddof=1) / examples - counted), 0.0)


def _single_level(across: Float[np.ndarray, "examples alternatives"], level: float) -> float:
    """The level of each of several normal variables with these correlations, all of which are to be
    covered."""
    varied = across[:, across.std(axis=0) > 0]
    if varied.shape[1] < 2:
        return level
    correlations = np.corrcoef(varied.T)
    values, axes = np.linalg.eigh(correlations)
    normal = (
        np.random.default_rng(0).standard_normal((DRAWS, len(values)))
        * np.sqrt(np.maximum(values, 0))
        @ axes.T
    )
    return float(2 * ndtr(np.quantile(np.abs(normal).max(axis=1), level)) - 1)


def _simulated_quantile(differences: Differences, level: float) -> float:
    """The quantile of the largest |mean|/error under normal differences with this covariance."""
    pairs, alternatives = differences.shape
    deviations = differences.std(axis=0, ddof=1)
    correlations = np.corrcoef(differences.T).reshape(alternatives, alternatives)
    covariance = (correlations + np.eye(alternatives)) / 2 * np.outer(deviations, deviations)
    root = np.linalg.cholesky(covariance / np.outer(deviations, deviations)).T * deviations
    normal = np.random.default_rng(0).standard_normal((DRAWS, pairs, alternatives)) @ root
    variances = _drawn_together(normal.var(axis=1, ddof=1), pairs - 1)
    largest = (np.abs(normal.mean(axis=1)) / np.sqrt(variances / pairs)).max(axis=-1)
    return float(np.quantile(largest, level))


def _drawn_together(
    variances: Float[np.ndarray, "*sets alternatives"], freedom: int
) -> Float[np.ndarray, "*sets alternatives"]:
    """Each variance as a mean of its own and the common one, weighted by how alike the variances
    look."""
    # 3: fewest alternatives whose variances are drawn towards each other. Two do not show how alike
    # they are.
    if variances.shape[-1] < 3:
        return variances
    logs = np.log(np.maximum(variances, 1e-12 * variances.max()))
    unlike = logs.var(axis=-1, ddof=1) - polygamma(1, freedom / 2)
    worth = np.interp(-unlike, -polygamma(1, _LIKENESS / 2), _LIKENESS)
    worth = np.minimum(worth, freedom)
    common = np.exp(
        logs.mean(axis=-1)
        - psi(freedom / 2)
        + np.log(freedom / 2)
        + psi(worth / 2)
        - np.log(worth / 2)
    )
    drawn: np.ndarray = ((worth * common)[..., None] + freedom * variances) / (
        worth[..., None] + freedom
    )
    return drawn


def _as_pairs(differences: np.ndarray) -> np.ndarray:
    """Differences as doubles, of at least two pairs."""
    found = np.asarray(differences, dtype=np.float64)
    if len(found) < 2:
        raise BadArgument(
            f"`differences` must hold at least 2 pairs, got {len(found)}: add runs of other seeds."
        )
    if not np.isfinite(found).all():
        raise BadArgument("`differences` must be finite: leave out runs that diverged.")
    return found
