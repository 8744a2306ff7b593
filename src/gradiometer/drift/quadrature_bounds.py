"""Bounds on the share of a spectral measure below a point, from the nodes and weights of its Gauss
quadrature."""

import numpy as np
from jaxtyping import Float

ROUNDING = 1e-6
"""Distance, as a share of the largest node, within which two curvatures count as equal: single
precision."""

TINY = 1e-13
"""Share of the weight, or of the largest node, that counts as zero in the recurrence."""


def bounds_below(
    nodes: Float[np.ndarray, " iterations"], weights: Float[np.ndarray, " iterations"], place: float
) -> tuple[float, float]:
    """The least and the largest share below `place` of all measures with this Gauss quadrature.

    The Gauss–Radau rule with a node at `place` puts the largest possible weight there. The share
    below it, without and with that weight, bounds the share of the measure below `place`. If the
    measure has fewer points than the rule, as when Lanczos ends early, the nodes are its points and
    both bounds are equal.

    Args:
        nodes: Eigenvalues of the tridiagonal matrix of one probe.
        weights: Squared first components of their vectors. They sum to 1.
        place: The point.

    Source: Chebyshev, Markov and Stieltjes; Golub & Meurant (2010), Matrices, Moments and
    Quadrature with Applications, ch. 6 for the rule and th. 6.3 for the bounds.

    >>> import numpy as np
    >>> from gradiometer.drift.quadrature_bounds import bounds_below
    >>> low, high = bounds_below(np.array([-1.0, 1.0]), np.array([0.5, 0.5]), 0.0)  # all that is known: mean 0, ...
    >>> print(f"{low:.2f} {high:.2f}")
    0.00 1.00
    """
    scale = float(np.abs(nodes).max())
    if not scale > 0:
        return (0.0, 0.0) if place < 0 else (1.0, 1.0) if place > 0 else (0.0, 1.0)
    diagonal, beside = _recurrence(nodes / scale, weights)
    points, shares = nodes, weights
    if len(diagonal) == len(nodes) and len(nodes) > 1:
        points, shares = _radau(diagonal, beside, place / scale)
        points = points * scale
    room = ROUNDING * scale
    return float(shares[points < place - room].sum()), float(
        min(shares[points <= place + room].sum(), 1.0)
    )


def _radau(
    diagonal: Float[np.ndarray, " iterations"], beside: Float[np.ndarray, " between"], place: float
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """Nodes and weights of the rule with one node at `place`: the last diagonal entry is chosen for
    that."""
    matrix = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    inner = matrix[:-1, :-1] - place * np.eye(len(diagonal) - 1)
    ending = np.zeros(len(inner))
    ending[-1] = beside[-1] ** 2
    try:
        matrix[-1, -1] = place + np.linalg.solve(inner, ending)[-1]
    except np.linalg.LinAlgError:  # the shorter rule has a node there already
        return _nodes(matrix[:-1, :-1])
    return _nodes(matrix)


def _nodes(
    matrix: Float[np.ndarray, "rows rows"],
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    points, vectors = np.linalg.eigh(matrix)
    return points, vectors[0] ** 2


def _recurrence(
    nodes: Float[np.ndarray, " iterations"], weights: Float[np.ndarray, " iterations"]
) -> tuple[Float[np.ndarray, " kept"], Float[np.ndarray, " between"]]:
    """The tridiagonal matrix with these eigenvalues and first components; shorter if some weights
    are zero."""
    held = weights > TINY
    nodes, vector = nodes[held], np.sqrt(weights[held] / weights[held].sum())
    basis, diagonal, beside = [vector], [], []
    for _ in range(len(nodes)):
        image = nodes * basis[-1]
        diagonal.append(float(image @ basis[-1]))
        # Twice, as rounding leaves a part of the earlier vectors after the first time.
        for _ in range(2):
            for each in basis:
                image = image - (image @ each) * each
        size = float(np.linalg.norm(image))
        if not size > TINY:
            break
        beside.append(size)
        basis.append(image / size)
    return np.array(diagonal), np.array(beside[: len(diagonal) - 1])
