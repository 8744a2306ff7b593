"""From the inner products of micro-batch gradients: the shape of the noise, each part of it unbiased.

A moment of g and Σ is a mean over micro-batches that are all different, so that no gradient meets itself: a mean of
⟨ĝ_i, ĝ_j⟩ over i ≠ j knows ‖g‖², a mean of ⟨ĝ_i, ĝ_j⟩⟨ĝ_j, ĝ_l⟩ knows ‖g‖⁴ + gᵀΣg/b, and so on.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gradiometer.errors import BadArgument

FEWEST = 4
"""Micro-batches needed: (tr Σ)² and ‖g‖⁴ are products of two pairs that have nothing in common."""


@dataclass(frozen=True)
class NoiseMoments:
    """What the inner products of one step tell of g and Σ, each unbiased for independent examples.

    Drawn without replacement from a training set, they are unbiased for the distribution that the set was drawn from.

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
        """From the inner products of the gradients of micro-batches of so many examples each.

        tr Σ² = mean ⟨i,j⟩² − 2 mean ⟨i,j⟩⟨j,l⟩ + mean ⟨i,j⟩⟨l,m⟩ over indices all different, and (tr Σ)² the same with
        ⟨i,i⟩⟨j,j⟩, ⟨i,i⟩⟨j,l⟩ and ⟨i,j⟩⟨l,m⟩. Neither changes when all gradients are moved by the same vector: they are
        taken from centred ones, where nothing large cancels.

        Raises:
            BadArgument: There are fewer than four micro-batches.

        Source: Chen, Zhang & Zhong (2010), Tests for High-Dimensional Covariance Matrices, section 2.
        """
        count = len(gram)
        if not count >= FEWEST:
            raise BadArgument(
                f"`gram` is of {count} micro-batches: the square of the noise needs at least {FEWEST}, two pairs that "
                "share none."
            )
        mean, middle = _Means(gram), _Means(_centred(gram))
        variance = float(np.diag(middle.gram).sum()) / (count - 1)
        return cls(
            gradient_variance=examples * variance,
            gradient_norm_squared=mean.pair,
            variance_along_gradient=examples * (mean.chain - mean.pairs),
            gradient_norm_fourth=mean.pairs,
            variance_times_norm_squared=examples * (mean.own_and_pair - mean.pairs),
            gradient_variance_squared=examples**2 * (middle.own_twice - 2 * middle.own_and_pair + middle.pairs),
            covariance_norm_squared=examples**2 * (middle.pair_squared - 2 * middle.chain + middle.pairs),
        )


class _Means:
    """Means over indices that are all different, from sums over all of them."""

    def __init__(self, gram: Float[np.ndarray, "parts parts"]) -> None:
        self.gram = gram
        own, off = np.diag(gram), gram - np.diag(np.diag(gram))
        rows, total, squares = off.sum(axis=1), off.sum(), float(np.square(off).sum())
        row_squares, ways = float(np.square(rows).sum()), self._ways
        self.pair = float(total) / ways(2)
        self.pair_squared = squares / ways(2)
        self.chain = (row_squares - squares) / ways(3)
        self.pairs = (float(total) ** 2 - 4 * row_squares + 2 * squares) / ways(4)
        self.own_twice = float(own.sum() ** 2 - np.square(own).sum()) / ways(2)
        self.own_and_pair = float(own @ (total - 2 * rows)) / ways(3)

    def _ways(self, indices: int) -> int:
        return math.perm(len(self.gram), indices)


def _centred(
    gram: Float[np.ndarray, "parts parts"],
) -> Float[np.ndarray, "parts parts"]:
    """The inner products of the gradients less their mean."""
    rows = gram.mean(axis=1)
    centred: np.ndarray = gram - rows[:, None] - rows[None, :] + rows.mean()
    return centred
