"""Measures the gauges of a watch at steps that its budget or the person has chosen."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch.optim import Optimizer

from gradiometer.compiler import as_written
from gradiometer.errors import UserCodeFailed
from gradiometer.integrations.gradients import (
    NEVER,
    UPDATES_INSIDE,
    is_inside_backward,
)
from gradiometer.integrations.sharding import preconditioner_for
from gradiometer.integrations.watch.observers.losses import Losses, Part, value_of
from gradiometer.integrations.watch.observers.motion import MotionReader, before_the_update
from gradiometer.integrations.watch.observers.observer import Observer, Start, Step, Update
from gradiometer.integrations.watch.observers.optimizers import Settings
from gradiometer.integrations.watch.observers.step_reader import StepReader
from gradiometer.integrations.watch.shield import Shield, WarningLog
from gradiometer.integrations.watch.subject import Subject, moved
from gradiometer.measurement.batch import batch_size
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.step import TrainingStep
from gradiometer.run.budget import BOOKKEEPING, READINGS
from gradiometer.run.cadence.cadence import FARTHEST
from gradiometer.run.cadence.early import PROMISED
from gradiometer.run.recorder import Recorder


class Gauges(Observer):
    """Measures some steps. Hooks are in place only at these.

    Whether a step is measured is known when the step before it ends, from the setting `every`, or
    decided then from the budget. That is asked again at the end of each stretch of losses.

    Args:
        subject: The training.
        settings: The settings of its optimizers.
        losses: Keeps the losses, in stretches.
        shield: Entered by everything that a backward calls.
        warn: Takes a warning.
        kinds: The classes of the gauges.
        elsewhere: Names of gauges whose readings are products of successive gradients.
        by_default: True if nobody asked for gauges.
    """

    def __init__(
        self,
        subject: Subject,
        settings: Settings,
        losses: Losses,
        shield: Shield,
        warn: WarningLog,
        *,
        kinds: Sequence[type[Gauge]],
        elsewhere: Sequence[str],
        by_default: bool,
    ) -> None:
        self._subject = subject
        self._source = subject.source
        self._settings = settings
        self._losses = losses
        self._budget = subject.budget
        self._shield = shield
        self._warn = warn
        # Names of gauges whose readings are products of successive gradients.
        self.elsewhere = elsewhere
        own = [kind.name for kind in kinds if not kind.own_steps and kind.name not in elsewhere]
        # True if steps are measured here.
        self.is_used = bool(subject.budget.share) and bool(own)
        # Gauges that nobody asked for, while the noise needs no loss: they are left out if the loss
        # cannot be run apart from training, as one that calls `autograd.grad`.
        self._dispensable = own if by_default and elsewhere else []
        if self.is_used:
            subject.source.check_spread(has_loss=subject.has_loss)
        self._motion: MotionReader | None = None
        if any(kind.looks_back for kind in kinds):
            self._motion = MotionReader(subject)
        preconditioner = preconditioner_for(
            kinds, subject.optimizers, subject.objective, subject.source.ranks
        )
        self.reader = StepReader(subject, warn, shield, preconditioner)
        self._recorder: Recorder | None = None
        # The backwards of the step under way, if it may be measured.
        self._parts: list[Part] = []
        # Steps before this one are not measured. The others may be.
        self._planned = 0
        # True if the planned step is measured; otherwise that is decided right before it.
        self._is_certain = False
        # The step that waits for its update, since a gauge looks back.
        self._waiting: TrainingStep | None = None
        self._is_stopped = False
        self._was_called = False
        self._looked_at = 0.0
        self.next = 0

    @property
    def needs_spread(self) -> bool:
        """True if nothing can be measured of a batch of one example."""
        return self.is_used and not self.elsewhere

    def start(self) -> None:
        """Measure the first step."""
        if self.is_used:
            self.reader.start()
            self.awaits_update = True

    def begin(self, start: Start) -> None:
        """Measure into this run."""
        self._recorder = start.recorder

    def at_step(self, event: Step) -> None:
        """Measure this step, or see to the next one."""
        self._was_called = True
        if self._is_stopped:
            self.leave()
            return
        if event.index >= self._planned:
            self._look(event)
        elif event.is_last:
            self._prepare(event.index + 1)
        self.next = min(self._planned - 1, self._losses.next)
        self.awaits_update = self._is_open

    def updated(self, update: Update) -> None:
        """Forget what belongs to no step that is measured: a closure makes its backward inside."""
        was_called, self._was_called = self._was_called, False
        if self._is_stopped:
            return
        hooks = self._source.hooks
        if self._parts:  # fewer backwards than usual, as at the end of an epoch
            self._parts = []
            with self._budget.spending():
                self._decide(self._losses.steps)
            self.next = min(self._planned - 1, self._losses.next)
        elif hooks.has_read and was_called:
            # after a call of `step` the update itself made more backwards, as SAM does
            hooks.forget()
        elif hooks.has_read and is_inside_backward():
            self.stop()
            self._warn(f"nothing is measured: {UPDATES_INSIDE}", stopped="all")
            return
        elif hooks.has_read:
            self.reader.forget_unannounced_backward()
        self.awaits_update = self.reader.active

    def stop(self) -> None:
        """Measure nothing more. The other processes are told at their next exchange."""
        self._is_stopped = True
        self._waiting = None
        self._parts = []
        self.awaits_update = False
        leaves_at = self._source.leaves_at if self.is_used else None
        self.next = NEVER if leaves_at is None else leaves_at
        self.reader.stop()

    @property
    def _is_open(self) -> bool:
        """True if the coming update ends something: a step, or the wait of one that was read."""
        return self.reader.active or bool(self._parts) or self._waiting is not None

    def leave(self) -> None:
        """Leave the other processes, if they wait for this one at the step that is complete now."""
        if self._is_stopped and self._losses.steps > self.next:
            self.next = NEVER
            self._source.leave()

    def close(self, error: BaseException | None) -> None:
        """Remove all hooks."""
        with self._shield:
            self.reader.stop()

    def follow(self, optimizer: Optimizer) -> list[Any]:
        """Hook an optimizer that trains the model, if a gauge looks back from its update."""
        if self._motion is None:
            return []
        return [before_the_update(optimizer, self._measure_waiting, self._shield)]

    def take_over(self, why: str) -> None:
        """Measure here what products of successive gradients have shown so far, or say that it is
        no longer measured.

        Args:
            why: Why there are no products any more.
        """
        recorder, names = self._recorder, self.elsewhere
        if recorder is None or self._is_stopped:
            return
        can_measure = not is_inside_backward()
        if can_measure and self.reader.has_loss and not any(map(recorder.has_readings, names)):
            self._warn(f"{why}; until then, half of the batch is run again at some steps")
            recorder.take_back(names)
            self._budget.promised = PROMISED
            self.is_used = True
            self._planned = self.next = 0
            return
        are = "is" if len(names) == 1 else "are"
        text = f"{' and '.join(names)} {are} no longer measured: {why}"
        for name in names:
            recorder.event("warning", self._losses.steps, text=text, stopped=name)

    def decide(self) -> None:
        """Decide if the coming step is measured, before a training that is resumed goes on."""
        with self._budget.spending():
            self._decide(self._losses.steps)
        self.next = min(self._planned - 1, self._losses.next)
        self.awaits_update = self.reader.active

    def _prepare(self, step: int) -> None:
        """See to the coming step, after one that was not measured."""
        is_over = self._losses.closed_at == step - 1
        if is_over or (step == self._planned and not self._is_certain):
            with self._budget.spending(BOOKKEEPING):
                self._decide(step)
        elif step == self._planned:
            self.reader.start()

    def _look(self, event: Step) -> None:
        """Take in a backward of a step that may be measured, and measure the step with its last
        one."""
        reader = self.reader
        is_measured = reader.active
        if is_measured and reader.waits:
            reader.stopwatch.begin()
        if self._source.is_joint:
            self._looked_at = self._budget.clock()
        self._waiting = None  # a scaler may have skipped the step that waited
        self._budget.charge(READINGS, self._source.hooks.take_seconds())
        with self._budget.spending(READINGS if is_measured else BOOKKEEPING):
            axis = self._subject.batches.axis
            batch = moved(event.batch, axis, 0) if axis else event.batch
            part = Part(batch, batch_size(batch), value_of(event.loss))
            if not part.size and not self._source.is_joint:
                self._source.hooks.forget()
                return
            self._parts.append(part)
            self._follow(event.index)
            if is_measured:
                reader.catch(self._parts, event.loss)
            if event.is_last:
                if is_measured and reader.active:
                    with as_written():
                        self._measure(event.index)
                self._parts = []
                # A step that waits decides later, when its cost is known; on several processes now,
                # as the others do.
                if self._source.is_joint or self._waiting is None:
                    self._decide(event.index + 1)

    def _decide(self, step: int) -> None:
        """Decide if the coming step is measured, or which one will be, after the time of this one
        has been counted."""
        self._budget.settle()
        recorder = self._recorder
        is_due = recorder is not None and recorder.due(step)
        self._is_certain = False
        self._planned = step + FARTHEST
        if recorder is not None:
            self._planned = recorder.cadence.next_look
            self._is_certain = recorder.cadence.is_certain
            if recorder.followers:
                self._planned = recorder.next_wanted(step, self._planned)
                self._is_certain = False
        if self._source.is_joint and self.is_used:  # all of them measure the same steps
            is_due, self._planned = self._source.agreed(step, is_due=is_due, planned=self._planned)
            self._is_certain = False
        if is_due:
            self._planned = step
            self.reader.start()
        elif self.reader.active:
            self.reader.stop()

    def _follow(self, index: int) -> None:
        """Let gauges that choose their own steps read Φ, which is the same at all backwards of a
        step."""
        recorder = self._recorder
        if recorder is None or not recorder.followers or len(self._parts) > 1:
            return
        if not recorder.follows(index) or self.reader.changed:
            return
        first = self._parts[0]
        groups = self._settings.groups(index)
        step = TrainingStep(
            self._subject.objective,
            first.batch,
            batch_size=self._source.batch_size(first.size),
            index=index,
            learning_rate=self._settings.rate,
            groups=groups,
            sampling=self._subject.batches.sampling,
        )
        recorder.follow(step, self._subject.objective.parameters)
        if self._motion is not None:
            self._motion.pass_by(index)

    def _measure(self, index: int) -> None:
        """Measure the step. If a gauge looks back, the step waits until the update is about to be
        made."""
        recorder = self._recorder
        groups = self._settings.groups(index)
        proposal = index + 1
        if recorder is not None and self._source.is_joint:
            took = self._budget.clock() - self._looked_at
            proposal = recorder.cadence.next_due(index, took)
        rate = self._settings.rate
        motion = None
        if self._motion is not None:
            motion = partial(self._motion.motion, index=index, learning_rate=rate)
        try:
            step = self.reader.step(
                self._parts,
                index=index,
                groups=groups,
                learning_rate=rate,
                proposal=proposal,
                chosen=recorder.chosen() if recorder and self._source.is_joint else (),
                motion=motion,
            )
        except UserCodeFailed as error:
            if recorder is None or not self._dispensable:
                raise
            for name in self._dispensable:
                recorder.cadence.refuse(name)
                text = f"{name} is not measured: {error}"
                recorder.event("warning", index, text=text, stopped=name)
            return
        if step is None or recorder is None:
            return
        if motion is None:
            recorder.measure(step, self._source.made)
            return
        self._waiting = step
        if not self._source.is_joint:
            self.reader.stop()

    def _measure_waiting(self) -> None:
        """Measure the step that waited: the update is about to be made, and `.grad` is final."""
        waiting = self._waiting
        self._waiting = None
        if waiting is None or self._recorder is None:
            return
        self.reader.stopwatch.wait()
        with self._budget.spending(READINGS), as_written():
            self._recorder.measure(waiting, self._source.made)
            if not self._source.is_joint:
                self._decide(self._losses.steps)
        self.next = min(self._planned - 1, self._losses.next)
        self.awaits_update = self.reader.active
