"""The losses of a watched loop: all are kept, and the first one that is not finite is reported."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from gradiometer.drift.spikes.evidence import EVENT, EXAMINATIONS
from gradiometer.drift.spikes.examination import Before, Examiner
from gradiometer.errors import BadArgument, GradiometerError, UserCodeFailed
from gradiometer.integrations.gradients import as_written
from gradiometer.integrations.watch.nonfinite import culprit
from gradiometer.integrations.watch.part import Part, part_of, value_of
from gradiometer.integrations.watch.settings import Settings
from gradiometer.measurement.batch import Batch, batch_size
from gradiometer.measurement.loss import Loss
from gradiometer.measurement.objective import Objective
from gradiometer.run.budget import BOOKKEEPING, Budget
from gradiometer.run.cadence.cadence import LOOK_STEPS
from gradiometer.run.recorder import Recorder

WAITING = 64
"""Most steps whose losses stay on an accelerator, since fetching them makes training wait."""

WEIGHT = 0.1
"""Weight of the newest timed step in the mean."""


class Losses:
    """Keeps the loss of every step.

    Args:
        objective: Run again if a loss is not finite, to find the layer and the examples.
        warn: Takes the warning, which is kept with the run.
        accumulation: Number of backwards per update.
        rank: Rank of this process; None if there is only one.
        seed: Seed of the random numbers that the loss draws when it is run again.
        locate: True to look for the layer and the examples. No process can run a sharded model alone.
    """

    def __init__(
        self,
        objective: Objective,
        warn: Callable[[str], None],
        *,
        accumulation: int,
        rank: int | None,
        seed: int,
        locate: bool = True,
    ) -> None:
        self._objective, self._warn, self._seed, self._locate = objective, warn, seed, locate
        self._accumulation, self._rank = accumulation, rank
        self._waiting: list[float | Tensor | list[Part]] = []
        self._from = 0
        self._warned = False
        self.examiner = Examiner(objective, seed)
        """Its `limit` is that of a loss worth an examination."""
        self.before: tuple[Batch, float] | None = None
        """The last batch whose loss is a number, and its loss."""
        self.recorder: Recorder | None = None
        """The recorder that writes them, on rank 0."""

    def look_at(self, step: int, parts: Sequence[Part]) -> None:
        """Check the loss of the last of these backwards, before the update.

        On a CPU a loss that is not finite is reported at once, and one that is far above the last ones is examined.
        """
        loss = parts[-1].loss
        if not isinstance(loss, float):
            return
        before, self.before = self.before, (parts[-1].batch, loss)
        if -math.inf < loss < self.examiner.limit:
            return
        if math.isfinite(loss):
            self._examine(step, loss, parts[-1].batch, before)
            return
        if self._warned:
            return
        which = f", micro-batch {len(parts)} of {self._accumulation}" if self._accumulation > 1 else ""
        which += "" if self._rank is None else f", on rank {self._rank}"
        place = ""
        if self._locate:
            with as_written():
                place = f": {culprit(self._objective, parts[-1].batch, seed=self._seed)}"
        self._report(f"the loss is {loss} at step {step:,}{which}, for the first time in this run{place}")

    def keep(self, step: int, loss: float | Tensor | list[Part]) -> None:
        """Keep the loss of a finished step, or those of its backwards. The steps follow each other."""
        waiting = self._waiting
        if not waiting:
            self._from = step
        waiting.append(loss)
        if len(waiting) >= WAITING:
            self.fetch()

    def leave_out(self) -> None:
        """Warn of a batch without examples, which has no loss."""
        self._warn("`batch` is empty: such steps are not recorded")

    def fetch(self) -> None:
        """Write the losses that wait."""
        waiting, self._waiting = self._waiting, []
        for step, loss in enumerate(waiting, start=self._from):
            if isinstance(loss, list):
                value = sum(part.size * float(part.loss) for part in loss) / sum(part.size for part in loss)
            else:
                value = float(loss)
            if self.recorder is not None:
                self.recorder.loss(step, value)
            self.examiner.learn(value)
            if not (self._warned or math.isfinite(value)):
                self._report(f"the loss is {value} at step {step:,}, for the first time in this run")

    def _examine(self, step: int, loss: float, batch: Batch, before: tuple[Batch, float] | None) -> None:
        """Keep what this step shows of a spike. Only rank 0 does, unless measuring is off."""
        if self.recorder is None or not self._locate or not self.recorder.budget.share:
            return
        with self.recorder.budget.spending(EXAMINATIONS), as_written():
            fields = self.examiner.examine(loss, batch, None if before is None else Before(*before))
        if fields is not None:
            self.recorder.event(EVENT, step, **fields)

    def _report(self, text: str) -> None:
        self._warned = True
        self._warn(text)
        warnings.warn(f"{text}.", RuntimeWarning, stacklevel=4)


class Between:
    """Keeps the losses of steps that are not measured, in a few microseconds a step.

    The first of them after every look is timed, and all are charged at the next look.

    Args:
        losses: Takes the losses.
        settings: The settings of the optimizers, which may be read at any step.
        budget: The account.
        accumulation: Number of backwards per update.
    """

    def __init__(self, losses: Losses, settings: Settings, budget: Budget, accumulation: int) -> None:
        self._losses, self._settings, self._budget, self._accumulation = losses, settings, budget, accumulation
        self._from = self._planned = 0
        self._seconds: float | None = None
        self.until = 0
        """Steps before this one are given to `take`."""

    def begin(self, step: int, until: int) -> None:
        """Nothing has to be decided at the steps from this one up to `until`, without it."""
        self._from, self._planned, self.until = step, until, 0

    def end(self) -> None:
        """Every step has to be decided on from now on."""
        self._planned = self.until = 0

    def starts_at(self, step: int) -> bool:
        """True if this step is the one to be timed."""
        return step == self._from < self._planned

    def take_timed(self, step: int, parts: list[Part], loss: Tensor | float, batch: Batch) -> bool:
        """`take`, timed. It is called once, at the first of these steps."""
        began = self._budget.clock()
        is_complete = self.take(step, parts, loss, batch)
        took = self._budget.clock() - began
        self._seconds = took if self._seconds is None else self._seconds + WEIGHT * (took - self._seconds)
        self.until = self._planned
        return is_complete

    def take(self, step: int, parts: list[Part], loss: Tensor | float, batch: Batch) -> bool:
        """Keep the loss of one backward. Returns True if it was the last one of its step.

        Args:
            step: The step's number.
            parts: The earlier backwards of the step. This one is added; they are cleared when the step is complete.
            loss: The mean loss of the batch.
            batch: The examples.
        """
        if self._accumulation == 1:
            value = value_of(loss)
            if type(value) is float:
                if -math.inf < value < self._losses.examiner.limit:
                    self._losses.before = batch, value
                elif (part := part_of(batch, value)).size:
                    self._losses.look_at(step, [part])
                else:
                    self._losses.leave_out()
                    return False
            self._settings.stepped(step)
            self._losses.keep(step, value)
            return True
        parts.append(part_of(batch, loss, checked=False))
        self._losses.look_at(step, parts)
        if len(parts) < self._accumulation:
            return False
        self._settings.stepped(step)
        self.keep(step, parts)
        return True

    def keep(self, step: int, parts: list[Part], *, at_once: bool = False) -> None:
        """Keep the losses of a complete step, and clear its parts. `at_once` writes them, if they are numbers."""
        loss = parts[0].loss if len(parts) == 1 else [replace(part, batch=None) for part in parts]
        is_known = isinstance(parts[-1].loss, float)
        self._losses.keep(step, loss)
        parts.clear()  # after it: a step whose losses cannot be kept still has to be closed
        if at_once and is_known:
            self._losses.fetch()

    def charge(self, step: int) -> None:
        """Charge the steps up to this one, without it."""
        if self._seconds is not None and step > self._from:
            self._budget.charge(BOOKKEEPING, self._seconds * (step - self._from) * self._accumulation)
        self._from = step


def next_decision(recorder: Recorder | None, step: int, next_due: int | None) -> int:
    """The first step, from this one on, at whose end something has to be decided, or that a gauge wants.

    Args:
        recorder: The recorder, on rank 0.
        step: The next step.
        next_due: On several processes: the step that all of them measure next.
    """
    until = step + LOOK_STEPS
    if recorder is not None:
        until = min(until, recorder.next_look - 1)
        until = next((one for one in range(step, until) if recorder.follows(one)), until)
    return until if next_due is None else min(until, next_due - 1)


def explained(loss: Loss) -> Loss:
    """The same loss; if it fails while measuring, the error says so."""

    def called(model: nn.Module, batch: Batch) -> Tensor:
        try:
            return loss(model, batch)
        except GradiometerError:
            raise
        except Exception as error:
            raise UserCodeFailed(
                f"`loss` failed when measuring ran it on {batch_size(batch)} examples "
                f"({type(error).__name__}: {(str(error).splitlines() or [''])[0].rstrip('.')}): it must work on any "
                "part of a batch, and under torch.func.vmap if `parts` is 0."
            ) from error

    return called


def no_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Takes the place of a missing `loss`."""
    raise BadArgument("`loss` is missing, so measuring cannot run the model: give loss=lambda model, batch: ...")
