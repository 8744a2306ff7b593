"""The mean time to cross a barrier at a temperature: exponential in barrier / temperature
(Kramers)."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from gradiometer.arguments import check_number
from gradiometer.errors import BadArgument

WIDTHS_OF_A_LAW = 12
"""Distance below the start that is included, in standard deviations of the stationary law around
the start."""


def passage_steps(
    gradient: Callable[[np.ndarray], np.ndarray],
    learning_rate: float,
    temperature: float,
    *,
    start: float,
    end: float,
    lowest: float,
) -> float:
    """The exact mean number of steps from `start` until Φ first reaches or passes `end`, at any
    learning rate.

    For Φ ← Φ − ηV′(Φ) + √(2ηT) N(0, 1): m(x) = 1 + ∫ p(x → y) m(y) dy over all y below the end,
    solved on Gauss–Legendre nodes dense enough to integrate the Gaussian of one step to rounding.

    Args:
        gradient: V′.
        learning_rate: η.
        temperature: T. Gradient noise of variance σ²/B gives T = ησ²/(2B).
        start: The first position, below `end`.
        end: The position to reach.
        lowest: A position below which Φ practically never is.

    Example:
        >>> from gradiometer.exploration.temperature.kramers import passage_steps
        >>> def bowl(position):
        ...     return position
        >>> steps = passage_steps(bowl, learning_rate=0.5, temperature=1.0, start=0.0, end=1.0, lowest=-8.0)
        >>> print(f"{steps:.2f}")
        7.52

    Source: the equation of a first passage of a Markov chain, Gardiner (2009), section 3.5; solved
    as Nyström (1930).
    """
    check_number("learning_rate", learning_rate, positive=True)
    check_number("temperature", temperature, positive=True)
    if not lowest < start < end:
        raise BadArgument(f"`lowest` < `start` < `end` must hold, got {lowest}, {start} and {end}.")
    width = math.sqrt(2 * learning_rate * temperature)
    # Four nodes per standard deviation integrate a Gaussian to rounding.
    count = math.ceil(4 * (end - lowest) / width) + 20
    if not count <= 3000:
        raise BadArgument(
            f"`learning_rate` {learning_rate:g} at temperature {temperature:g} makes steps too "
            f"short for an exact solution ({count:,} nodes, at most 3,000): take a larger "
            "rate or a higher temperature."
        )
    nodes, weights = np.polynomial.legendre.leggauss(count)
    nodes, weights = lowest + (nodes + 1) / 2 * (end - lowest), weights * (end - lowest) / 2

    def chances_from(points: Float[np.ndarray, " starts"]) -> Float[np.ndarray, "starts nodes"]:
        away = (nodes - (points - learning_rate * gradient(points))[:, None]) / width
        chances: np.ndarray = np.exp(-(away**2) / 2) / (width * math.sqrt(2 * math.pi)) * weights
        return chances

    steps = np.linalg.solve(np.eye(count) - chances_from(nodes), np.ones(count))
    return 1 + float(chances_from(np.array([start]))[0] @ steps)
