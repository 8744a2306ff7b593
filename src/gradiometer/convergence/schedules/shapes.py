"""The shapes the field has names for, each the same as its namesakes in torch, timm, transformers and optax."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from gradiometer.convergence.formulas.asymptotics import Asymptotics
from gradiometer.convergence.formulas.expression import NUMBERS, Expression
from gradiometer.convergence.formulas.functions import Time, smaller
from gradiometer.convergence.formulas.number import Amount
from gradiometer.convergence.schedules.schedule import Schedule

DECAYS: dict[str, Callable[[Amount], Amount]] = {
    "linear": lambda share: 1 - share,
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
    "1-sqrt": lambda share: 1 - math.sqrt(share),
}
"""How a warm-up–stable–decay schedule comes down, from 1 to 0."""


@dataclass(frozen=True)
class Constant(Schedule):
    """η = rate."""

    rate: Amount

    def __post_init__(self) -> None:
        self._need_rates("rate")

    def formula(self, step: Time) -> Time:
        """The rate."""
        return self.rate


@dataclass(frozen=True)
class StepDecay(Schedule):
    """η₀ factor^⌊step / every⌋. Torch: StepLR; optax: exponential_decay with staircase."""

    initial: Amount
    every: int
    factor: Amount = 0.1

    def __post_init__(self) -> None:
        self._need_rates("initial", "factor")
        self._need_whole(1, "every")

    def formula(self, step: Time) -> Time:
        """η₀ factor^⌊step / every⌋."""
        return self.initial * self.factor ** (step // self.every)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """η₀ times the factor once for every milestone reached. Torch: MultiStepLR."""

    initial: Amount
    milestones: tuple[int, ...]
    factor: Amount = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        self._need_rates("initial", "factor")
        whole = all(isinstance(step, int) and step >= 0 for step in self.milestones)
        self._refuse_unless(whole, "milestones", "be whole numbers and not negative")

    def formula(self, step: Time) -> Time:
        """η₀ factor^(milestones reached)."""
        return self.initial * self.factor ** sum(1 for milestone in self.milestones if step >= milestone)


@dataclass(frozen=True)
class Exponential(Schedule):
    """η₀ factor^(step / every). Torch: ExponentialLR; optax: exponential_decay."""

    initial: Amount
    factor: Amount
    every: int = 1

    def __post_init__(self) -> None:
        self._need_rates("initial")
        self._need_positive("factor")
        self._need_whole(1, "every")

    def formula(self, step: Time) -> Time:
        """η₀ factor^(step / every)."""
        return self.initial * self.factor ** (step / self.every)


@dataclass(frozen=True)
class Polynomial(Schedule):
    """From `initial` to `final` as (1 − step/steps)^power, `final` afterwards. Torch: PolynomialLR; timm: PolyLR."""

    initial: Amount
    steps: int
    final: Amount = 0.0
    power: Amount = 1.0

    def __post_init__(self) -> None:
        self._need_rates("initial", "final")
        self._need_positive("power")
        self._need_whole(1, "steps")

    def formula(self, step: Time) -> Time:
        """final + (η₀ − final)(1 − step/steps)^power."""
        if step >= self.steps:
            return self.final
        return self.final + (self.initial - self.final) * (1 - step / self.steps) ** self.power


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from `initial` to `final`, `final` afterwards. Torch: LinearLR."""

    initial: Amount
    steps: int
    final: Amount = 0.0

    def __post_init__(self) -> None:
        self._need_rates("initial", "final")
        self._need_whole(1, "steps")

    def formula(self, step: Time) -> Time:
        """η₀ + (final − η₀) step/steps."""
        return self.final if step >= self.steps else self.initial + (self.final - self.initial) * step / self.steps


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a wave from `initial` to `final`, `final` afterwards. Torch: CosineAnnealingLR, which rises again there.

    Args:
        initial, final: η at step 0 and from `steps` on.
        steps: Length of the half wave.
        power: Exponent of (1 + cos)/2, as optax has it.

    Source: Loshchilov & Hutter (2017), SGDR, eq. 5.
    """

    initial: Amount
    steps: int
    final: Amount = 0.0
    power: Amount = 1.0

    def __post_init__(self) -> None:
        self._need_rates("initial", "final")
        self._need_positive("power")
        self._need_whole(1, "steps")

    def formula(self, step: Time) -> Time:
        """final + (η₀ − final) ((1 + cos(π step/steps))/2)^power."""
        if step >= self.steps:
            return self.final
        wave: Amount = ((1 + math.cos(math.pi * step / self.steps)) / 2) ** self.power
        return self.final + (self.initial - self.final) * wave


@dataclass(frozen=True)
class Tanh(Schedule):
    """A smooth step from `initial` to `final`, along tanh between `lower` and `upper`. timm: TanhLRScheduler.

    Source: Hsueh, Li & Wu (2019), Stochastic Gradient Descent with Hyperbolic-Tangent Decay, eq. 5.
    """

    initial: Amount
    steps: int
    final: Amount = 0.0
    lower: Amount = -7.0
    upper: Amount = 3.0

    def __post_init__(self) -> None:
        self._need_rates("initial", "final")
        self._need_whole(1, "steps")
        self._refuse_unless(math.isfinite(self.lower), "lower", "be finite")
        self._refuse_unless(self.upper > self.lower, "upper", "be above `lower`")

    def formula(self, step: Time) -> Time:
        """final + (η₀ − final)(1 − tanh)/2."""
        if step >= self.steps:
            return self.final
        share = step / self.steps
        fall = math.tanh(self.lower * (1 - share) + self.upper * share)
        return self.final + (self.initial - self.final) * (1 - fall) / 2


@dataclass(frozen=True)
class InverseTime(Schedule):
    """η₀ / (1 + step/τ): satisfies the theorem's three conditions."""

    initial: Amount
    time_constant: Amount = 1.0

    def __post_init__(self) -> None:
        self._need_rates("initial")
        self._need_positive("time_constant")

    def formula(self, step: Time) -> Time:
        """η₀ / (1 + step/τ)."""
        return self.initial / (1 + step / self.time_constant)


