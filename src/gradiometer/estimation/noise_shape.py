"""The number of directions of the gradient noise, and its part along the gradient (statement S2 of
the lecture)."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate, Estimates
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.gauge import NOTHING_KNOWN, Gauge, RunFacts
from gradiometer.measurement.reading import GradientOf, Moments, Series, check_gradient_of
from gradiometer.measurement.uncertainty.arithmetic import transform

if TYPE_CHECKING:  # readings are estimated without torch
    import gradiometer.measurement.step


FEWEST = 4
"""Micro-batches needed: (tr Σ)² and ‖g‖⁴ are products of two pairs without a common member."""


@dataclass(frozen=True)
class NoiseMoments:
    """Moments of g and Σ from the inner products of one step, each unbiased for independent
    examples.

    If examples are drawn without replacement from a training set, the moments are unbiased for the
    distribution from which the set was drawn; `of_a_finite_population` corrects them for the set
    itself.

    Args:
        gradient_variance: tr Σ.
        gradient_norm_squared: ‖g‖².
        variance_along_gradient: gᵀΣg, the noise along the gradient times ‖g‖².
        gradient_norm_fourth: ‖g‖⁴.
        variance_times_norm_squared: tr Σ · ‖g‖².
        gradient_variance_squared: (tr Σ)².
        covariance_norm_squared: tr Σ².
    """

    gradient_variance: float
    gradient_norm_squared: float
    variance_along_gradient: float
    gradient_norm_fourth: float
    variance_times_norm_squared: float
    gradient_variance_squared: float
    covariance_norm_squared: float

    @classmethod
    def of(cls, gram: Float[np.ndarray, "parts parts"], examples: int) -> "NoiseMoments":
        """Moments from the inner products of the gradients of micro-batches of `examples` examples
        each.

        tr Σ² = mean ⟨i,j⟩² − 2 mean ⟨i,j⟩⟨j,l⟩ + mean ⟨i,j⟩⟨l,m⟩ over indices all different, and
        (tr Σ)² the same with ⟨i,i⟩⟨j,j⟩, ⟨i,i⟩⟨j,l⟩ and ⟨i,j⟩⟨l,m⟩. Adding one vector to all
        gradients changes neither, so both are computed from centred gradients, which avoids
        cancellation of large numbers.

        Raises:
            BadArgument: There are fewer than four micro-batches.

        Source: Chen, Zhang & Zhong (2010), Tests for High-Dimensional Covariance Matrices, section
        2.
        """
        count = len(gram)
        if not count >= FEWEST:
            raise BadArgument(
                f"`gram` has {count} micro-batches: the square of the noise needs at least "
                f"{FEWEST} (two pairs without a common member)."
            )
        mean, middle = _Means(gram), _Means(_centre(gram))
        variance = float(np.diag(middle.gram).sum()) / (count - 1)
        return cls(
            gradient_variance=examples * variance,
            gradient_norm_squared=mean.pair,
            variance_along_gradient=examples * (mean.chain - mean.pairs),
            gradient_norm_fourth=mean.pairs,
            variance_times_norm_squared=examples * (mean.own_and_pair - mean.pairs),
            gradient_variance_squared=examples**2
            * (middle.own_twice - 2 * middle.own_and_pair + middle.pairs),
            covariance_norm_squared=examples**2
            * (middle.pair_squared - 2 * middle.chain + middle.pairs),
        )


def of_a_finite_population(
    moments: Mapping[str, Float[np.ndarray, " steps"]], finite: float
) -> dict[str, Float[np.ndarray, " steps"]]:
    """The moments of `NoiseMoments` for the mean g and the covariance S (divisor N − 1) of N
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
        self.gram = gram
        own, off = np.diag(gram), gram - np.diag(np.diag(gram))
        rows, total, squares = off.sum(axis=1), off.sum(), float(np.square(off).sum())
        row_squares, ways = float(np.square(rows).sum()), partial(math.perm, len(gram))
        self.pair = float(total) / ways(2)
        self.pair_squared = squares / ways(2)
        self.chain = (row_squares - squares) / ways(3)
        self.pairs = (float(total) ** 2 - 4 * row_squares + 2 * squares) / ways(4)
        self.own_twice = float(own.sum() ** 2 - np.square(own).sum()) / ways(2)
        self.own_and_pair = float(own @ (total - 2 * rows)) / ways(3)


def _centre(gram: Float[np.ndarray, "parts parts"]) -> Float[np.ndarray, "parts parts"]:
    """The inner products of the centred gradients."""
    rows = gram.mean(axis=1)
    centred: np.ndarray = gram - rows[:, None] - rows + rows.mean()
    return centred


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
        if self.parts is not None and not self.parts >= FEWEST:
            raise BadArgument(
                f"`parts` must be at least {FEWEST}, got {self.parts}: the square of the noise "
                "needs two pairs without a common member."
            )
        check_gradient_of(self.gradient_of)

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """The moments of g and Σ from the inner products of micro-batch gradients."""
        from gradiometer.estimation.micro_batches import inner_products  # noqa: PLC0415 (it needs torch)

        count = step.batch_size if self.parts is None else self.parts
        return asdict(NoiseMoments.of(*inner_products(step, count)))

    def estimate(self, series: Series, level: float = 0.9) -> Estimates:
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
