"""Decides which steps are measured, and which gauges run at a measured step."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from gradiometer.measurement.gauge import Gauge
from gradiometer.run.budget import READINGS, Budget

# Expected cost of the first measurement of an expensive gauge (`one_in` above 1), in training
# steps.
EXPENSIVE = 8

# `due` decides again after this time at the latest: losses have to be written, and steps may have
# become slower.
LOOK_SECONDS = 0.25

# Most steps between two decisions.
FARTHEST = 10**6


class Cadence:
    """Decides which steps are measured, and which gauges run then.

    Cheap gauges run at every measured step. An expensive one (`one_in` above 1) runs after enough
    readings of the cheap ones, at the first measured step at which the budget covers it. If only
    expensive gauges are left, all run at every measured step.

    Args:
        gauges: The gauges that do not choose their own steps.
        budget: The account.
        every: Measure at every n-th step.
        share: Share of the training time; None to measure every step, or every n-th.
        elsewhere: True if cheap gauges are read elsewhere at every step. Expensive ones then run at
            one in `one_in` steps, and after step 512 at as many in each doubling of the steps: the
            demo's batch sharpness took a fifth of its time with three times as many readings, and
            its interval was not narrower.
    """

    def __init__(
        self,
        gauges: Sequence[Gauge],
        budget: Budget,
        every: int | None,
        share: float | None,
        *,
        elsewhere: bool = False,
    ) -> None:
        self._gauges = tuple(gauges)
        self._budget = budget
        self._asked_every = every
        self._every = every
        self._elsewhere = elsewhere
        # True if the interval between measured steps doubles with the steps.
        self._doubles = False
        self._share = share
        # Names of gauges that cannot measure this training.
        self.refused: set[str] = set()
        # True if `next_look` is measured without another decision.
        self.is_certain = every is not None or share is None
        # The gauges that run at every measured step, and the others.
        self.turn: list[Gauge] = []
        self._others: list[Gauge] = []
        # Number of measured steps, and the first and last of them.
        self.measured = self.first = self.last = 0
        # The next step that `due` has to be asked about: no earlier one is measured.
        self.next_look = 0
        self._expensive_at: dict[str, int] = {}
        self._unsettled = False
        self._first_asked: int | None = None
        self._steps_before = 0
        self._late = 0.0
        self._sort()

    def _sort(self) -> None:
        """The cheap gauges run at every measured step, or all if only expensive ones are left."""
        working = [gauge for gauge in self._gauges if gauge.name not in self.refused]
        cheap = [gauge for gauge in working if gauge.one_in == 1]
        self.turn = cheap or working
        self._others = [gauge for gauge in working if gauge.one_in > 1] if cheap else []
        self._every = self._asked_every
        self._doubles = False
        if self._every is not None and self._elsewhere and self.turn:
            self._every *= min(gauge.one_in for gauge in self.turn)
            self._doubles = not cheap

    def refuse(self, name: str) -> None:
        """A gauge cannot measure this training."""
        self.refused.add(name)
        self._sort()

    @property
    def spacing(self) -> float | None:
        """Mean distance of measured steps, in steps; None with fewer than two."""
        return (self.last - self.first) / (self.measured - 1) if self.measured > 1 else None

    def due(self, step: int) -> bool:
        """True if this step should be measured."""
        if step < self.next_look and not self.is_late:
            return False
        self._count(step)
        if self._share == 0 or not self.turn:
            due = False
            self.next_look = step + FARTHEST
        elif self._every is not None:
            every = self._every
            if self._doubles:
                every <<= max(step.bit_length() - 9, 0)
            due = step % every == 0
            self.next_look = step + (1 if due else every - step % every)
        else:
            # of a gauge that runs alone, the first measurement is expected to be expensive
            guess = None
            if self.turn[0].one_in > 1:
                guess = EXPENSIVE * self._budget.training / self._budget.steps
            due = self._share is None or self._budget.fits(READINGS, guess, saving=self._saving)
            self.next_look = step + 1
            if not due:
                # At least 8 steps between two decisions against a reading: one costs time, too.
                ahead = self._budget.steps_until(saving=self._saving, pause=8)
                self.next_look = step + min(ahead, FARTHEST)
        self._late = time.perf_counter() + LOOK_SECONDS
        return due

    @property
    def is_late(self) -> bool:
        """True if the last decision was so long ago that it should be made again, whatever the
        step."""
        return time.perf_counter() >= self._late

    def expensive(self) -> list[Gauge]:
        """The expensive gauges that run at this measured step."""
        return [gauge for gauge in self._waiting() if self._covers(gauge)] if self._others else []

    def ran(self, gauge: Gauge) -> None:
        """An expensive gauge has measured."""
        self._budget.made(gauge.name)
        self._expensive_at[gauge.name] = self.measured + 1

    def made(self, step: int, *, elsewhere: bool = False) -> None:
        """The step was measured; elsewhere if the budget of measured steps did not pay for it."""
        self._unsettled |= not elsewhere
        self.first = self.first if self.measured else step
        self.last = step
        self.measured += 1

    def add(self, gauges: Sequence[Gauge]) -> None:
        """Measure these gauges too, from now on."""
        self._gauges = (*gauges, *self._gauges)
        self._elsewhere = False
        self._sort()
        self.next_look = 0

    def next_due(self, steps: int, under_way: float) -> int:
        """The step that will be measured next, after the one under way, at the pace so far.

        Args:
            steps: The index of the step under way.
            under_way: Seconds that measuring it took so far.
        """
        if self._every is not None:
            return int((steps // self._every + 1) * self._every)
        self._count(steps)
        return steps + self._budget.steps_until(under_way, saving=self._saving)

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {
            "measured_steps": self.measured,
            "first_measured": self.first,
            "last_measured": self.last,
            "expensive_at": self._expensive_at,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint, after the budget was restored."""
        self.measured = int(state["measured_steps"])
        self.first = int(state["first_measured"])
        self.last = int(state["last_measured"])
        self._expensive_at = dict(state.get("expensive_at", {}))
        self._steps_before = self._budget.steps or self.last

    def start(self, step: int) -> None:
        """Count the steps from this one on. Default: from the first one that `due` is asked
        about."""
        self._first_asked = step

    def reached(self, steps: int) -> None:
        """Training is at the step with this index, without a question about it."""
        if self._first_asked is not None:
            self._budget.passed(
                max(self._steps_before + steps - self._first_asked, self._budget.steps)
            )

    def _count(self, step: int) -> None:
        """Tell the budget how many steps were made, and that the last measured one is complete."""
        if self._first_asked is None:
            self._first_asked = step
        self._budget.passed(self._steps_before + step - self._first_asked + 1)
        if self._unsettled:
            self._unsettled = False
            self._budget.made(READINGS)

    @property
    def _saving(self) -> bool:
        """True if an expensive gauge waits that the budget does not cover yet."""
        return not all(map(self._covers, self._waiting()))

    def _covers(self, gauge: Gauge) -> bool:
        if self._every is not None or self._share is None:
            return True
        return self._budget.fits(
            gauge.name, EXPENSIVE * self._budget.training / max(self._budget.steps, 1)
        )

    def _waiting(self) -> list[Gauge]:
        """The expensive gauges whose turn it is, after enough readings of the cheap ones."""
        return [
            gauge
            for gauge in self._others
            if self.measured + 1 - self._expensive_at.get(gauge.name, 0) >= gauge.one_in
        ]
