"""How long a walker at a temperature takes over a barrier: exponential in barrier over temperature (Kramers)."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.arithmetic import transformed, weighted_slope

NODES_A_WIDTH = 4
"""Quadrature nodes within one standard deviation of a step's noise."""

MOST_NODES = 3000
WIDTHS_OF_A_LAW = 12
"""How far beyond the start positions are looked at, in the standard deviations of the stationary law there."""


def escape_time(
    barrier: float, curvature: float, curvature_at_top: float, temperature: float, *, correction: float = 0.0
) -> float:
    """2π/√(V″(a)|V″(b)|) · exp(ΔL/T)(1 + κT), the mean time from a minimum a over a top b, in units of steps × η.

    Of dΦ = −V′dt + √(2T) dW in the limit of a low temperature; a step of SGD is a time of η.

    Args:
        barrier: ΔL, the loss of the top above that of the minimum.
        curvature: V″ at the minimum, positive.
        curvature_at_top: V″ at the top, negative.
        temperature: T, in units of the loss.
        correction: κ, the next order in T of both integrals of Laplace: V⁗/(8V″²) taken at the top, less the same at
            the minimum, plus 5V‴²/(24|V″|³) at both.

    Source: Kramers (1940), Brownian Motion in a Field of Force, eq. 17 in its limit of strong friction;
        Gardiner (2009), Stochastic Methods, section 5.5.3.
    """
    for name, value in (("barrier", barrier), ("curvature", curvature), ("temperature", temperature)):
        if not 0 < value < math.inf:
            raise BadArgument(f"`{name}` must be positive and finite, got {value}.")
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
    """The mean number of steps from `start` until Φ first is at or beyond `end`, exactly, at any learning rate.

    Of Φ ← Φ − ηV′(Φ) + √(2ηT) N(0, 1): m(x) = 1 + ∫ p(x → y) m(y) dy over all y below the end, solved on the nodes of
    Gauss and Legendre, so dense that the Gaussian of one step is integrated to rounding.

    Args:
        gradient: V′.
        learning_rate: η.
        temperature: T: a gradient whose noise has variance σ²/B makes it ησ²/(2B).
        start: Where it starts, below `end`.
        end: Where it has arrived.
        lowest: A place below which it practically never is.

    Source: the equation of a first passage of a Markov chain, Gardiner (2009), section 3.5; solved as Nyström (1930).
    """
    if not (learning_rate > 0 and temperature > 0):
        raise BadArgument(f"`learning_rate` and `temperature` must be positive, got {learning_rate} and {temperature}.")
    if not lowest < start < end:
        raise BadArgument(f"`lowest`, `start` and `end` must be in this order, got {lowest}, {start} and {end}.")
    width = math.sqrt(2 * learning_rate * temperature)
    count = math.ceil(NODES_A_WIDTH * (end - lowest) / width) + 20
    if not count <= MOST_NODES:
        raise BadArgument(
            f"`learning_rate` {learning_rate:g} at `temperature` {temperature:g} makes steps too short to solve for "
            f"({count:,} nodes): their limit is `escape_time`."
        )
    places, weights = np.polynomial.legendre.leggauss(count)
    nodes, weights = lowest + (places + 1) / 2 * (end - lowest), weights * (end - lowest) / 2

    def reached(points: Float[np.ndarray, " starts"]) -> Float[np.ndarray, "starts nodes"]:
        away = (nodes - (points - learning_rate * gradient(points))[:, None]) / width
        chances: np.ndarray = np.exp(-(away**2) / 2) / (width * math.sqrt(2 * math.pi)) * weights
        return chances

    steps = np.linalg.solve(np.eye(count) - reached(nodes), np.ones(count))
    return 1 + float(reached(np.array([start]))[0] @ steps)


def barrier_seen(temperatures: Sequence[float], times: Sequence[Estimate], *, correction: float = 0.0) -> Estimate:
    """ΔL as the slope of log escape time against 1/T, which it is by Kramers' formula at low temperatures.

    The formula's 1 + κT bends the line: without it the slope is short of ΔL by about κT², a mean over the line.

    Args:
        temperatures: T of each time, at least two of them different.
        times: Mean escape times, independent, each with its interval, all at one level.
        correction: κ of `escape_time`.
    """
    for temperature in temperatures:
        if not 0 < temperature < math.inf:
            raise BadArgument(f"`temperatures` must be positive and finite, got {temperature}.")
    for time in times:
        if not (time.low > 0 and time.tells):
            raise BadArgument(f"`times` must be positive with finite ends, got {time}: watch for longer.")
    logarithms = [
        transformed(time, partial(_log_time, bend=math.log1p(correction * temperature)))
        for temperature, time in zip(temperatures, times, strict=True)
    ]
    return weighted_slope([1 / temperature for temperature in temperatures], logarithms, unit="loss")


def _log_time(time: float, bend: float) -> float:
    return math.log(time) - bend
