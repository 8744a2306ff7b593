"""Counterexamples in one number: two escapes to infinity, and a cycle of two points."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor

from gradiometer.lab.counterexamples.counterexample import Coordinates, Counterexample


@dataclass(frozen=True)
class Arctangent(Counterexample):
    """π/2 − atan x: it has no stationary point, so x goes to infinity under every rate whose sum is
    infinite.

    x + x³/3 grows by slightly more than η per step, so x ~ (3 Σ η)^⅓.

    Source: x + x³/3 is the integral of 1/−f′ = 1 + x²; its excess per step is xδ² + δ³/3 with δ =
    η/(1 + x²).
    """

    start: tuple[float, ...] = (0.0,)
    name: ClassVar[str] = "arctangent"
    schedule: ClassVar[str] = "1/t"

    def losses(
        self, position: Float[Tensor, " params"], examples: Float[Tensor, "examples drawn"]
    ) -> Tensor:
        """π/2 − atan x."""
        return (math.pi / 2 - torch.atan(position)).expand(len(examples))

    def gradient(self, point: Coordinates, example: Coordinates) -> Coordinates:
        """−1/(1 + x²)."""
        return (-1 / (1 + point[0] ** 2),)

    def clock(self, x: Any) -> Any:
        """x + x³/3, which grows like Σ η."""
        return x + x**3 / 3

    def most_excess(self, rates: Float[np.ndarray, " steps"]) -> float:
        """Upper bound on `clock` − Σ η from x_0 ≥ 0: Σ (3√3/16 η² + η³/3)."""
        return float((3 * math.sqrt(3) / 16 * rates**2 + rates**3 / 3).sum())


@dataclass(frozen=True)
class Softplus(Counterexample):
    """log(1 + e^-x), the loss of one separable example: x goes to infinity like log Σ η.

    x + eˣ grows by slightly more than η per step. In one dimension, this is the cross-entropy of a
    network that fits its training set.

    Source: x + eˣ is the integral of 1/−f′ = 1 + eˣ; its excess per step is eˣ(e^δ − 1 − δ) with δ
    = η/(1 + eˣ).
    """

    start: tuple[float, ...] = (0.0,)
    name: ClassVar[str] = "softplus"
    schedule: ClassVar[str] = "1/t**0.6"

    def losses(
        self, position: Float[Tensor, " params"], examples: Float[Tensor, "examples drawn"]
    ) -> Tensor:
        """log(1 + e^-x)."""
        return torch.nn.functional.softplus(-position).expand(len(examples))

    def gradient(self, point: Coordinates, example: Coordinates) -> Coordinates:
        """−1/(1 + eˣ)."""
        return (-1 / (1 + np.exp(point[0])),)


@dataclass(frozen=True)
class LogCosh(Counterexample):
    """log cosh x, whose curvature is at most 1: above η = 2 gradient descent ends in a cycle of two
    points.

    At η = 3 they are ±1.287839 and attract every start except 0: an oscillation that neither grows
    nor decays.
    """

    start: tuple[float, ...] = (0.5,)
    name: ClassVar[str] = "two-cycle"
    schedule: ClassVar[str] = "3"

    def losses(
        self, position: Float[Tensor, " params"], examples: Float[Tensor, "examples drawn"]
    ) -> Tensor:
        """log cosh x."""
        x = position.abs()
        return (x + torch.log1p(torch.exp(-2 * x)) - math.log(2)).expand(len(examples))

    def gradient(self, point: Coordinates, example: Coordinates) -> Coordinates:
        """tanh x."""
        return (np.tanh(point[0]),)

    def orbit(self, learning_rate: float) -> float:
        """The positive x with 2x = η tanh x: the point the cycle alternates with −x."""
        return float(
            brentq(lambda x: 2 * x - learning_rate * math.tanh(x), 1e-9, learning_rate, xtol=1e-15)
        )
