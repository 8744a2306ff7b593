"""Steps at which nothing has to be decided: their losses are kept, in a few microseconds a step."""

import math
import time

from torch import Tensor

from gradiometer.integrations.watch.losses import (
    WAITING,
    Losses,
    Part,
    part_of,
    unsized,
    value_of,
    without_batches,
)
from gradiometer.integrations.watch.settings import Settings
from gradiometer.integrations.watch.updates import Pace
from gradiometer.measurement.batch import Batch
from gradiometer.run.budget import BOOKKEEPING, Budget
from gradiometer.run.cadence.cadence import FARTHEST, LOOK_SECONDS
from gradiometer.run.recorder import Recorder

WEIGHT = 0.1
"""Weight of the newest timed step in the mean."""


class Between:
    """Keeps the losses of the steps up to the next decision.

    They come in stretches of at most about 64 steps. Before the first step of a stretch, losses are
    written. This is timed, and so is the second step, which stands for the others; all are charged
    at the next decision.

    Args:
        losses: Takes the losses.
        settings: The settings of the optimizers, which may be read at any step.
        pace: Notices a step without an update.
        budget: The account.
        accumulation: Number of backwards per update.
    """

    def __init__(
        self, losses: Losses, settings: Settings, pace: Pace, budget: Budget, accumulation: int
    ) -> None:
        self._losses = losses
        self._settings = settings
        self._pace = pace
        self._budget = budget
        self._accumulation = accumulation
        self._several = accumulation > 1
        self._from = self._read_at = 0
        self._limit = math.inf
        self._late = math.inf
        self._are_numbers = losses.on_cpu
        """True until a loss of more than one number came: an error of `item` costs as much as ten
        calls."""
        self._seconds: float | None = None
        self._stretches = 0.0
        self._times = False
        self.waits = False
        """True between a step and its update, if the step is not measured."""
        self.until = 0
        """Steps before this one are given to `take`."""
        self.planned = 0
        """The next step at whose end something has to be decided."""

    def begin(self, step: int, until: int) -> None:
        """Nothing has to be decided at the steps from this one up to `until`, without it, for some
        time."""
        self._from = step
        self.planned = until
        self.until = 0
        self._times = False
        self._limit = self._losses.examiner.limit
        self._read_at = self._settings.next_look
        self._late = time.perf_counter() + LOOK_SECONDS

    def end(self) -> None:
        """Every step has to be decided on from now on."""
        self.planned = self.until = 0

    def starts_at(self, step: int, parts: list[Part]) -> bool:
        """True if a stretch of steps starts at this backward or the one before it. It is given to
        `take_first`."""
        return (
            step < self.planned and (self._times or not parts) and time.perf_counter() < self._late
        )

    def take_first(self, step: int, parts: list[Part], loss: Tensor | float, batch: Batch) -> bool:
        """`take` for the first two backwards of a stretch. The first writes losses, and the second
        is timed."""
        began = time.thread_time()
        self._losses.learn()
        self._losses.fetch(WAITING)
        self._limit = self._losses.examiner.limit
        if not self._times:
            self._pace.at(step)
            self._times = True
            is_complete = self.take(step, parts, loss, batch)
            self._stretches += time.thread_time() - began
            return is_complete
        self._times = False
        self.until = min(self.planned, step + self._losses.steps_until_learning)
        written = time.thread_time()
        self._stretches += written - began
        is_complete = self.take(step, parts, loss, batch)
        took = time.thread_time() - written
        self._seconds = (
            took if self._seconds is None else self._seconds + WEIGHT * (took - self._seconds)
        )
        return is_complete

    def take(self, step: int, parts: list[Part], loss: Tensor | float, batch: Batch) -> bool:
        """Keep the loss of one backward.

        Args:
            step: The step.
            parts: The earlier backwards of the step. This one is added, and they are cleared when
                the step is complete.
            loss: The mean loss of the batch.
            batch: The batch.

        Returns:
            True if this was the last backward of its step.
        """
        losses = self._losses
        value: float | Tensor | list[Part]
        # training has used the caches, so that each call costs about 1 µs: `item` checks the shape
        # by itself
        try:
            value = loss.item() if self._are_numbers and type(loss) is Tensor else value_of(loss)
        except RuntimeError:
            self._are_numbers, value = False, value_of(loss)
        if value.__class__ is float:
            if -math.inf < value < self._limit:
                losses.before = batch, value
            elif not self._look_at(step, parts, part_of(batch, value)):
                return False
        if self._several:
            parts.append(unsized(batch, value))
            if len(parts) < self._accumulation:
                return False
            value = without_batches(parts)
        waiting = losses.waiting
        if not waiting:
            losses.waits_from = step
        waiting.append(value)
        if step >= self._read_at:
            self._settings.stepped(step)
            self._read_at = self._settings.next_look
        if self.waits:
            self._pace.missed()
            self._read_at = self._settings.next_look
        self.waits = True
        if parts:
            parts.clear()  # last: a step that could not be kept still has to be closed
        return True

    def _look_at(self, step: int, parts: list[Part], part: Part) -> bool:
        """Look at a backward with an unusual loss; False if it has no examples."""
        if not part.size:
            self._losses.leave_out()
            return False
        self._losses.look_at(step, [*parts, part])
        self._limit = self._losses.examiner.limit
        return True

    def keep(self, step: int, parts: list[Part], *, at_once: bool = False) -> None:
        """Keep the losses of a complete step, and clear its parts. `at_once` writes them, if they
        are numbers.

        A step with a backward of which nothing is known has no loss.
        """
        loss = parts[0].loss if len(parts) == 1 else without_batches(parts)
        is_known = isinstance(parts[-1].loss, float)
        if all(part.size for part in parts):
            self._losses.keep(step, loss)
        parts.clear()  # after it: a step whose losses cannot be kept still has to be closed
        if at_once and is_known:
            self._losses.fetch()

    def charge(self, step: int) -> None:
        """Charge the steps up to this one, without it."""
        if self._seconds is not None and step > self._from:
            steps = self._seconds * (step - self._from) * self._accumulation
            self._budget.charge(BOOKKEEPING, steps + self._stretches)
        self._from = step
        self._stretches = 0.0


def next_decision(recorder: Recorder | None, step: int, next_due: int | None) -> int:
    """The first step, from this one on, at whose end something has to be decided, or that a gauge
    wants.

    Args:
        recorder: The recorder, on rank 0.
        step: The next step.
        next_due: On several processes: the step that all of them measure next.
    """
    until = (
        step + FARTHEST if recorder is None else recorder.next_wanted(step, recorder.next_look - 1)
    )
    return until if next_due is None else min(until, next_due - 1)
