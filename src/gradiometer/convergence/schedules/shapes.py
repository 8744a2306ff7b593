"""The common shapes, each equal to the schedule of that name in torch, timm,
transformers or optax."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from gradiometer.convergence.formulas.asymptotics import Time
from gradiometer.convergence.formulas.expression import formula_in
from gradiometer.convergence.formulas.number import Amount
from gradiometer.convergence.schedules.schedule import (
    Count,
    CountOrZero,
    Positive,
    Rate,
    Schedule,
    power,
)

# The decays of `WarmupStableDecay`, from 1 to 0.
DECAYS: dict[str, Callable[[Amount], Amount]] = {
    "linear": lambda share: 1 - share,
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
    "1-sqrt": lambda share: 1 - math.sqrt(share),
}


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
        # A list, as JSON gives it, would make the schedule unhashable.
        object.__setattr__(self, "milestones", tuple(self.milestones))
        whole = all(isinstance(step, int) and step >= 0 for step in self.milestones)
        self._require(whole, "milestones", "be whole numbers and not negative")

    def formula(self, step: Time) -> Time:
        return self.initial * self.factor ** sum(
            1 for milestone in self.milestones if step >= milestone
        )


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
    """final + (η₀ − final)(1 − step/steps)^power, then `final`. Torch: PolynomialLR;
    timm: PolyLR."""

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
        return (
            self.final
            if step >= self.steps
            else self.initial + (self.final - self.initial) * step / self.steps
        )


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
class InversePower(Schedule):
    """η₀ (1 + step/τ)^-p: satisfies the theorem's three conditions for ½ < p ≤ 1."""

    initial: Rate
    power: Rate = 1.0
    time_constant: Positive = 1.0

    def formula(self, step: Time) -> Time:
        return self.initial * (1 + step / self.time_constant) ** -self.power


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
        formula_in(self.text)

    def formula(self, step: Time) -> Time:
        return formula_in(self.text)(step + 1)
