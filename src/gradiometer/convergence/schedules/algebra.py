"""Schedules made of schedules. Every combination is a schedule, and the theorem is decided for it
too."""

from dataclasses import dataclass

from gradiometer.convergence.formulas.asymptotics import Asymptotics, Time
from gradiometer.convergence.schedules.schedule import Count, CountOrZero, Rate, Schedule


@dataclass(frozen=True)
class Product(Schedule):
    """η = η₁ η₂."""

    first: Schedule
    second: Schedule

    def formula(self, step: Time) -> Time:
        return _at(self.first, step) * _at(self.second, step)


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
        within: True if the schedule's step 0 is the first step of the rise, so that the rise
            replaces its beginning; False if it is the first step after the rise.
    """

    schedule: Schedule
    steps: Count
    start: Rate = 0.0
    within: bool = False

    def formula(self, step: Time) -> Time:
        if step < self.steps:
            return self.start + (_at(self.schedule, 0) - self.start) * step / self.steps
        return _at(self.schedule, step if self.within else step - self.steps)


def _at(schedule: Schedule, step: Time) -> Time:
    """The rate of a part: a number, or its asymptotics for large steps."""
    return schedule.asymptotics(step) if isinstance(step, Asymptotics) else schedule.formula(step)
