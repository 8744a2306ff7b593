"""The mean time to cross a barrier at a temperature: exponential in barrier / temperature (Kramers)."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from gradiometer.arguments import check_number
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.arithmetic import transformed, weighted_slope

NODES_PER_WIDTH = 4
"""Quadrature nodes per standard deviation of the noise of a step."""

MOST_NODES = 3000
WIDTHS_OF_A_LAW = 12
"""Distance below the start that is included, in standard deviations of the stationary law around the start."""


def escape_time(
    barrier: float, curvature: float, curvature_at_top: float, temperature: float, *, correction: float = 0.0
) -> float:
    """2π/√(V″(a)|V″(b)|) · exp(ΔL/T)(1 + κT), the mean time from a minimum a across a top b, in units of steps × η.

    It holds for dΦ = −V′dt + √(2T) dW in the limit of a low temperature. A step of SGD is a time of η.

    Args:
        barrier: ΔL, the loss at the top minus the loss at the minimum.
        curvature: V″ at the minimum, positive.
        curvature_at_top: V″ at the top, negative.
        temperature: T, in units of the loss.
        correction: κ, the next order in T of both Laplace integrals: V⁗/(8V″²) at the top, minus the same at the
            minimum, plus 5V‴²/(24|V″|³) at both.

    Example:
        >>> from gradiometer.exploration.temperature import escape_time
        >>> round(escape_time(barrier=1.0, curvature=2.0, curvature_at_top=-1.0, temperature=0.2))
        659

    Source: Kramers (1940), Brownian Motion in a Field of Force, eq. 17 in its limit of strong friction;
        Gardiner (2009), Stochastic Methods, section 5.5.3.
    """
    for name, value in (("barrier", barrier), ("curvature", curvature), ("temperature", temperature)):
        check_number(name, value, positive=True)
    if not -math.inf < curvature_at_top < 0:
        raise BadArgument(f"`curvature_at_top` must be negative and finite, got {curvature_at_top}.")
    corrected = 1 + correction * temperature
    return 2 * math.pi / math.sqrt(-curvature * curvature_at_top) * math.exp(barrier / temperature) * corrected


def passage_steps(
    gradient: Callable[[np.ndarray], np.ndarray],
    learning_rate: float,
    temperature: float,
    *,
    start: float,
    end: float,
    lowest: float,
) -> float:
    """The exact mean number of steps from `start` until Φ first reaches or passes `end`, at any learning rate.

    For Φ ← Φ − ηV′(Φ) + √(2ηT) N(0, 1): m(x) = 1 + ∫ p(x → y) m(y) dy over all y below the end, solved on
    Gauss–Legendre nodes dense enough to integrate the Gaussian of one step to rounding.

    Args:
        gradient: V′.
        learning_rate: η.
        temperature: T. Gradient noise of variance σ²/B gives T = ησ²/(2B).
        start: The first position, below `end`.
        end: The position to reach.
        lowest: A position below which Φ practically never is.

    Example:
        >>> from gradiometer.exploration.temperature import passage_steps
        >>> def bowl(position):
        ...     return position
        >>> steps = passage_steps(bowl, learning_rate=0.5, temperature=1.0, start=0.0, end=1.0, lowest=-8.0)
        >>> print(f"{steps:.2f}")
        7.52

    Source: the equation of a first passage of a Markov chain, Gardiner (2009), section 3.5; solved as Nyström (1930).
    """
    check_number("learning_rate", learning_rate, positive=True)
    check_number("temperature", temperature, positive=True)
    if not lowest < start < end:
        raise BadArgument(f"`lowest` < `start` < `end` must hold, got {lowest}, {start} and {end}.")
    width = math.sqrt(2 * learning_rate * temperature)
    count = math.ceil(NODES_PER_WIDTH * (end - lowest) / width) + 20
    if not count <= MOST_NODES:
        raise BadArgument(
            f"`learning_rate` {learning_rate:g} at temperature {temperature:g} makes steps too short for an exact "
            f"solution ({count:,} nodes, at most {MOST_NODES:,}): use `escape_time`, the limit of short steps."
        )
    nodes, weights = np.polynomial.legendre.leggauss(count)
    nodes, weights = lowest + (nodes + 1) / 2 * (end - lowest), weights * (end - lowest) / 2

    def reached(points: Float[np.ndarray, " starts"]) -> Float[np.ndarray, "starts nodes"]:
        away = (nodes - (points - learning_rate * gradient(points))[:, None]) / width
        chances: np.ndarray = np.exp(-(away**2) / 2) / (width * math.sqrt(2 * math.pi)) * weights
        return chances

    steps = np.linalg.solve(np.eye(count) - reached(nodes), np.ones(count))
    return 1 + float(reached(np.array([start]))[0] @ steps)


def barrier_seen(temperatures: Sequence[float], times: Sequence[Estimate], *, correction: float = 0.0) -> Estimate:
    """ΔL, as the slope of log escape time against 1/T (Kramers' formula at low temperatures).

    The factor 1 + κT bends the line: without `correction` the slope is too small by about κT², averaged over the line.

    Args:
        temperatures: T of each time, with at least two different values.
        times: Independent mean escape times, each with its interval, all at one level.
        correction: κ of `escape_time`.

    Example:
        >>> from gradiometer.exploration.temperature import barrier_seen, escape_time
        >>> from gradiometer import Estimate
        >>> temperatures = [0.2, 0.25, 0.4]
        >>> times = [escape_time(1.0, 2.0, -1.0, temperature) for temperature in temperatures]
        >>> simulated = {"level": 0.9, "method": "simulated", "samples": 100}
        >>> print(barrier_seen(temperatures, [Estimate.interval(t, 0.9 * t, 1.1 * t, **simulated) for t in times]))
        1.00 [0.944, 1.06] loss
    """
    for temperature in temperatures:
        check_number("temperatures", temperature, positive=True)
    for time in times:
        if not (time.low > 0 and time.tells):
            raise BadArgument(f"`times` must be positive with finite intervals, got {time}: simulate for longer.")
    logarithms = [
        transformed(time, lambda value: math.log(value / (1 + correction * temperature)))  # noqa: B023 (called now)
        for temperature, time in zip(temperatures, times, strict=True)
    ]
    return weighted_slope([1 / temperature for temperature in temperatures], logarithms, unit="loss")
