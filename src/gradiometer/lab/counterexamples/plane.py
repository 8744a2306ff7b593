"""Counterexamples in the plane: an attracting saddle, a conserved symmetry, an endless spiral, a
ring of minima."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.lab.counterexamples.counterexample import Coordinates, Counterexample


@dataclass(frozen=True)
class Saddle(Counterexample):
    """(1 + cos πx)/2 + y²/2, whose saddle at the origin attracts every start at x = 0, with or
    without noise in y.

    The noise acts only along y, so SGD cannot leave the stable manifold x = 0. At η_t = 1/(t + 1)
    y_T is y_0/(T + 1) and, with noise, normal about it with variance T deviation²/(B(T + 1)²).
    """

    start: tuple[float, ...] = (0.0, 1.0)
    deviation: tuple[float, ...] = (0.0,)
    name: ClassVar[str] = "saddle"
    schedule: ClassVar[str] = "1/(t + 1)"
    smallest_curvature: ClassVar[float] = -(math.pi**2) / 2
    """Along x, at the origin."""

    def losses(
        self, position: Float[Tensor, " params"], examples: Float[Tensor, "examples drawn"]
    ) -> Tensor:
        """(1 + cos πx)/2 + y²/2 + ξy, with ξ the example."""
        x, y = position
        losses: Tensor = (1 + torch.cos(math.pi * x)) / 2 + y**2 / 2 + examples[:, 0] * y
        return losses

    def gradient(self, point: Coordinates, example: Coordinates) -> Coordinates:
        """(−π/2 sin πx, y + ξ)."""
        x, y = point
        return -math.pi / 2 * np.sin(math.pi * x), y + example[0]

    def height(self, steps: int) -> float:
        """E y_T at η_t = 1/(t + 1)."""
        return self.start[1] / (steps + 1)

    def height_variance(self, steps: int, batch_size: int = 1) -> float:
        """Var y_T at η_t = 1/(t + 1)."""
        return steps * self.deviation[0] ** 2 / (batch_size * (steps + 1) ** 2)


@dataclass(frozen=True)
class Mirrored(Counterexample):
    """(y − ab)²/2 from a = −b, a linear network of two layers: a = −b for ever, at any noise of the
    labels.

    With E y > 0 it ends at the saddle a = b = 0, with curvature −E y along a = b. SGD conserves the
    symmetry of the initialisation.
    """

    start: tuple[float, ...] = (1.0, -1.0)
    mean: tuple[float, ...] = (1.0,)
    deviation: tuple[float, ...] = (0.5,)
    name: ClassVar[str] = "mirrored"
    schedule: ClassVar[str] = "1/(t + 2)**0.6"

    def losses(
        self, position: Float[Tensor, " params"], examples: Float[Tensor, "examples drawn"]
    ) -> Tensor:
        """(y − ab)²/2, with y the example."""
        return (examples[:, 0] - position[0] * position[1]) ** 2 / 2

    def gradient(self, point: Coordinates, example: Coordinates) -> Coordinates:
        """−(y − ab)(b, a)."""
        a, b = point
        rest = example[0] - a * b
        return -rest * b, -rest * a


@dataclass(frozen=True)
class Winding(Counterexample):
    """u²(1 − r⁴/2 · sin(θ + pitch log u)) with u = 1 − r² inside the unit circle, and 0 outside it.

    The valley sin = 1 winds around the circle for ever as u → 0. Gradient descent follows it, the
    loss and the gradient go to zero, and every point of the circle is a limit point. θ turns by
    pitch log(u_0/u_T), with u_T ~ pitch/√(2 Σ η).

    Args:
        start: Φ_0, inside the circle.
        pitch: Speed of the winding. Curvatures and the time to follow the valley grow as pitch².

    Source: after Absil, Mahony & Andrews (2005), Convergence of the Iterates of Descent Methods for
        Analytic Cost Functions, sect. 3, for the flow; here with a gradient that is Lipschitz.
    """

    start: tuple[float, ...] = (0.0, 0.6)
    pitch: float = 12.0
    name: ClassVar[str] = "winding"
    schedule: ClassVar[str] = "0.007/(1 + t/1000000)**0.6"

    def losses(
        self, position: Float[Tensor, " params"], examples: Float[Tensor, "examples drawn"]
    ) -> Tensor:
        """u²(1 − r⁴/2 · sin(θ + pitch log u))."""
        square = position @ position
        u = (1 - square).clamp_min(1e-12)
        phase = torch.atan2(position[1], position[0]) + self.pitch * torch.log(u)
        inside = u**2 * (1 - square**2 / 2 * torch.sin(phase))
        return torch.where(square < 1, inside, torch.zeros_like(inside)).expand(len(examples))

    def gradient(self, point: Coordinates, example: Coordinates) -> Coordinates:
        """From the chain rule through u, r² and θ."""
        x, y = point
        # plain floats are ten times faster for one run
        calculus: Any = math if isinstance(x, float) else np
        angle = math.atan2(y, x) if isinstance(x, float) else np.arctan2(y, x)
        square = x * x + y * y
        inside = square < 1 - 1e-12
        u = (1 - square) * inside + 1e-12 * (1 - inside)
        phase = angle + self.pitch * calculus.log(u)
        sine, cosine = calculus.sin(phase), calculus.cos(phase)
        fourth = square * square
        along_u = 2 * u * (1 - fourth / 2 * sine) - u * fourth / 2 * cosine * self.pitch
        radial = -2 * along_u - 2 * u * u * square * sine  # of x and y: ∂u = −2x, ∂r⁴ = 4r²x
        turning = -u * u * square / 2 * cosine  # of (−y, x): ∂θ = (−y, x)/r²
        return inside * (radial * x - turning * y), inside * (radial * y + turning * x)


@dataclass(frozen=True)
class Ring(Counterexample):
    """(r² − 1)²/4 with noise: every point of the unit circle is a minimum, with curvatures 2 and 0.

    Under rates with a finite Σ η² the angle converges to a random limit. At a constant rate it
    wanders around the ring for ever, with a variance of η² deviation²/B per step (to first order in
    the noise). There is no saddle.
    """

    start: tuple[float, ...] = (1.0, 0.0)
    mean: tuple[float, ...] = (0.0, 0.0)
    deviation: tuple[float, ...] = (0.3, 0.3)
    name: ClassVar[str] = "ring"
    schedule: ClassVar[str] = "0.5/t**0.75"

    def losses(
        self, position: Float[Tensor, " params"], examples: Float[Tensor, "examples drawn"]
    ) -> Tensor:
        """(r² − 1)²/4 + ξ·Φ, with ξ the example."""
        return (position @ position - 1) ** 2 / 4 + examples @ position

    def gradient(self, point: Coordinates, example: Coordinates) -> Coordinates:
        """(r² − 1)Φ + ξ."""
        x, y = point
        rest = x * x + y * y - 1
        return rest * x + example[0], rest * y + example[1]
