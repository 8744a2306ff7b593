"""Unbiased moments of the gradient noise from the inner products of micro-batch gradients.

Every moment of g and Σ is a mean over different micro-batches, so that no gradient is multiplied by
itself: the mean of ⟨ĝ_i, ĝ_j⟩ over i ≠ j estimates ‖g‖², the mean of ⟨ĝ_i, ĝ_j⟩⟨ĝ_j, ĝ_l⟩ estimates
‖g‖⁴ + gᵀΣg/b, and so on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from gradiometer.errors import BadArgument

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
