"""The common shapes, each equal to the schedule of that name in torch, timm, transformers or optax;
the cyclic ones; and those that `gradiometer train` and `gradiometer learn schedule` know by a name.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from gradiometer.convergence.formulas.asymptotics import Asymptotics, Time
from gradiometer.convergence.formulas.expression import formula_in
from gradiometer.convergence.formulas.number import Amount, exact
from gradiometer.convergence.schedules.schedule import (
    Count,
    CountOrZero,
    Lengthening,
    Positive,
    Rate,
    Schedule,
    Shrinking,
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


@dataclass(frozen=True)
class OneCycle(Schedule):
    """One rise to `peak` and one fall to below the first rate. Torch: OneCycleLR.

    Args:
        peak: The largest η.
        steps: Length of the cycle; η keeps its last value afterwards.
        rise: Share of the steps in the rise.
        divide: peak / η at step 0.
        final_divide: η at step 0 / η at the end.
        linear: True for straight lines instead of half cosine waves.
        three_phases: True to fall to the first rate in as many steps as the rise has, and then
            below it.

    Source: Smith & Topin (2017), Super-Convergence.

    >>> from gradiometer.convergence.schedules import OneCycle
    >>> schedule = OneCycle(0.1, steps=100)
    >>> schedule(0), schedule(29), round(schedule(99), 9)
    (0.004, 0.1, 4e-07)
    """

    peak: Rate
    steps: Count
    rise: Amount = 0.3
    divide: Positive = 25.0
    final_divide: Positive = 1e4
    linear: bool = False
    three_phases: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        most = 0.5 if self.three_phases else 1.0
        self._require(0 <= self.rise <= most, "rise", f"lie between 0 and {most}")

    def formula(self, step: Time) -> Time:
        first = self.peak / self.divide
        # Torch counts the steps of a cycle from 0 to steps − 1.
        rise_end = self.rise * self.steps - 1.0
        ends = [(0.0, first), (rise_end, self.peak)]
        if self.three_phases:
            ends.append((2 * rise_end, first))
        ends.append((self.steps - 1.0, first / self.final_divide))
        for (start, before), (end, after) in itertools.pairwise(ends):
            # A part without steps is passed over.
            if step <= end and end > start:
                share = (step - start) / (end - start)
                return before + (after - before) * (
                    share if self.linear else (1 - math.cos(math.pi * share)) / 2
                )
        return ends[-1][1]


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """final + (η₀ shrink^k − final)(1 + cos(π · share of cycle k gone))/2: repeated half waves.

    Torch: CosineAnnealingWarmRestarts; timm: CosineLRScheduler.

    Args:
        initial: η at the start of the first cycle.
        steps: Steps of the first cycle.
        lengthen: Factor of the length from one cycle to the next.
        shrink: Factor of the first rate from one cycle to the next.
        final: η near the end of every cycle.

    Source: Loshchilov & Hutter (2017), SGDR, eq. 5.

    >>> from gradiometer.convergence.schedules import CosineRestarts
    >>> schedule = CosineRestarts(0.1, steps=10, lengthen=2, shrink=0.5)
    >>> schedule(0), schedule(5), schedule(10), schedule(20), schedule(30)
    (0.1, 0.05, 0.05, 0.025, 0.025)
    """

    initial: Rate
    steps: Count
    lengthen: Lengthening = 1.0
    shrink: Shrinking = 1.0
    final: Rate = 0.0

    def formula(self, step: Time) -> Time:
        cycle, share = place_in_cycles(step, self.steps, self.lengthen)
        wave = (1 + math.cos(math.pi * share)) / 2
        return self.final + (self.initial * power(self.shrink, cycle) - self.final) * wave

    def asymptotics(self, step: Asymptotics) -> Asymptotics:
        """The height of the cycles and `final`: η is between them, and not near to either of them
        at a share of the steps."""
        shrink = exact(self.shrink)
        if self.lengthen == 1:
            height = self.initial * Asymptotics.constant(shrink) ** (step / self.steps)
        else:
            # Cycle k ends after steps (lengthen^k − 1)/(lengthen − 1), which is solved for k.
            ratio = exact(self.lengthen)
            steps = 1 + step * (ratio - 1) / self.steps
            height = self.initial * steps.power(math.log(shrink) / math.log(ratio))
        # A cycle of one step never leaves its height.
        return height if self.steps == self.lengthen == 1 else height + self.final


@dataclass(frozen=True)
class SnapshotCycle(Schedule):
    """(η₀/2)(cos(π mod(t−1, ⌈T/M⌉)/⌈T/M⌉) + 1) with t = step + 1: M coolings in T steps, a snapshot
    at the end of each.

    Args:
        initial: η₀, the first rate of every cycle.
        steps: T, the steps of the run.
        snapshots: M, the number of snapshots.

    Source: Huang et al. (2017), Snapshot Ensembles, eq. 2.

    >>> from gradiometer.convergence.schedules import SnapshotCycle
    >>> schedule = SnapshotCycle(0.1, steps=100, snapshots=5)
    >>> schedule(0), schedule(10), [step for step in range(100) if schedule.takes_snapshot(step)]
    (0.1, 0.05, [19, 39, 59, 79, 99])
    """

    initial: Rate
    steps: Count
    snapshots: Count

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.snapshots <= self.steps, "snapshots", "be at most `steps`")

    @property
    def length(self) -> int:
        """⌈T/M⌉, the steps of a cycle."""
        return -(-self.steps // self.snapshots)

    def formula(self, step: Time) -> Time:
        return self.initial / 2 * (math.cos(math.pi * (step % self.length) / self.length) + 1)

    def asymptotics(self, step: Asymptotics) -> Asymptotics:
        """Those of cosine restarts that do not lengthen or shrink."""
        return CosineRestarts(self.initial, self.length).asymptotics(step)

    def takes_snapshot(self, step: int) -> bool:
        """True if the model is stored after this step, the last one of a cycle of the run."""
        last = step % self.length == self.length - 1
        return step < self.steps and (last or step == self.steps - 1)


def place_in_cycles(step: Amount, first: int, lengthen: Amount = 1.0) -> tuple[int, Amount]:
    """The cycle of a step, from 0, and the share of that cycle before the step, in [0, 1).

    Cycle k has first·lengthen^k steps. Exact for whole steps of any size if `lengthen` is whole.

    Args:
        step: Steps taken so far.
        first: Steps of cycle 0.
        lengthen: Ratio of the lengths of successive cycles, at least 1.
    """
    if lengthen == 1:
        cycle = int(step // first)
        return cycle, (step - cycle * first) / first
    if lengthen == int(lengthen):
        ratio = int(lengthen)
        # Rounding may put the logarithm one cycle too high: from one below, integers count up
        # exactly.
        cycle = max(math.floor(math.log(1 + step * (ratio - 1) // first) / math.log(ratio)) - 1, 0)
        while first * (ratio ** (cycle + 1) - 1) // (ratio - 1) <= step:
            cycle += 1
        start = first * (ratio**cycle - 1) // (ratio - 1)
        return cycle, (step - start) / (first * ratio**cycle)
    grown = 1 + step * (lengthen - 1) / first
    cycle = math.floor(math.log(grown) / math.log(lengthen))
    share = (grown / lengthen**cycle - 1) / (lengthen - 1)
    # Rounding may put a step slightly outside of its cycle.
    return cycle, min(max(share, 0.0), math.nextafter(1.0, 0.0))


def schedule_by_name(name: str, initial: float, steps: int, snapshots: int = 0) -> Schedule | None:
    """The schedule of this name over a run of this length; None if the name is not known.

    Cosine and linear end at zero with the run, and a trapezoid, which keeps its rate for the first
    half. Cycles do so in each of their `snapshots` cycles.
    """
    match name:
        case "constant":
            return Constant(initial)
        case "cosine":
            return Cosine(initial, steps=steps)
        case "linear":
            return Linear(initial, steps=steps)
        case "trapezoid":
            return trapezoid(initial, steps)
        case "cycles" if snapshots:
            return SnapshotCycle(initial, steps, snapshots)
    return None


def trapezoid(initial: float, steps: int) -> Schedule:
    """The rate is kept for the first half of a run, and falls linearly to zero in the second."""
    return WarmupStableDecay(initial, warmup=0, stable=steps // 2, decay=steps - steps // 2)
