"""The shapes that come back: one cycle, triangles, cosine with restarts, and the snapshot cycle."""

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction

from gradiometer.convergence.formulas.asymptotics import Asymptotics
from gradiometer.convergence.formulas.bounds import NIL, UNIT, Bounds, Share
from gradiometer.convergence.formulas.expansion import CONSTANT
from gradiometer.convergence.formulas.functions import Time
from gradiometer.convergence.formulas.number import Amount
from gradiometer.convergence.schedules.place import place_in_cycles, shrinking
from gradiometer.convergence.schedules.schedule import Schedule


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to `peak` and down below where it began, once. Torch: OneCycleLR.

    Args:
        peak: The largest η.
        steps: Length of the cycle; the last rate stays afterwards.
        rise: Share of the steps spent rising.
        divide: peak / η at step 0.
        final_divide: η at step 0 / η at the end.
        linear: Straight lines instead of half waves.
        three_phases: Down to where it began as long as it rose, and only then below.

    Source: Smith & Topin (2017), Super-Convergence.
    """

    peak: Amount
    steps: int
    rise: Amount = 0.3
    divide: Amount = 25.0
    final_divide: Amount = 1e4
    linear: bool = False
    three_phases: bool = False

    def __post_init__(self) -> None:
        self._need_rates("peak")
        self._need_whole(1, "steps")
        self._need_positive("divide", "final_divide")
        most = 0.5 if self.three_phases else 1.0
        self._refuse_unless(0 <= self.rise <= most, "rise", f"lie between 0 and {most}")

    def formula(self, step: Time) -> Time:
        """The phase the step is in."""
        first = self.peak / self.divide
        rise_end = self.rise * self.steps - 1.0
        ends = [(0.0, first), (rise_end, self.peak)]
        if self.three_phases:
            ends.append((2 * rise_end, first))
        ends.append((self.steps - 1.0, first / self.final_divide))
        for (start, before), (end, after) in itertools.pairwise(ends):
            if step <= end and end > start:
                share = (step - start) / (end - start)
                return before + (after - before) * (share if self.linear else (1 - math.cos(math.pi * share)) / 2)
        return ends[-1][1]


@dataclass(frozen=True)
class Triangular(Schedule):
    """Straight up from `low` to `high` and down again, over and over. Torch: CyclicLR.

    Args:
        low, high: Ends of the first triangle.
        up, down: Steps of its two sides; `down` is `up` where it is None.
        shrink: How many times as high the next triangle is (0.5: torch's triangular2).
        decay: What the height is multiplied by at every step (torch's exp_range).

    Source: Smith (2017), Cyclical Learning Rates for Training Neural Networks.
    """

    low: Amount
    high: Amount
    up: int
    down: int | None = None
    shrink: Amount = 1.0
    decay: Amount = 1.0

    def __post_init__(self) -> None:
        self._need_rates("low", "high")
        self._refuse_unless(self.high >= self.low, "high", "not be below `low`")
        self._need_whole(1, "up")
        if self.down is not None:
            self._need_whole(1, "down")
        self._need_positive("shrink", "decay")
        self._refuse_unless(self.shrink <= 1, "shrink", "be at most 1")
        self._refuse_unless(self.decay <= 1, "decay", "be at most 1")

    @property
    def length(self) -> int:
        """Steps of one triangle."""
        return self.up + (self.up if self.down is None else self.down)

    def formula(self, step: Time) -> Time:
        """low + (high − low) · height · triangle."""
        cycle, place = step // self.length, step % self.length
        triangle = place / self.up if place <= self.up else (self.length - place) / (self.length - self.up)
        return self.low + (self.high - self.low) * triangle * self.shrink**cycle * self.decay**step

    def asymptotics(self, step: Asymptotics) -> Asymptotics:
        """The triangle is above zero at all steps of a cycle but one."""
        triangle = Asymptotics((Bounds(NIL, UNIT, Share(CONSTANT, Fraction(self.length - 1, self.length))),))
        height = shrinking(step, self.length, 1.0, self.shrink) * Asymptotics.constant(self.decay) ** step
        width = Asymptotics.constant(self.high) - self.low
        return Asymptotics.constant(self.low) + width * triangle * height


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Half a cosine from `initial` to `final`, over and over.

    Torch: CosineAnnealingWarmRestarts; timm: CosineLRScheduler.

    Args:
        initial: η at the start of the first cycle.
        steps: Steps of the first cycle.
        lengthen: How many times as long the next cycle is.
        shrink: How many times as high its start is.
        final: η towards the end of every cycle.

    Source: Loshchilov & Hutter (2017), SGDR, eq. 5.
    """

    initial: Amount
    steps: int
    lengthen: Amount = 1.0
    shrink: Amount = 1.0
    final: Amount = 0.0

    def __post_init__(self) -> None:
        self._need_rates("initial", "final")
        self._need_whole(1, "steps")
        self._need_positive("lengthen", "shrink")
        self._refuse_unless(self.lengthen >= 1, "lengthen", "be at least 1")
        self._refuse_unless(self.shrink <= 1, "shrink", "be at most 1")

    def formula(self, step: Time) -> Time:
        """final + (η₀ shrink^k − final)(1 + cos(π · share of the cycle))/2."""
        cycle, share = place_in_cycles(step, self.steps, self.lengthen)
        wave = (1 + math.cos(math.pi * share)) / 2
        return self.final + (self.initial * self.shrink**cycle - self.final) * wave

    def asymptotics(self, step: Asymptotics) -> Asymptotics:
        """The wave is above 0 and below 1 at nearly all steps of a cycle: η is the two ends, mixed by it."""
        height = self.initial * shrinking(step, self.steps, self.lengthen, self.shrink)
        if self.steps == 1 and self.lengthen == 1:
            return height
        below_one = Share(CONSTANT, Fraction(self.steps - 1, self.steps) if self.lengthen == 1 else Fraction(1))
        wave = Asymptotics((Bounds(NIL, UNIT, Share(CONSTANT), below_one),))
        return wave * height + (1 - wave) * self.final


@dataclass(frozen=True)
class SnapshotCycle(Schedule):
    """(η₀/2)(cos(π mod(t−1, ⌈T/M⌉)/⌈T/M⌉) + 1) with t = step + 1: M coolings in T steps, a snapshot at the end of each.

    Args:
        initial: η₀, where every cycle starts.
        steps: T, the steps of the run.
        snapshots: M, the snapshots taken.

    Source: Huang et al. (2017), Snapshot Ensembles, eq. 2.
    """

    initial: Amount
    steps: int
    snapshots: int

    def __post_init__(self) -> None:
        self._need_rates("initial")
        self._need_whole(1, "steps", "snapshots")
        self._refuse_unless(self.snapshots <= self.steps, "snapshots", "be at most `steps`")

    @property
    def length(self) -> int:
        """⌈T/M⌉, the steps of a cycle."""
        return -(-self.steps // self.snapshots)

    def formula(self, step: Time) -> Time:
        """The rate at the step's place within its cycle."""
        return self.initial / 2 * (math.cos(math.pi * (step % self.length) / self.length) + 1)

    def asymptotics(self, step: Asymptotics) -> Asymptotics:
        """Cosine restarts that neither lengthen nor shrink."""
        return CosineRestarts(self.initial, self.length).asymptotics(step)

    def takes_snapshot(self, step: int) -> bool:
        """Whether a model is kept after this step: it is the last of a cycle of the run."""
        last = step % self.length == self.length - 1
        return step < self.steps and (last or step == self.steps - 1)
