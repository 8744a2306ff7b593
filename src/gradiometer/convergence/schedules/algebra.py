"""Schedules made of schedules. Every combination is a schedule again, and the theorem is decided through it."""

from dataclasses import dataclass
from fractions import Fraction

from gradiometer.convergence.formulas.asymptotics import Asymptotics
from gradiometer.convergence.formulas.bounds import NIL, Bounds, Share
from gradiometer.convergence.formulas.expansion import CONSTANT, Expansion
from gradiometer.convergence.formulas.functions import Time, larger, smaller
from gradiometer.convergence.formulas.number import Amount
from gradiometer.convergence.schedules.place import place_in_cycles, shrinking
from gradiometer.convergence.schedules.schedule import Schedule

MOST_SAMPLED = 1 << 17
"""Steps of a cycle that are looked at one by one."""


@dataclass(frozen=True)
class _Pair(Schedule):
    """Two schedules at the same step."""

    first: Schedule
    second: Schedule

    def __post_init__(self) -> None:
        self._need_schedules("first", "second")


class Sum(_Pair):
    """η = η₁ + η₂."""

    def formula(self, step: Time) -> Time:
        """η₁ + η₂."""
        return _at(self.first, step) + _at(self.second, step)


class Product(_Pair):
    """η = η₁ η₂."""

    def formula(self, step: Time) -> Time:
        """η₁ η₂."""
        return _at(self.first, step) * _at(self.second, step)


class Maximum(_Pair):
    """η = max(η₁, η₂)."""

    def formula(self, step: Time) -> Time:
        """max(η₁, η₂)."""
        return larger(_at(self.first, step), _at(self.second, step))


class Minimum(_Pair):
    """η = min(η₁, η₂)."""

    def formula(self, step: Time) -> Time:
        """min(η₁, η₂)."""
        return smaller(_at(self.first, step), _at(self.second, step))


@dataclass(frozen=True)
class Scaled(Schedule):
    """η = factor · η₁."""

    schedule: Schedule
    factor: Amount

    def __post_init__(self) -> None:
        self._need_schedules("schedule")
        self._need_rates("factor")

    def formula(self, step: Time) -> Time:
        """Factor · η₁."""
        return self.factor * _at(self.schedule, step)


@dataclass(frozen=True)
class Shifted(Schedule):
    """η at step s is η₁ at step s + steps."""

    schedule: Schedule
    steps: int

    def __post_init__(self) -> None:
        self._need_schedules("schedule")
        self._need_whole(0, "steps")

    def formula(self, step: Time) -> Time:
        """η₁ later."""
        return _at(self.schedule, step + self.steps)


@dataclass(frozen=True)
class Then(Schedule):
    """The first for some steps, then the second from its own step 0."""

    first: Schedule
    steps: int
    second: Schedule

    def __post_init__(self) -> None:
        self._need_schedules("first", "second")
        self._need_whole(0, "steps")

    def formula(self, step: Time) -> Time:
        """η₁ before `steps`, η₂ counted from there after."""
        return _at(self.first, step) if step < self.steps else _at(self.second, step - self.steps)


@dataclass(frozen=True)
class Warmup(Schedule):
    """A linear rise from `start` to the schedule's first rate, and then the schedule.

    Args:
        schedule: What it warms up to.
        steps: Length of the rise.
        start: η at step 0.
        within: Whether the schedule's own steps are counted from step 0, so that the rise covers its beginning,
            instead of from the end of the rise.
    """

    schedule: Schedule
    steps: int
    start: Amount = 0.0
    within: bool = False

    def __post_init__(self) -> None:
        self._need_schedules("schedule")
        self._need_whole(1, "steps")
        self._need_rates("start")

    def formula(self, step: Time) -> Time:
        """The rise, then the schedule."""
        if step < self.steps:
            return self.start + (_at(self.schedule, 0) - self.start) * step / self.steps
        return _at(self.schedule, step if self.within else step - self.steps)


@dataclass(frozen=True)
class Held(Schedule):
    """η counted in epochs: at step s, η₁ at ⌊s / every⌋."""

    schedule: Schedule
    every: int

    def __post_init__(self) -> None:
        self._need_schedules("schedule")
        self._need_whole(1, "every")

    def formula(self, step: Time) -> Time:
        """η₁ at the epoch."""
        return _at(self.schedule, step // self.every)


@dataclass(frozen=True)
class Cycles(Schedule):
    """The first `length` steps of a schedule, over and over.

    Args:
        schedule: What is repeated.
        length: Steps of the first cycle.
        lengthen: How many times as long the next cycle is; the schedule is stretched to fit.
        shrink: How many times as high the next cycle is.
    """

    schedule: Schedule
    length: int
    lengthen: Amount = 1.0
    shrink: Amount = 1.0

    def __post_init__(self) -> None:
        self._need_schedules("schedule")
        self._need_whole(1, "length")
        self._need_positive("lengthen", "shrink")
        self._refuse_unless(self.lengthen >= 1, "lengthen", "be at least 1")
        self._refuse_unless(self.shrink <= 1, "shrink", "be at most 1")

    def formula(self, step: Time) -> Time:
        """shrink^k η₁ at the place within cycle k."""
        if self.lengthen == 1:
            return self.shrink ** (step // self.length) * self.schedule.formula(step % self.length)
        cycle, share = place_in_cycles(step, self.length, self.lengthen)
        return self.shrink**cycle * self.schedule.formula(share * self.length)

    def asymptotics(self, step: Asymptotics) -> Asymptotics:
        """A bounded factor of known share above zero, times the height of the cycles."""
        height = shrinking(step, self.length, self.lengthen, self.shrink)
        place = (step % self.length).branches if self.lengthen == 1 else ()
        known = [branch.precise.as_constant if branch.precise is not None else None for branch in place]
        if known and None not in known:
            values = [self.schedule(int(float(number))) for number in known if number is not None]
            return height * Asymptotics(tuple(Bounds.exactly(Expansion.constant(value)) for value in values))
        return height * Asymptotics((self._sampled(),))

    def _sampled(self) -> Bounds:
        """Between zero and the largest rate of a cycle, above zero at the share of steps seen there."""
        stride = -(-self.length // MOST_SAMPLED)
        rates = [self.schedule(step) for step in range(0, self.length, stride)]
        share = Fraction(sum(rate > 0 for rate in rates), len(rates) * stride)
        if not share:
            return Bounds.exactly(NIL) if stride == 1 else Bounds(NIL, Expansion.constant(1))
        if share < 1 and self.lengthen > 1:
            share = min(share, Fraction(1, 2))  # the places of two such shares may avoid each other
        if share == 1 and self.lengthen == 1:
            return Bounds(Expansion.constant(min(rates)), Expansion.constant(max(rates)))
        return Bounds(NIL, Expansion.constant(max(rates)), Share(CONSTANT, share))


def _at(schedule: Schedule, step: Time) -> Time:
    """A part's rate: its number, or its behaviour in the long run."""
    return schedule.asymptotics(step) if isinstance(step, Asymptotics) else schedule.formula(step)
