"""Symmetric matrices, given as eigenvalues or in full."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

Matrix = Float[np.ndarray, "params params"]


def symmetric(given: ArrayLike) -> Matrix:
    """A symmetric matrix from its eigenvalues along the axes, [params], or in full, [params,
    params]."""
    matrix = np.asarray(given, dtype=np.float64)
    if matrix.ndim == 1:
        matrix = np.diag(matrix)
    return (matrix + matrix.T) / 2


def square_root(matrix: Matrix) -> Matrix:
    """The symmetric square root of a positive semi-definite matrix."""
    levels, axes = np.linalg.eigh(matrix)
    # rounding makes some eigenvalues of a semi-definite matrix slightly negative
    root: Matrix = axes * np.sqrt(np.maximum(levels, 0)) @ axes.T
    return root
