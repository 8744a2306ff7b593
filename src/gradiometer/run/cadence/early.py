"""Readings that are made before the budget has earned them: the first ones of a run, and later ones
to stay recent."""

import math
from dataclasses import dataclass

# Readings that a run of 300 steps should have: with fewer, intervals are wide mostly because of
# their number.
PROMISED = 40

# The same if a reading costs a quarter more than a training step, or still more.
PROMISED_EXPENSIVE = 20

# The step by which they should be made.
PROMISED_BY = 300

# Steps in which more than the share may be used.
START_UP_STEPS = 1000

# In these steps, measuring may use at most this many times the share.
START_UP = 5

# Seconds that promised readings may use if the allowance of 1,000 steps has them, and two fifths of
# it in any case.
SMALL = 0.25

# Part of the steps in which the promised readings are made.
IN_TIME = 0.93


@dataclass(frozen=True)
class EarlyReadings:
    """The step from which a reading may be made before the budget has earned it.

    Args:
        share: Share of the training time that measuring may use.
        planned: Steps of the whole training; 0 if that is not known.
        steps: Training steps so far.
        pace: Seconds of a training step.
        cost: Seconds that the reading is expected to take.
        spent: Seconds that count against the allowance, with those of this reading.
        readings: Readings so far.
        newest: Training steps at the newest reading.
        bookkeeping: Seconds of `spent` that were not for readings. They do not use up what promised
            readings may take.
        most: Most readings that are promised.

    >>> EarlyReadings(0.02, planned=0, steps=600, pace=1.0, cost=0.5, spent=30.0, readings=40, newest=500).due
    550.0
    """

    share: float
    planned: int
    steps: int
    pace: float
    cost: float
    spent: float
    readings: int
    newest: int
    bookkeeping: float = 0.0
    most: int = PROMISED

    @property
    def by(self) -> int:
        """The step by which the promised readings should be made."""
        return max(min(self.planned, START_UP_STEPS), PROMISED_BY)

    @property
    def target(self) -> int:
        """The number of promised readings."""
        return min(self.most, PROMISED if self._cheap else PROMISED_EXPENSIVE)

    @property
    def due(self) -> float:
        """The step from which the next reading may be made: a promised one, or a later one to stay
        recent."""
        promised = self.promised_at
        if promised < math.inf or self.readings < min(self.most, PROMISED_EXPENSIVE):
            return promised
        # After the promised readings, another is made when training is 1.1 times as long as at the
        # newest one. At 1.2 times one is made whatever was borrowed: without it there is no advice.
        return min(max(1.1 * self.newest, self._covered_at), 1.2 * self.newest)

    @property
    def promised_at(self) -> float:
        """The step from which the next promised reading may be made; infinite if there is none."""
        if self.steps > START_UP_STEPS or self.readings >= self.target:
            return math.inf
        # A power above 1, so that the first readings are closer together.
        due: float = IN_TIME * self.by * (self.readings / self.target) ** 1.25
        # Cheap readings may use half of the allowance of the first 1,000 steps at once.
        allowance = START_UP_STEPS * self._a_step
        at_once = allowance / 2 if self._cheap else 0.0
        # However short the run is, the first readings may use this much.
        small = min(SMALL, max(allowance, 20 * self.share * SMALL))
        if self.spent - self.bookkeeping <= max(small, at_once):
            return due
        return max(due, self._covered_at)

    @property
    def _cheap(self) -> bool:
        return self.cost < 1.25 * self.pace

    @property
    def _a_step(self) -> float:
        """Seconds of the start-up allowance that a training step brings."""
        return START_UP * self.share * self.pace

    @property
    def _covered_at(self) -> float:
        """The step at which the allowance of the first 1,000 steps, and later the share, cover what
        is spent."""
        if not self._a_step > 0:
            return math.inf
        later = self.spent / self._a_step - START_UP_STEPS
        return START_UP_STEPS + later * (START_UP if later > 0 else 1)
