"""Means of several differences at once, from a few pairs of runs: intervals that cover all of them
together."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr, polygamma, psi, stdtrit

from gradiometer.arguments import check_level
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.differences import mean_over_pairs

# Simulated sets of pairs behind a quantile: its level is known to ±0.5 %.
DRAWS = 4000

# Degrees of freedom that the common variance may be worth.
_LIKENESS = np.geomspace(0.2, 100, 400)

Differences = Float[np.ndarray, "pairs alternatives"]


def simultaneous_means(differences: Differences, *, level: float = 0.9) -> tuple[Estimate, ...]:
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
    >>> from gradiometer.measurement.uncertainty.simultaneous import simultaneous_means
    >>> differences = np.array([[0.021, -0.004], [0.034, 0.001], [0.027, -0.002], [0.018, 0.003]])
    >>> for mean in simultaneous_means(differences):
    ...     print(mean)
    0.0250 [0.0138, 0.0362]
    −0.000500 [−0.00544, 0.00444]
    """
    differences = _as_pairs(differences)
    check_level(level)
    pairs, alternatives = differences.shape
    if alternatives == 1:
        return (mean_over_pairs(differences[:, 0].tolist(), level),)
    values, variances = differences.mean(axis=0), differences.var(axis=0, ddof=1)
    largest = float(variances.max())
    margins = np.zeros(alternatives)
    if largest > 0:
        varied = variances > 0
        shared = _drawn_together(variances[varied] / largest, pairs - 1)
        quantile = _quantile(differences[:, varied] / math.sqrt(largest), level)
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
    >>> from gradiometer.measurement.uncertainty.simultaneous import over_examples_too
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
    quantile = float(stdtrit(examples - 1, (1 + level) / 2))
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


def _quantile(differences: Differences, level: float) -> float:
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
    if not len(found) >= 2:
        raise BadArgument(
            f"`differences` must hold at least 2 pairs, got {len(found)}: add runs of other seeds."
        )
    if not np.isfinite(found).all():
        raise BadArgument("`differences` must be finite: leave out runs that diverged.")
    return found
