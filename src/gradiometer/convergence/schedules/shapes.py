"""The common shapes, each equal to the schedule of that name in torch, timm, transformers or optax."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from gradiometer.convergence.formulas.asymptotics import Asymptotics, Time, smaller
from gradiometer.convergence.formulas.expression import NUMBERS, expression_in
from gradiometer.convergence.formulas.number import Amount
from gradiometer.convergence.schedules.schedule import Count, CountOrZero, Positive, Rate, Schedule, power

DECAYS: dict[str, Callable[[Amount], Amount]] = {
    "linear": lambda share: 1 - share,
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
    "1-sqrt": lambda share: 1 - math.sqrt(share),
}
"""The decays of `WarmupStableDecay`, from 1 to 0."""


@dataclass(frozen=True)
class Constant(Schedule):
    """η = rate."""

    rate: Rate

    def formula(self, step: Time) -> Time:
        return self.rate


@dataclass(frozen=True)
class StepDecay(Schedule):
    """η₀ factor^⌊step / every⌋. Torch: StepLR; optax: exponential_decay with staircase.

    >>> from gradiometer.convergence.schedules import StepDecay
    >>> schedule = StepDecay(0.1, every=30, factor=0.5)
    >>> schedule(29), schedule(30), schedule(60)
    (0.1, 0.05, 0.025)
    """

    initial: Rate
    every: Count
    factor: Rate = 0.1

    def formula(self, step: Time) -> Time:
        return self.initial * power(self.factor, step // self.every)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """η₀ factor^(number of milestones reached). Torch: MultiStepLR."""

    initial: Rate
    milestones: tuple[int, ...]
    factor: Rate = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "milestones", tuple(self.milestones))
        whole = all(isinstance(step, int) and step >= 0 for step in self.milestones)
        self._require(whole, "milestones", "be whole numbers and not negative")

    def formula(self, step: Time) -> Time:
        return self.initial * self.factor ** sum(1 for milestone in self.milestones if step >= milestone)


@dataclass(frozen=True)
class Exponential(Schedule):
    """η₀ factor^(step / every). Torch: ExponentialLR; optax: exponential_decay."""

    initial: Rate
    factor: Positive
    every: Count = 1

    def formula(self, step: Time) -> Time:
        return self.initial * self.factor ** (step / self.every)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """final + (η₀ − final)(1 − step/steps)^power, then `final`. Torch: PolynomialLR; timm: PolyLR."""

    initial: Rate
    steps: Count
    final: Rate = 0.0
    power: Positive = 1.0

    def formula(self, step: Time) -> Time:
        if step >= self.steps:
            return self.final
        return self.final + (self.initial - self.final) * (1 - step / self.steps) ** self.power


@dataclass(frozen=True)
class Linear(Schedule):
    """η₀ + (final − η₀) step/steps, then `final`. Torch: LinearLR.

    >>> from gradiometer.convergence.schedules import Linear
    >>> Linear(0.1, steps=50)(25)
    0.05
    """

    initial: Rate
    steps: Count
    final: Rate = 0.0

    def formula(self, step: Time) -> Time:
        return self.final if step >= self.steps else self.initial + (self.final - self.initial) * step / self.steps


@dataclass(frozen=True)
class Cosine(Schedule):
    """final + (η₀ − final)((1 + cos(π step/steps))/2)^power, then `final`.

    Torch: CosineAnnealingLR, which rises again after `steps`.

    Args:
        initial, final: η at step 0, and from `steps` on.
        steps: Length of the half wave.
        power: Exponent of (1 + cos)/2, as in optax.

    Source: Loshchilov & Hutter (2017), SGDR, eq. 5.

    >>> from gradiometer.convergence.schedules import Cosine
    >>> schedule = Cosine(0.1, steps=100)
    >>> schedule(0), schedule(50), schedule(100)
    (0.1, 0.05, 0.0)
    """

    initial: Rate
    steps: Count
    final: Rate = 0.0
    power: Positive = 1.0

    def formula(self, step: Time) -> Time:
        if step >= self.steps:
            return self.final
        wave: Amount = ((1 + math.cos(math.pi * step / self.steps)) / 2) ** self.power
        return self.final + (self.initial - self.final) * wave


@dataclass(frozen=True)
class Tanh(Schedule):
    """final + (η₀ − final)(1 − tanh x)/2 with x from `lower` to `upper`, then `final`. timm: TanhLRScheduler.

    Source: Hsueh, Li & Wu (2019), Stochastic Gradient Descent with Hyperbolic-Tangent Decay, eq. 5.
    """

    initial: Rate
    steps: Count
    final: Rate = 0.0
    lower: Amount = -7.0
    upper: Amount = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(math.isfinite(self.lower), "lower", "be finite")
        self._require(self.upper > self.lower, "upper", "be above `lower`")

    def formula(self, step: Time) -> Time:
        if step >= self.steps:
            return self.final
        share = step / self.steps
        fall = math.tanh(self.lower * (1 - share) + self.upper * share)
        return self.final + (self.initial - self.final) * (1 - fall) / 2


@dataclass(frozen=True)
class InverseTime(Schedule):
    """η₀ / (1 + step/τ): satisfies the theorem's three conditions.

    >>> from gradiometer import theorem
    >>> from gradiometer.convergence.schedules import InverseTime
    >>> schedule = InverseTime(0.1, time_constant=100)
    >>> schedule(100), theorem(schedule).theorem
    (0.05, True)
    """

    initial: Rate
    time_constant: Positive = 1.0

    def formula(self, step: Time) -> Time:
        return self.initial / (1 + step / self.time_constant)


@dataclass(frozen=True)
class InversePower(Schedule):
    """η₀ (1 + step/τ)^-p: satisfies the theorem's three conditions for ½ < p ≤ 1."""

    initial: Rate
    power: Rate = 1.0
    time_constant: Positive = 1.0

    def formula(self, step: Time) -> Time:
        return self.initial * (1 + step / self.time_constant) ** -self.power