@dataclass(frozen=True)
class InversePower(Schedule):
    """η₀ (1 + step/τ)^-p: satisfies the theorem's three conditions for ½ < p ≤ 1."""

    initial: Amount
    power: Amount = 1.0
    time_constant: Amount = 1.0

    def __post_init__(self) -> None:
        self._need_rates("initial", "power")
        self._need_positive("time_constant")

    def formula(self, step: Time) -> Time:
        """η₀ (1 + step/τ)^-p."""
        return self.initial * (1 + step / self.time_constant) ** -self.power


@dataclass(frozen=True)
class InverseSquareRoot(Schedule):
    """η₀ / √(1 + step/τ). transformers: get_inverse_sqrt_schedule, after its warm-up."""

    initial: Amount
    time_constant: Amount = 1.0

    def __post_init__(self) -> None:
        self._need_rates("initial")
        self._need_positive("time_constant")

    def formula(self, step: Time) -> Time:
        """η₀ / √(1 + step/τ)."""
        return self.initial * (1 + step / self.time_constant) ** -0.5


@dataclass(frozen=True)
class Noam(Schedule):
    """scale · width^-½ · min(s^-½, s · warmup^-1.5) with s = step + 1.

    Source: Vaswani et al. (2017), Attention Is All You Need, eq. 3.
    """

    width: int
    warmup: int
    scale: Amount = 1.0

    def __post_init__(self) -> None:
        self._need_whole(1, "width", "warmup")
        self._need_rates("scale")

    def formula(self, step: Time) -> Time:
        """The smaller of the rise and the fall."""
        s = step + 1
        return smaller(s**-0.5, s * self.warmup**-1.5) * self.width**-0.5 * self.scale


@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """A linear rise, a plateau, a fall: `peak` in the middle, `final` at the end and after it.

    Args:
        peak: η on the plateau.
        warmup, stable, decay: Steps of the three parts.
        final: η from the end of the decay on.
        start: η at step 0, where the rise begins.
        shape: How it comes down: "linear", "cosine" or "1-sqrt".

    Source: Hu et al. (2024), MiniCPM; Hägele et al. (2024), for 1 − √.
    """

    peak: Amount
    warmup: int
    stable: int
    decay: int
    final: Amount = 0.0
    start: Amount = 0.0
    shape: str = "linear"

    def __post_init__(self) -> None:
        self._need_rates("peak", "final", "start")
        self._need_whole(0, "warmup", "stable")
        self._need_whole(1, "decay")
        self._refuse_unless(self.shape in DECAYS, "shape", f"be one of {', '.join(DECAYS)}")

    def formula(self, step: Time) -> Time:
        """The part the step is in."""
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
    """The first rate before the first boundary, the next from it on, and so on. Optax: piecewise_constant_schedule."""

    boundaries: tuple[int, ...]
    rates: tuple[Amount, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        object.__setattr__(self, "rates", tuple(self.rates))
        rising = all(one < two for one, two in zip((0, *self.boundaries), self.boundaries, strict=False))
        whole = all(isinstance(boundary, int) for boundary in self.boundaries)
        self._refuse_unless(rising and whole, "boundaries", "be whole numbers above 0, each above the one before")
        good = all(rate >= 0 and math.isfinite(rate) for rate in self.rates)
        right = good and len(self.rates) == len(self.boundaries) + 1
        self._refuse_unless(right, "rates", "be one rate more than `boundaries`, finite and not negative")

    def formula(self, step: Time) -> Time:
        """The rate of the piece."""
        return self.rates[sum(1 for boundary in self.boundaries if step >= boundary)]


@dataclass(frozen=True)
class PiecewiseLinear(Schedule):
    """Straight lines between points (step, rate); level before the first and after the last."""

    points: tuple[tuple[int, Amount], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", tuple((step, rate) for step, rate in self.points))
        steps = [step for step, _ in self.points]
        rising = all(one < two for one, two in itertools.pairwise(steps))
        good = all(isinstance(step, int) and rate >= 0 and math.isfinite(rate) for step, rate in self.points)
        self._refuse_unless(bool(steps) and rising and good, "points", "be (step, rate) pairs in rising order of steps")

    def formula(self, step: Time) -> Time:
        """On the line between the neighbouring points."""
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
    """A formula in t = step + 1, such as Formula("0.1/sqrt(t)"), in the grammar of `expression`."""

    text: str

    def __post_init__(self) -> None:
        self._refuse_unless(isinstance(self.text, str), "text", "be a formula in t")
        Expression(self.text)

    def formula(self, step: Time) -> Time:
        """The formula's value."""
        return Expression(self.text).read(step + 1, NUMBERS)

    def asymptotics(self, step: Asymptotics) -> Asymptotics:
        """The formula's behaviour in the long run."""
        return Expression(self.text).asymptotics(step + 1)
