"""Checks of symmetric matrices, given as eigenvalues or in full."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from gradiometer.errors import BadArgument

Matrix = Float[np.ndarray, "params params"]

ROUNDING = 1e-10
"""Largest asymmetry or negative eigenvalue, relative to the largest entry, that counts as rounding."""

SINGULAR = 1e-14
"""The smallest ratio of the smallest to the largest eigenvalue that double precision resolves."""


def definite(name: str, given: ArrayLike) -> Matrix:
    """A positive definite matrix from its eigenvalues along the axes, [params], or in full, [params, params].

    Raises:
        BadArgument: It is not symmetric, finite and positive definite.
    """
    matrix = _symmetric(name, given)
    levels = np.linalg.eigvalsh(matrix)
    if not levels[0] > SINGULAR * abs(levels[-1]):
        raise BadArgument(f"`{name}` must be positive definite, but its smallest eigenvalue is {levels[0]:.3g}.")
    return matrix


def semidefinite(name: str, given: ArrayLike) -> Matrix:
    """A positive semi-definite matrix from its eigenvalues along the axes, [params], or in full, [params, params].

    Raises:
        BadArgument: It is not symmetric, finite and positive semi-definite.
    """
    matrix = _symmetric(name, given)
    levels = np.linalg.eigvalsh(matrix)
    if not levels[0] >= -ROUNDING * abs(levels[-1]):
        raise BadArgument(f"`{name}` must be positive semi-definite, but its smallest eigenvalue is {levels[0]:.3g}.")
    return matrix


def square_root(matrix: Matrix) -> Matrix:
    """The symmetric square root of a positive semi-definite matrix."""
    levels, axes = np.linalg.eigh(matrix)
    root: Matrix = axes * np.sqrt(np.maximum(levels, 0)) @ axes.T
    return root


def _symmetric(name: str, given: ArrayLike) -> Matrix:
    """A symmetric matrix from its eigenvalues or in full."""
    try:
        matrix = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadArgument(f"`{name}` must be numbers, [params] or [params, params]: {error}.") from error
    if matrix.ndim == 1:
        matrix = np.diag(matrix)
    if not (matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] >= 1):
        raise BadArgument(f"`{name}` must be of shape [params] or [params, params], got {list(matrix.shape)}.")
    if not np.isfinite(matrix).all():
        raise BadArgument(f"`{name}` must be finite, got an entry {matrix[~np.isfinite(matrix)][0]}.")
    if not np.abs(matrix - matrix.T).max() <= ROUNDING * np.abs(matrix).max():
        raise BadArgument(
            f"`{name}` must be symmetric, but differs from its transpose: pass (A + Aᵀ)/2 if that is meant."
        )
    return (matrix + matrix.T) / 2