@dataclass(frozen=True)
class InverseSquareRoot(Schedule):
    """η₀ / √(1 + step/τ). transformers: get_inverse_sqrt_schedule, after its warm-up."""

    initial: Rate
    time_constant: Positive = 1.0

    def formula(self, step: Time) -> Time:
        return self.initial * (1 + step / self.time_constant) ** -0.5


@dataclass(frozen=True)
class Noam(Schedule):
    """scale · width^-½ · min(s^-½, s · warmup^-1.5) with s = step + 1.

    Source: Vaswani et al. (2017), Attention Is All You Need, eq. 3.
    """

    width: Count
    warmup: Count
    scale: Rate = 1.0

    def formula(self, step: Time) -> Time:
        s = step + 1
        return smaller(s**-0.5, s * self.warmup**-1.5) * self.width**-0.5 * self.scale


@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """A linear rise to `peak`, a plateau, and a decay to `final`.

    Args:
        peak: η on the plateau.
        warmup, stable, decay: Steps of the three parts.
        final: η after the decay.
        start: η at step 0.
        shape: The form of the decay: "linear", "cosine" or "1-sqrt".

    Source: Hu et al. (2024), MiniCPM; Hägele et al. (2024), for 1 − √.

    >>> from gradiometer.convergence.schedules import WarmupStableDecay
    >>> schedule = WarmupStableDecay(0.1, warmup=10, stable=80, decay=10)
    >>> [schedule(step) for step in (0, 5, 50, 95, 100)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """

    peak: Rate
    warmup: CountOrZero
    stable: CountOrZero
    decay: Count
    final: Rate = 0.0
    start: Rate = 0.0
    shape: str = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.shape in DECAYS, "shape", f"be one of {', '.join(DECAYS)}")

    def formula(self, step: Time) -> Time:
        if step < self.warmup:
            return self.start + (self.peak - self.start) * step / self.warmup
        share = (step - self.warmup - self.stable) / self.decay
        if share >= 1:
            return self.final
        if share < 0:
            return self.peak
        return self.final + (self.peak - self.final) * DECAYS[self.shape](share)


@dataclass(frozen=True)
class Piecewise(Schedule):
    """The first rate before the first boundary, the second rate from there on, and so on.

    Optax: piecewise_constant_schedule.

    >>> from gradiometer.convergence.schedules import Piecewise
    >>> schedule = Piecewise(boundaries=(100, 200), rates=(0.1, 0.01, 0.001))
    >>> schedule(99), schedule(100), schedule(200)
    (0.1, 0.01, 0.001)
    """

    boundaries: tuple[int, ...]
    rates: tuple[Amount, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        object.__setattr__(self, "rates", tuple(self.rates))
        rising = all(one < two for one, two in zip((0, *self.boundaries), self.boundaries, strict=False))
        whole = all(isinstance(boundary, int) for boundary in self.boundaries)
        self._require(rising and whole, "boundaries", "be whole numbers above 0, each above the one before")
        good = all(rate >= 0 and math.isfinite(rate) for rate in self.rates)
        right = good and len(self.rates) == len(self.boundaries) + 1
        self._require(right, "rates", "be one rate more than `boundaries`, finite and not negative")

    def formula(self, step: Time) -> Time:
        return self.rates[sum(1 for boundary in self.boundaries if step >= boundary)]


@dataclass(frozen=True)
class PiecewiseLinear(Schedule):
    """Straight lines between points (step, rate); constant before the first and after the last point."""

    points: tuple[tuple[int, Amount], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            points = msgspec.convert(self.points, tuple[tuple[int, Amount], ...])
        except msgspec.ValidationError:
            points = ()
        good = bool(points) and all(0 <= rate < math.inf for _, rate in points)
        rising = all(one < two for (one, _), (two, _) in itertools.pairwise(points))
        self._require(rising and good, "points", "be (step, rate) pairs in rising order of steps")
        object.__setattr__(self, "points", points)

    def formula(self, step: Time) -> Time:
        if step >= self.points[-1][0]:
            return self.points[-1][1]
        (start, low) = self.points[0]
        for end, high in self.points:
            if step < end:
                return low if end == start else low + (high - low) * (step - start) / (end - start)
            start, low = end, high
        return low


@dataclass(frozen=True)
class Formula(Schedule):
    """A formula in t = step + 1, in the grammar of `formulas.expression`.

    >>> from gradiometer.convergence.schedules import Formula
    >>> Formula("0.1/sqrt(t)")(3)
    0.05
    """

    text: str

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(isinstance(self.text, str), "text", "be a formula in t")
        expression_in(self.text)

    def formula(self, step: Time) -> Time:
        return expression_in(self.text).read(step + 1, NUMBERS)

    def asymptotics(self, step: Asymptotics) -> Asymptotics:
        """The formula's asymptotics."""
        return expression_in(self.text).asymptotics(step + 1)
