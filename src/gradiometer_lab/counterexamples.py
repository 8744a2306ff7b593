"""The counterexamples by name: escapes to infinity, saddles, cycles, a unit that dies.

The losses are non-negative with a Lipschitz gradient, as the convergence theorem requires. Under
rates that satisfy its three conditions the loss converges and the gradient goes to zero, but the
theorem does not say how Φ behaves.
"""

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from torch import Tensor, nn

from gradiometer.measurement import supervised
from gradiometer.problems import Examples, Problem
from gradiometer_lab.closed_forms.quadratic import Place, output_losses

# The coordinates of a point: floats, or arrays over runs.
Coordinates = tuple[Any, ...]


class Counterexample(ABC):
    """A smooth, non-negative loss in one or two numbers, whose gradient is known in closed form.

    The gradient of a batch depends only on the mean of its examples, so one draw per step replaces
    a batch of any size. If `deviation` is zero, all examples are equal and SGD is gradient descent.

    Attributes:
        name: Name on the command line.
        start: Φ_0.
        schedule: η, as a formula in t = 1, 2, …, under which it shows its behaviour.
        mean, deviation: Mean and standard deviation of an example's numbers, which are normal and
            independent.

    Example:
        >>> from gradiometer_lab.counterexamples import Arctangent
        >>> Arctangent().simulate([1.0, 0.5, 0.5]).ravel().round(3)  # runs away to infinity
        array([0.   , 1.   , 1.25 , 1.445])
    """

    name: ClassVar[str]
    schedule: ClassVar[str]
    start: tuple[float, ...]
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (0.0,)

    def __init_subclass__(cls, name: str, schedule: str) -> None:
        super().__init_subclass__()
        cls.name = name
        cls.schedule = schedule

    @abstractmethod
    def losses(
        self, position: Float[Tensor, " params"], examples: Float[Tensor, "examples drawn"]
    ) -> Tensor:
        """The loss of every example, [examples]."""

    @abstractmethod
    def gradient(self, point: Coordinates, example: Coordinates) -> Coordinates:
        """ĝ of a batch with this mean example."""

    def simulate(
        self,
        learning_rates: ArrayLike,
        *,
        runs: int = 1,
        batch_size: int = 1,
        seed: int = 0,
        kept: Collection[int] | None = None,
    ) -> Float[np.ndarray, "kept runs params"]:
        """The iterates of independent runs, from the start on.

        Args:
            learning_rates: η_t at every step, [steps].
            runs: Number of runs.
            batch_size: B.
            seed: Seed of the examples.
            kept: Numbers of updates after which the iterate is kept; by default all, from 0 to
                steps.
        """
        rates = np.asarray(learning_rates, dtype=np.float64)
        wanted = range(len(rates) + 1) if kept is None else set(kept)
        generator = np.random.default_rng(seed)
        point: Coordinates = tuple(
            float(x) if runs == 1 else np.full(runs, float(x)) for x in self.start
        )
        noisy = any(self.deviation)
        example: Coordinates = self.mean
        shape = None if runs == 1 else runs
        iterates = []
        # A last rate of zero, so that the end is kept as the other iterates are.
        for step, rate in enumerate([*rates.tolist(), 0.0]):
            if step in wanted:
                iterates.append(
                    np.stack(np.broadcast_arrays(*(np.atleast_1d(x) for x in point)), axis=-1)
                )
            if noisy:
                example = tuple(
                    mean + deviation / math.sqrt(batch_size) * generator.standard_normal(shape)
                    if deviation
                    else mean
                    for mean, deviation in zip(self.mean, self.deviation, strict=True)
                )
            gradient = self.gradient(point, example)
            point = tuple(x - rate * g for x, g in zip(point, gradient, strict=True))
        return np.array(iterates).reshape(len(iterates), runs, len(self.start))

    def problem(self, examples: int = 256, seed: int = 0) -> Problem:
        """The training problem: Φ is the model's parameter, in double precision.

        The examples are shifted and scaled to have exactly the mean and variance of their
        distribution, so that the training loss is that of the closed forms.

        Args:
            examples: N.
            seed: Seed of the examples.
        """
        drawn = torch.randn(
            examples,
            len(self.mean),
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(seed),
        )
        # An example without noise has no deviation to divide by.
        drawn = (drawn - drawn.mean(dim=0)) / drawn.std(dim=0, correction=0).clamp_min(1e-12)
        law = [
            torch.tensor(numbers, dtype=torch.float64) for numbers in (self.mean, self.deviation)
        ]
        return Problem(
            name=self.name,
            model=lambda: Place(self.start, self.losses),
            loss=output_losses,
            train=Examples(law[0] + law[1] * drawn, "train"),
            model_name="point",
            description=(self.__doc__ or self.name).partition("\n")[0],
        )


@dataclass(frozen=True)
class Arctangent(Counterexample, name="arctangent", schedule="1/t"):
    """π/2 − atan x: it has no stationary point, so x goes to infinity under every rate whose sum is
    infinite.

    x + x³/3 grows by slightly more than η per step, so x ~ (3 Σ η)^⅓.

    Source: x + x³/3 is the integral of 1/−f′ = 1 + x²; its excess per step is xδ² + δ³/3 with δ =
    η/(1 + x²).
    """

    start: tuple[float, ...] = (0.0,)

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
class Softplus(Counterexample, name="softplus", schedule="1/t**0.6"):
    """log(1 + e^-x), the loss of one separable example: x goes to infinity like log Σ η.

    x + eˣ grows by slightly more than η per step. In one dimension, this is the cross-entropy of a
    network that fits its training set.

    Source: x + eˣ is the integral of 1/−f′ = 1 + eˣ; its excess per step is eˣ(e^δ − 1 − δ) with δ
    = η/(1 + eˣ).
    """

    start: tuple[float, ...] = (0.0,)

    def losses(
        self, position: Float[Tensor, " params"], examples: Float[Tensor, "examples drawn"]
    ) -> Tensor:
        """log(1 + e^-x)."""
        return torch.nn.functional.softplus(-position).expand(len(examples))

    def gradient(self, point: Coordinates, example: Coordinates) -> Coordinates:
        """−1/(1 + eˣ)."""
        return (-1 / (1 + np.exp(point[0])),)


