"""Symmetric matrices, given as a spectrum or whole, and refused by name where they are not what they must be."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from gradiometer.errors import BadArgument

Matrix = Float[np.ndarray, "params params"]

ROUNDING = 1e-10
"""How far from symmetric, or below zero, relative to the largest entry, is still the rounding of whoever made it."""

SINGULAR = 1e-14
"""The least ratio of the smallest to the largest eigenvalue at which double precision still sees the smallest."""


def definite(name: str, given: ArrayLike) -> Matrix:
    """A positive definite matrix: its eigenvalues along the axes, [params], or itself, [params, params].

    Raises:
        BadArgument: It is not symmetric, finite and positive definite.
    """
    matrix = _symmetric(name, given)
    levels = np.linalg.eigvalsh(matrix)
    if not levels[0] > SINGULAR * abs(levels[-1]):
        raise BadArgument(f"`{name}` must be positive definite, its least eigenvalue is {levels[0]:.3g}.")
    return matrix


def semidefinite(name: str, given: ArrayLike) -> Matrix:
    """A positive semi-definite matrix: its eigenvalues along the axes, [params], or itself, [params, params].

    Raises:
        BadArgument: It is not symmetric, finite and positive semi-definite.
    """
    matrix = _symmetric(name, given)
    levels = np.linalg.eigvalsh(matrix)
    if not levels[0] >= -ROUNDING * abs(levels[-1]):
        raise BadArgument(f"`{name}` must be positive semi-definite, its least eigenvalue is {levels[0]:.3g}.")
    return matrix


def square_root(matrix: Matrix) -> Matrix:
    """The symmetric square root of a positive semi-definite matrix."""
    levels, axes = np.linalg.eigh(matrix)
    root: Matrix = axes * np.sqrt(np.maximum(levels, 0)) @ axes.T
    return root


def _symmetric(name: str, given: ArrayLike) -> Matrix:
    """A symmetric matrix of a spectrum or of itself."""
    try:
        matrix = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadArgument(f"`{name}` must be numbers, [params] or [params, params]: {error}.") from error
    if matrix.ndim == 1:
        matrix = np.diag(matrix)
    if not (matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] >= 1):
        raise BadArgument(f"`{name}` is of shape {list(matrix.shape)}, [params] or [params, params] was expected.")
    if not np.isfinite(matrix).all():
        raise BadArgument(f"`{name}` must be finite, got {matrix[~np.isfinite(matrix)][0]} in it.")
    if not np.abs(matrix - matrix.T).max() <= ROUNDING * np.abs(matrix).max():
        raise BadArgument(
            f"`{name}` must be symmetric, but differs from its transpose: give (A + Aᵀ)/2 if that is meant."
        )
    return (matrix + matrix.T) / 2
