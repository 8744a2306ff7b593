"""Cyclic shapes: one cycle, triangles, cosine with restarts, and the snapshot cycle."""

import itertools
import math
from dataclasses import dataclass

from gradiometer.convergence.formulas.asymptotics import Asymptotics, Time
from gradiometer.convergence.formulas.number import Amount, exact, logarithm_ratio
from gradiometer.convergence.schedules.schedule import (
    Count,
    Lengthening,
    Positive,
    Rate,
    Schedule,
    Shrinking,
    power,
)


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
            height = self.initial * steps.power(logarithm_ratio(shrink, ratio))
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