@dataclass(frozen=True)
class LogCosh(Counterexample, name="two-cycle", schedule="3"):
    """log cosh x, whose curvature is at most 1: above η = 2 gradient descent ends in a cycle of two
    points.

    At η = 3 they are ±1.287839 and attract every start except 0: an oscillation that neither grows
    nor decays.
    """

    start: tuple[float, ...] = (0.5,)

    def losses(
        self, position: Float[Tensor, " params"], examples: Float[Tensor, "examples drawn"]
    ) -> Tensor:
        """log cosh x."""
        x = position.abs()
        # cosh overflows for large x, this form does not.
        return (x + torch.log1p(torch.exp(-2 * x)) - math.log(2)).expand(len(examples))

    def gradient(self, point: Coordinates, example: Coordinates) -> Coordinates:
        """tanh x."""
        return (np.tanh(point[0]),)

    def orbit(self, learning_rate: float) -> float:
        """The positive x with 2x = η tanh x: the point the cycle alternates with −x."""
        return float(
            brentq(lambda x: 2 * x - learning_rate * math.tanh(x), 1e-9, learning_rate, xtol=1e-15)
        )


@dataclass(frozen=True)
class Saddle(Counterexample, name="saddle", schedule="1/(t + 1)"):
    """(1 + cos πx)/2 + y²/2, whose saddle at the origin attracts every start at x = 0, with or
    without noise in y.

    The noise acts only along y, so SGD cannot leave the stable manifold x = 0. At η_t = 1/(t + 1)
    y_T is y_0/(T + 1) and, with noise, normal about it with variance T deviation²/(B(T + 1)²).
    """

    start: tuple[float, ...] = (0.0, 1.0)
    deviation: tuple[float, ...] = (0.0,)
    # Along x, at the origin.
    smallest_curvature: ClassVar[float] = -(math.pi**2) / 2

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
class Mirrored(Counterexample, name="mirrored", schedule="1/(t + 2)**0.6"):
    """(y − ab)²/2 from a = −b, a linear network of two layers: a = −b for ever, at any noise of the
    labels.

    With E y > 0 it ends at the saddle a = b = 0, with curvature −E y along a = b. SGD conserves the
    symmetry of the initialisation.
    """

    start: tuple[float, ...] = (1.0, -1.0)
    mean: tuple[float, ...] = (1.0,)
    deviation: tuple[float, ...] = (0.5,)

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
class Winding(Counterexample, name="winding", schedule="0.007/(1 + t/1000000)**0.6"):
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
class Ring(Counterexample, name="ring", schedule="0.5/t**0.75"):
    """(r² − 1)²/4 with noise: every point of the unit circle is a minimum, with curvatures 2 and 0.

    Under rates with a finite Σ η² the angle converges to a random limit. At a constant rate it
    wanders around the ring for ever, with a variance of η² deviation²/B per step (to first order in
    the noise). There is no saddle.
    """

    start: tuple[float, ...] = (1.0, 0.0)
    mean: tuple[float, ...] = (0.0, 0.0)
    deviation: tuple[float, ...] = (0.3, 0.3)

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


COUNTEREXAMPLES: tuple[type[Counterexample], ...] = (
    Arctangent,
    Softplus,
    Saddle,
    Mirrored,
    LogCosh,
    Winding,
    Ring,
)

DEAD_UNIT = "dead-unit"


def load(model: str = "arctangent", seed: int = 0) -> Problem:
    """The problem of the counterexample with this name, or of `dead_unit`."""
    made = {counterexample.name: counterexample for counterexample in COUNTEREXAMPLES}
    problem = dead_unit() if model == DEAD_UNIT else made[model]().problem(seed=seed)
    return replace(problem, name="counterexample", model_name=model)


def dead_unit(examples: int = 256) -> Problem:
    """½(max(0, wx + b) − 1)² from w = b = 3, with evenly spaced x in [0, 1]: at η = 2 one full step
    kills the unit.

    The full gradient is E (3x + 2)(x, 1) = (2, 3.5), so w = −1 and b = −4: the unit outputs 0 for
    every x, its gradient is exactly zero, and no rate revives it. At η = 0.1 it learns.
    """
    x = ((torch.arange(examples, dtype=torch.float64) + 0.5) / examples).unsqueeze(1)
    return Problem(
        name=DEAD_UNIT,
        model=_unit,
        loss=supervised(lambda outputs, targets: ((outputs - targets) ** 2 / 2).squeeze(1)),
        train=Examples((x, torch.ones_like(x)), "train"),
        model_name="relu",
        description="One ReLU unit that a large first step kills.",
    )


def _unit() -> nn.Module:
    linear = nn.Linear(1, 1, dtype=torch.float64)
    nn.init.constant_(linear.weight, 3.0)
    nn.init.constant_(linear.bias, 3.0)
    return nn.Sequential(OrderedDict(linear=linear, relu=nn.ReLU()))
