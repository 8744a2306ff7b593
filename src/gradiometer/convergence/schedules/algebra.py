"""Schedules made of schedules. Every combination is a schedule, and the theorem is decided for it too."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from gradiometer.convergence.formulas.asymptotics import Asymptotics, Time, larger, smaller
from gradiometer.convergence.formulas.bounds import NIL, Bounds, Share
from gradiometer.convergence.formulas.expansion import CONSTANT, Expansion
from gradiometer.convergence.formulas.number import Undecided
from gradiometer.convergence.schedules.cycles import place_in_cycles, shrinking
from gradiometer.convergence.schedules.schedule import Count, CountOrZero, Lengthening, Rate, Schedule, Shrinking, power

MOST_SAMPLED = 1 << 17
"""Largest number of steps of a cycle that are evaluated."""


@dataclass(frozen=True)
class _Pair(Schedule):
    """Two schedules combined at the same step."""

    first: Schedule
    second: Schedule
    combine: ClassVar[Callable[[Time, Time], Time]]

    def formula(self, step: Time) -> Time:
        return type(self).combine(_at(self.first, step), _at(self.second, step))


class Sum(_Pair):
    """η = η₁ + η₂.

    >>> from gradiometer.convergence.schedules import Constant, InverseTime
    >>> (InverseTime(0.1) + Constant(0.05))(1)
    0.1
    """

    combine = operator.add


class Product(_Pair):
    """η = η₁ η₂."""

    combine = operator.mul


class Maximum(_Pair):
    """η = max(η₁, η₂)."""

    combine = larger


class Minimum(_Pair):
    """η = min(η₁, η₂)."""

    combine = smaller


@dataclass(frozen=True)
class Scaled(Schedule):
    """η = factor · η₁."""

    schedule: Schedule
    factor: Rate

    def formula(self, step: Time) -> Time:
        return self.factor * _at(self.schedule, step)


@dataclass(frozen=True)
class Shifted(Schedule):
    """η at a step is η₁ at step + steps."""

    schedule: Schedule
    steps: CountOrZero

    def formula(self, step: Time) -> Time:
        return _at(self.schedule, step + self.steps)


@dataclass(frozen=True)
class Then(Schedule):
    """The first schedule before `steps`; from there on the second one, which begins at its step 0.

    >>> from gradiometer.convergence.schedules import Constant, Linear
    >>> schedule = Constant(0.1).then(20, Linear(0.1, steps=10))
    >>> schedule(19), schedule(25)
    (0.1, 0.05)
    """

    first: Schedule
    steps: CountOrZero
    second: Schedule

    def formula(self, step: Time) -> Time:
        return _at(self.first, step) if step < self.steps else _at(self.second, step - self.steps)


@dataclass(frozen=True)
class Warmup(Schedule):
    """A linear rise from `start` to the schedule's first rate, then the schedule.

    Args:
        schedule: The schedule after the rise.
        steps: Length of the rise.
        start: η at step 0.
        within: True if the schedule's step 0 is the first step of the rise, so that the rise replaces its beginning;
            False if it is the first step after the rise.
    """

    schedule: Schedule
    steps: Count
    start: Rate = 0.0
    within: bool = False

    def formula(self, step: Time) -> Time:
        if step < self.steps:
            return self.start + (_at(self.schedule, 0) - self.start) * step / self.steps
        return _at(self.schedule, step if self.within else step - self.steps)


@dataclass(frozen=True)
class Held(Schedule):
    """η₁ at ⌊step / every⌋: a schedule counted in epochs.

    >>> from gradiometer.convergence.schedules import InverseTime
    >>> schedule = InverseTime(0.1).held(100)
    >>> schedule(99), schedule(100)
    (0.1, 0.05)
    """

    schedule: Schedule
    every: Count

    def formula(self, step: Time) -> Time:
        return _at(self.schedule, step // self.every)


@dataclass(frozen=True)
class Cycles(Schedule):
    """shrink^k η₁ at the place within cycle k: the first `length` steps of a schedule, repeated.

    Args:
        schedule: The schedule to repeat.
        length: Steps of the first cycle.
        lengthen: Factor of the length from one cycle to the next; the schedule is stretched to fit.
        shrink: Factor of the height from one cycle to the next.
    """

    schedule: Schedule
    length: Count
    lengthen: Lengthening = 1.0
    shrink: Shrinking = 1.0

    def formula(self, step: Time) -> Time:
        if self.lengthen == 1:
            return power(self.shrink, step // self.length) * self.schedule.formula(step % self.length)
        cycle, share = place_in_cycles(step, self.length, self.lengthen)
        return power(self.shrink, cycle) * self.schedule.formula(share * self.length)

    def asymptotics(self, step: Asymptotics) -> Asymptotics:
        """The height of the cycles times a bounded factor, which is above zero at a known share of the steps."""
        height = shrinking(step, self.length, self.lengthen, self.shrink)
        place = (step % self.length).branches if self.lengthen == 1 else ()
        known = [branch.precise.as_constant if branch.precise is not None else None for branch in place]
        if known and None not in known:
            values = [self.schedule(int(float(number))) for number in known if number is not None]
            return height * Asymptotics(tuple(Bounds.exactly(Expansion.constant(value)) for value in values))
        return height * Asymptotics((self._sampled(),))

    def _sampled(self) -> Bounds:
        """Bounds from the rates of one cycle: zero, the largest rate, and the share of steps above zero."""
        if self.lengthen > 1:
            raise Undecided("the steps of longer cycles lie between those of the first one")
        stride = -(-self.length // MOST_SAMPLED)
        rates = [self.schedule(step) for step in range(0, self.length, stride)]
        share = Fraction(sum(rate > 0 for rate in rates), len(rates) * stride)
        if not share:
            return Bounds.exactly(NIL) if stride == 1 else Bounds(NIL, Expansion.constant(1))
        if share == 1:
            return Bounds(Expansion.constant(min(rates)), Expansion.constant(max(rates)))
        return Bounds(NIL, Expansion.constant(max(rates)), Share(CONSTANT, share))


def _at(schedule: Schedule, step: Time) -> Time:
    """The rate of a part: a number, or its asymptotics for large steps."""
    return schedule.asymptotics(step) if isinstance(step, Asymptotics) else schedule.formula(step)
