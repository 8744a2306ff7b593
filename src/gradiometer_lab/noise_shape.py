"""The number of directions of the gradient noise, and its part along the gradient (statement S2 of
the lecture)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import LEVEL, Estimate, Estimates
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.gauge import NOTHING_KNOWN, Gauge, RunFacts
from gradiometer.measurement.reading import GradientOf, Moments, Series, check_gradient_of
from gradiometer.measurement.uncertainty.arithmetic import transform

if TYPE_CHECKING:  # readings are estimated without torch
    import gradiometer.measurement.step


# Micro-batches needed: (tr Σ)² and ‖g‖⁴ are products of two pairs without a common member.
FEWEST = 4


def moments_of_gram(gram: Float[np.ndarray, "parts parts"], examples: int) -> dict[str, float]:
    """Moments of g and Σ from the inner products of the gradients of micro-batches of `examples`
    examples each, each unbiased for independent examples.

    If examples are drawn without replacement from a training set, the moments are unbiased for the
    distribution from which the set was drawn; `of_a_finite_population` corrects them for the set
    itself.

    tr Σ² = mean ⟨i,j⟩² − 2 mean ⟨i,j⟩⟨j,l⟩ + mean ⟨i,j⟩⟨l,m⟩ over indices all different, and
    (tr Σ)² the same with ⟨i,i⟩⟨j,j⟩, ⟨i,i⟩⟨j,l⟩ and ⟨i,j⟩⟨l,m⟩. Adding one vector to all gradients
    changes neither, so both are computed from centred gradients, which avoids cancellation of large
    numbers.

    Returns:
        tr Σ, ‖g‖², the noise along the gradient times ‖g‖² (gᵀΣg), ‖g‖⁴, tr Σ · ‖g‖², (tr Σ)² and
        tr Σ², by name.

    Raises:
        BadArgument: There are fewer than four micro-batches.

    Source: Chen, Zhang & Zhong (2010), Tests for High-Dimensional Covariance Matrices, section 2.
    """
    if len(gram) < FEWEST:
        raise BadArgument(
            f"`gram` has {len(gram)} micro-batches: the square of the noise needs at least "
            f"{FEWEST} (two pairs without a common member)."
        )
    rows = gram.mean(axis=1)
    centred = gram - rows[:, None] - rows + rows.mean()
    mean, middle = _Means(gram), _Means(centred)
    return {
        "gradient_variance": examples * float(np.diag(centred).sum()) / (len(gram) - 1),
        "gradient_norm_squared": mean.pair,
        "variance_along_gradient": examples * (mean.chain - mean.pairs),
        "gradient_norm_fourth": mean.pairs,
        "variance_times_norm_squared": examples * (mean.own_and_pair - mean.pairs),
        "gradient_variance_squared": examples**2
        * (middle.own_twice - 2 * middle.own_and_pair + middle.pairs),
        "covariance_norm_squared": examples**2
        * (middle.pair_squared - 2 * middle.chain + middle.pairs),
    }


def of_a_finite_population(
    moments: Mapping[str, Float[np.ndarray, " steps"]], finite: float
) -> dict[str, Float[np.ndarray, " steps"]]:
    """The moments of `moments_of_gram` for the mean g and the covariance S (divisor N − 1) of N
    examples themselves.

    Over batches drawn without replacement, the mean of a moment is that over all different examples
    of the set. That of ⟨g_i, g_j⟩ is ‖g‖² − tr S/N, and likewise, up to third and fourth moments of
    the gradients, divided by N²: gᵀSg − tr S²/N, tr S·‖g‖² − (tr S)²/N, and ‖g‖⁴ − (2 tr S·‖g‖² + 4
    gᵀSg)/N + ((tr S)² + 2 tr S²)/N². Here tr S² is that of the distribution, which `moments` has;
    that of the N examples is larger by the mean of ‖g_i − g‖⁴/N, and is not estimated.

    Args:
        moments: As measured.
        finite: 1/N; 0 changes nothing.

    Source: the expansion of a mean over all N⁴ indices by the indices that are equal; Cochran
    (1977), th. 2.2, for two.
    """
    variance, shape = moments["gradient_variance"], moments["covariance_norm_squared"]
    along, across = moments["variance_along_gradient"], moments["variance_times_norm_squared"]
    squared = moments["gradient_variance_squared"]
    fourth = (
        moments["gradient_norm_fourth"]
        + finite * (2 * across + 4 * along)
        + finite**2 * (squared + 2 * shape)
    )
    return {
        **moments,
        "gradient_norm_squared": moments["gradient_norm_squared"] + finite * variance,
        "variance_along_gradient": along + finite * shape,
        "variance_times_norm_squared": across + finite * squared,
        "gradient_norm_fourth": fourth,
    }


class _Means:
    """Means over distinct indices, computed from sums over all indices."""

    def __init__(self, gram: Float[np.ndarray, "parts parts"]) -> None:
        own, off = np.diag(gram), gram - np.diag(np.diag(gram))
        rows, total, squares = off.sum(axis=1), off.sum(), float(np.square(off).sum())
        row_squares, ways = float(np.square(rows).sum()), partial(math.perm, len(gram))
        self.pair = float(total) / ways(2)
        self.pair_squared = squares / ways(2)
        self.chain = (row_squares - squares) / ways(3)
        self.pairs = (float(total) ** 2 - 4 * row_squares + 2 * squares) / ways(4)
        self.own_twice = float(own.sum() ** 2 - np.square(own).sum()) / ways(2)
        self.own_and_pair = float(own @ (total - 2 * rows)) / ways(3)


@dataclass(frozen=True)
class NoiseShape(Gauge):
    """The effective dimension of the noise, and the norm, inner-product and orthogonality tests of
    ĝ.

    The moments come from the inner products of the gradients of k micro-batches of equal size
    (left-over examples are not used), and each is unbiased. The effective dimension (tr Σ)²/tr Σ²,
    between 1 and d, is the number of directions if the noise had the same size in each. The tests
    compare the error of ĝ in one batch with ‖g‖:

    - norm test: θ = √(tr Σ/B)/‖g‖, the whole error;
    - inner-product test: θ = √(gᵀΣg/B)/‖g‖², the part along g, which makes a step too long or too
      short;
    - orthogonality test: ν = √((tr Σ − gᵀΣg/‖g‖²)/B)/‖g‖, the part across g, which turns a step
      away from g.

    The papers raise B to keep each below a constant (0.9 for the inner product, 5.84 for the
    orthogonality). They use ‖ĝ‖ for ‖g‖, which the noise itself makes too large. For batches drawn
    without replacement from N examples, `estimate` corrects the tests to leading order in tr Σ/N;
    the effective dimension stays that of the distribution from which the training set was drawn.

    Costs k gradients of B/k examples: the arithmetic of one step, but the time of tens of steps in
    a tiny model, in which calls cost more than arithmetic. Needs memory for k × d numbers.

    Args:
        parts: k, at least 4. None makes every example a part, which is the most precise and needs B
            × d numbers.
        gradient_of: The g that is meant, "train" or "population"; see `GradientNoise`.

    Source: the participation ratio of Σ's eigenvalues; norm test: Byrd, Chin, Nocedal & Wu (2012),
        Sample Size Selection in Optimization Methods for Machine Learning; the other two:
        Bollapragada, Byrd & Nocedal (2018), Adaptive Sampling Strategies for Stochastic
        Optimization; as readings: Schneider, Dangel & Hennig (2021), Cockpit.
    """

    parts: int | None = 8
    gradient_of: GradientOf = "train"

    name: ClassVar[str] = "noise_shape"
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = "directions"
    labels: ClassVar[Mapping[str, str]] = {
        "effective_dimension": "directions of the noise, (tr Σ)² / tr Σ²",
        "norm_test": "norm test, √(tr Σ/B) / ‖g‖",
        "inner_product_test": "inner-product test, √(gᵀΣg/B) / ‖g‖²",
        "orthogonality_test": "orthogonality test, √((tr Σ − gᵀΣg/‖g‖²)/B) / ‖g‖",
    }
    one_in: ClassVar[int] = 16

    def __post_init__(self) -> None:
        if not (self.parts is None or self.parts >= FEWEST):
            raise BadArgument(
                f"`parts` must be at least {FEWEST}, got {self.parts}: the square of the noise "
                "needs two pairs without a common member."
            )
        check_gradient_of(self.gradient_of)

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """The moments of g and Σ from the inner products of micro-batch gradients."""
        from gradiometer.estimation.micro_batches import inner_products  # noqa: PLC0415 (it needs torch)

        count = step.batch_size if self.parts is None else self.parts
        return moments_of_gram(*inner_products(step, count))

    def estimate(self, series: Series, level: float = LEVEL) -> Estimates:
        """Effective dimension and the three tests, each a ratio of means."""
        finite = series.sampling.one_over_examples(self.gradient_of)
        moments, error = (
            of_a_finite_population(series.moments, finite),
            1 / series.batch_size - finite,
        )
        square = moments["gradient_norm_fourth"]
        across = moments["variance_times_norm_squared"] - moments["variance_along_gradient"]

        def ratio(
            numerator: Float[np.ndarray, " steps"], denominator: Float[np.ndarray, " steps"]
        ) -> Estimate:
            return series.ratio(numerator, denominator, level=level, fourth_powers=True)

        return {
            "effective_dimension": ratio(
                moments["gradient_variance_squared"], moments["covariance_norm_squared"]
            ),
            "norm_test": _root(
                series.ratio(
                    error * moments["gradient_variance"],
                    moments["gradient_norm_squared"],
                    level=level,
                )
            ),
            "inner_product_test": _root(ratio(error * moments["variance_along_gradient"], square)),
            "orthogonality_test": _root(ratio(error * across, square)),
        }

    def judge(self, estimates: Estimates, run: RunFacts = NOTHING_KNOWN) -> Finding | None:
        """The number of directions of the noise, and its parts along and across the gradient."""
        names = ("effective_dimension", "norm_test", "inner_product_test", "orthogonality_test")
        numbers = {name: estimates[name] for name in names}
        if not numbers["effective_dimension"].tells:
            return None
        if not numbers["norm_test"].tells:
            return Finding(self.name, self.issue, "noise_directions", State.CANNOT_TELL, numbers)
        return Finding(self.name, self.issue, "noise_shape", State.OK, numbers)


def _root(square: Estimate) -> Estimate:
    """The square root of an estimate whose true value cannot be negative."""
    return transform(square, lambda ratio: math.sqrt(max(ratio, 0.0)))


@dataclass(frozen=True)
class HeavyExamples(Gauge):
    """The share of Σ‖g_i‖² in the top tenth of a batch, and the variation of ‖g_i‖².

    The variation is Var ‖g_i‖²/(E‖g_i‖²)²: 0 if all norms are equal, 2 for a Gaussian in one
    direction, in the hundreds late in training, when only a few examples are not learnt yet. Then
    single readings vary wildly, windows must be long, and a few examples (mislabelled, or unlike
    all others) make most of the noise: `noisiest` lists them.

    The variation is a ratio of fourth powers of gradients, and the window does not show the effect
    of rare examples with still larger gradients. So only its lower bound is given; an upper bound
    would not hold (for lognormal ‖g_i‖² with a variation of 2, 8 and 54, in batches of 32,
    Fieller's fails in 16 to 76 % of windows of 30 to 200 steps).

    Costs about one step in a model of Linear layers on [examples, features], and the cost of
    per-example gradients elsewhere. Works only for a loss that does not couple the examples of a
    batch.

    Source: per-example norms: Goodfellow (2015), Efficient Per-Example Gradient Computations.
    """

    name: ClassVar[str] = "heavy_examples"
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = "(loss / parameter)²"
    labels: ClassVar[Mapping[str, str]] = {
        "top_tenth_share": "share of Σ‖gᵢ‖² of a batch’s top tenth",
        "norm_variation": "variation of ‖gᵢ‖², Var/E²",
        "example_norm_squared": "mean of ‖gᵢ‖²",
    }
    one_in: ClassVar[int] = 16

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """The means of ‖g_i‖², ‖g_i‖⁴ and ‖g_i‖²‖g_j‖² (i ≠ j), and the largest tenth's part of the
        first."""
        from gradiometer.estimation.micro_batches import squared_norms  # noqa: PLC0415 (it needs torch)

        norms = squared_norms(step.objective, step.batch, seed=step.seed_for("norms"))
        return norm_moments(norms.cpu().numpy())

    def estimate(self, series: Series, level: float = LEVEL) -> Estimates:
        """The share of the top tenth, the variation, and the mean of ‖g_i‖²."""
        moments = series.moments
        ratio = series.ratio(moments["square"], moments["pair"], level=level)
        return {
            "top_tenth_share": series.ratio(moments["top_tenth"], moments["mean"], level=level),
            "norm_variation": replace(
                transform(ratio, lambda square: max(square - 1, 0.0)), high=math.inf
            ),
            "example_norm_squared": series.mean(moments["mean"], level=level, unit=self.unit),
        }

    def judge(self, estimates: Estimates, run: RunFacts = NOTHING_KNOWN) -> Finding | None:
        """If few examples make most of the noise; None if that is not known yet."""
        share = estimates["top_tenth_share"]
        if not share.tells:
            return None
        claim, state = "noise_of_many", State.OK
        if share.low > 0.5:
            claim, state = "noise_of_few", State.LOOK
        numbers = {name: estimates[name] for name in ("top_tenth_share", "norm_variation")}
        return Finding(self.name, self.issue, claim, state, numbers)


def norm_moments(norms: Float[np.ndarray, " examples"]) -> dict[str, float]:
    """The moments of one batch's squared norms. The top tenth of 32 is the largest three and a
    fifth of the fourth."""
    size = len(norms)
    if not size >= 2:
        raise BadArgument(
            f"`norms` must hold at least 2 examples, got {size}: one shows no variation."
        )
    total, squares = float(norms.sum()), float(np.square(norms).sum())
    ordered, tenth = np.sort(norms)[::-1], size / 10
    whole = math.floor(tenth)
    top = float(ordered[:whole].sum()) + (tenth - whole) * float(ordered[whole])
    return {
        "mean": total / size,
        "square": squares / size,
        "pair": (total * total - squares) / (size * (size - 1)),
        "top_tenth": top / size,
    }
