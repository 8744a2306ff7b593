"""The work of a watch at every backward and at every step."""

import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradiometer.compiler import as_written
from gradiometer.errors import BadArgument, UserCodeFailed
from gradiometer.integrations.watch.beginning import Beginning
from gradiometer.integrations.watch.losses import NO_PART, Part, value_of
from gradiometer.integrations.watch.shield import attempt, reason_of
from gradiometer.integrations.watch.subject import moved
from gradiometer.measurement.batch import Batch, batch_size
from gradiometer.measurement.step import TrainingStep
from gradiometer.run.budget import BOOKKEEPING, READINGS, START
from gradiometer.run.cadence.cadence import FARTHEST
from gradiometer.run.clock import Turns
from gradiometer.run.recorder import Recorder

OUTSIDE = "`step` must be called inside `with watch(...) as w:`, around the whole training."


class Measuring(Beginning):
    """A watch, as far as it is called by training."""

    def step(self, loss: Tensor | float, batch: Batch | None = None) -> None:
        """Record one backward. Call it after `backward` and before `optimizer.step()`; clip before
        or after it.

        Args:
            loss: The mean loss of the batch, before it is divided for accumulation or scaled.
            batch: The examples of that loss, as `loss` takes them: any tree with the examples along
                the first axis. Without it, the first tensor that the model was called with stands
                for the batch: its rows are the examples, and labels are those that a loss of torch
                has compared. What runs the model again needs the batch.
        """
        if Turns.several:
            with self.shield:
                self.budget.take_turn()
        step = self.steps
        before = self._parts[-1] if self._parts else None
        examples = batch
        if batch is None:
            examples = self._batch_seen()
        elif self._inputs is not None:
            inputs, self._inputs = self._inputs, None
            with self.shield:
                inputs.remove()
        between = self._between
        is_due = step >= between.due
        if is_due and not self._handles:
            raise BadArgument(OUTSIDE)
        try:
            if is_due:
                self._step_with_more(loss, examples, batch)
            elif between.take(step, self._parts, loss, examples):
                self.steps = step + 1
        except Exception as error:
            self.shield.caught(error)
            if self.steps == step and (self._parts[-1] if self._parts else None) is before:
                self._parts.append(NO_PART)
            self._close_after_a_failure()

    def _step_with_more(self, loss: Any, examples: Batch, given: Batch | None) -> None:
        """A step at which there is more to do than to keep its loss.

        Args:
            loss: The mean loss of the batch.
            examples: The batch, or what stands for it.
            given: The batch, if it was given.
        """
        step = self.steps
        if step >= self.kept_updates.next:
            self.kept_updates.at_step(given)
        if step >= self.newest_updates.next:
            self.newest_updates.at_step(step, loss, given)
        if step >= self.trials.next and not self._parts:
            self.trials.at_step(step)
        if self._successive is not None and step >= self._successive.next:
            self._successive.at_step(step, loss, examples)
        if step >= self._triage.next:
            with self._triage.shield:
                self._triage.at_step(step, len(self._parts), examples)
        if step < self._between.planned:
            self._step_before(loss, examples)
        else:
            self._parts.append(NO_PART)
            if self._failures > self.ranks.alone:  # on several processes none, on one a first one
                self._close_after_a_failure()
            else:
                self._step(loss, examples)
        self._plan()

    def _step_before(self, loss: Any, batch: Batch) -> None:
        """Keep the loss of a step that is not measured, the last one of its stretch or before one
        that is measured."""
        between = self._between
        self._was_called = True
        is_over = self.steps >= between.until or time.perf_counter() >= between.late
        began = time.thread_time()
        is_complete = between.take(self.steps, self._parts, loss, batch)
        if is_over:
            between.timed.append(time.thread_time() - began)
        if not is_complete:
            return
        self.steps += 1
        if is_over or (self.steps == between.planned and not between.is_certain):
            with self.budget.spending(BOOKKEEPING):
                between.close_stretch(self.steps)
                self._pace.at(self.steps)
                self._report()
                self._decide()
            return
        if self.steps == between.planned:
            began = time.thread_time()
            self._capture.start()
            self._capture.gradients.seconds += time.thread_time() - began
            if self.steps >= self._pace.next:
                self._pace.at(self.steps)

    def _plan(self) -> None:
        """Choose the next step at which there is more to do than to keep its loss."""
        between = self._between
        due = min(
            between.until,
            between.planned - 1,
            self.kept_updates.next,
            self.newest_updates.next,
            self.trials.next,
            self._triage.next,
        )
        if self._successive is not None:
            due = min(due, self._successive.next)
        between.due = due

    def _batch_seen(self) -> Batch:
        """The inputs of the model's newest call; an empty batch, whose loss alone counts, if they
        are not known."""
        try:
            if self._inputs is None:
                raise BadArgument(
                    "`batch` is missing: it was given before. Call w.step(loss, batch) at every "
                    "step."
                )
            return self._inputs.take(has_loss=self._subject.has_loss)
        except Exception as error:
            if not self._handles:
                raise BadArgument(OUTSIDE) from error
            self.shield.caught(error)
            return torch.empty(0)

    def _report(self) -> None:
        """Send the newest estimates to the trackers of the program."""
        if self._recorder is not None:
            self._trackers.send(self._recorder, self.budget.clock())

    def _step(self, loss: Tensor | float, batch: Batch) -> None:
        capture = self._capture
        is_measured = capture.gradients.active
        if is_measured and capture.waits:
            capture.stopwatch.begin()
        if not self.ranks.alone:
            self._looked_at = self.budget.clock()
        self._waiting = None  # a scaler may have skipped the step that waited
        self._was_called = True
        if capture.gradients.seconds:
            self.budget.charge(READINGS, capture.gradients.seconds)
            capture.gradients.seconds = 0.0
        with self.budget.spending(READINGS if is_measured else BOOKKEEPING):
            axis = self._subject.batches.axis
            batch = moved(batch, axis, 0) if axis else batch
            part = Part(batch, batch_size(batch), value_of(loss))
            self._parts[-1] = part
            if not part.size and self.ranks.alone:
                self._parts.pop()
                capture.gradients.forget()
                self._losses.leave_out()
                return
            if not self._begun:
                with self.budget.spending(START):
                    self._begin()
            if self._recorder is not None and self._recorder.followers:
                self._follow(self._recorder)
            if is_measured:
                capture.catch(self._parts, loss)
            self._losses.look_at(self.steps, self._parts)
            if len(self._parts) == self._subject.accumulation:
                if is_measured and capture.gradients.active:
                    with as_written():
                        self._measure()
                self._close_step()
                # A step that waits decides later, when its cost is known; on several processes now,
                # as the others do.
                if not self.ranks.alone or self._waiting is None:
                    self._decide()

    def _give_what_waits(self) -> None:
        self._settings.note(self.steps)
        self._losses.fetch()

    def _close_step(self) -> None:
        """Keep the losses of the step, and count it: each step should be one update."""
        between = self._between
        if self.steps >= self._settings.next_look:
            self._settings.stepped(self.steps)
        between.keep(self.steps, self._parts)
        self.steps += 1
        if self.steps > between.until or time.perf_counter() >= between.late:
            between.close_stretch(self.steps)
            self._report()
        if self.steps >= self._pace.next:
            self._pace.at(self.steps)

    def _decide(self) -> None:
        """Decide if the next step is measured, or which one will be, after the time of this one has
        been counted."""
        self.budget.settle()
        step = self.steps
        between = self._between
        recorder = None if self._failures else self._recorder
        due = recorder is not None and recorder.due(step)
        between.is_certain = False
        between.planned = step + FARTHEST
        if recorder is not None:
            between.planned = recorder.cadence.next_look
            between.is_certain = recorder.cadence.is_certain
            if recorder.followers:
                between.planned = recorder.next_wanted(step, between.planned)
                between.is_certain = False
        if not self.ranks.alone and self._cadenced:  # all of them measure the same steps
            exchange = self._capture.exchange
            due = not self._failures and step >= exchange.next_due
            between.planned = min(between.planned, exchange.next_due)
            between.is_certain = False
        if due:
            between.planned = step
            self._capture.start()
        elif self._capture.gradients.active:
            self._capture.stop()

    def _close_after_a_failure(self) -> None:
        """Count a step that was not closed, and leave the other processes at a due exchange."""
        if len(self._parts) < self._subject.accumulation:
            return
        exchange = self._capture.exchange
        if self._cadenced and not self.ranks.alone and self.steps >= exchange.next_due:
            with self.shield:
                exchange.leave()
        self.steps += 1
        self._parts = []

    def _stop(self, error: Exception) -> None:
        """An error of our own after the first update: stop measuring. After a second one, stop
        recording too."""
        self._failures += 1
        self._waiting = None
        stopped = "measuring has stopped" if self._failures == 1 else "recording has stopped"
        text = f"{stopped} at step {self.steps:,}, and training continues: {reason_of(error)}"
        if self._failures <= 2:
            attempt(self._between.end, self._capture.stop, lambda: self._warn(text, stopped="all"))

    def _on_update(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """The optimizer was called."""
        rate = optimizer.param_groups[0]["lr"]
        if rate is not self._triage.rate:
            with self._triage.shield:
                self._triage.note_rate(max(self.steps - 1, 0), rate)
        self._pace.updates += 1
        self._between.waits = False
        is_awaited = self._triage.awaits_update or self.kept_updates.awaits_update
        if self._triage.awaits_update:
            with self._triage.shield:
                self._triage.updated(self.steps - 1)
        if self.kept_updates.awaits_update:
            self.kept_updates.updated(self.steps - 1)
        if self.newest_updates.awaits_update:
            self.newest_updates.updated()
        if self._successive is not None:
            self._successive.updated = True
        try:
            if is_awaited:
                self._plan()
            if self._parts or self._capture.gradients.has_read:
                self._settle_update()
        except Exception as error:
            self.shield.caught(error)
        if self._failures:
            self.steps += bool(self._parts)
            self._parts = []
        self._was_called = False
        self.shield.before_first_update = False
        if Turns.several:
            with self.shield:
                self.budget.take_turn()

    def _was_updated_by_another(self, *_: Any) -> None:
        """Another optimizer than the first was called: it may step after the backward."""
        if self.kept_updates.awaits_update:
            self.kept_updates.updated(self.steps - 1)
            with self.shield:
                self._plan()

    def _settle_update(self) -> None:
        """Close a step that `step` did not close, after the update: a closure makes its backward
        inside."""
        if self._failures > self.ranks.alone:
            return
        if self._parts:
            with self.budget.spending():  # fewer backwards than usual, as at the end of an epoch
                self._pace.fell_short(self.steps, len(self._parts), self._subject.accumulation)
                self._close_step()
                self._decide()
        elif self._was_called:
            # after a call of `step` the update itself made more backwards, as SAM does
            self._capture.gradients.forget()
        else:
            self._capture.forget_unannounced_backward()

    def _follow(self, recorder: Recorder) -> None:
        """Let gauges that choose their own steps read Φ, which is the same at all backwards of a
        step."""
        if self._failures or len(self._parts) > 1:
            return
        if not recorder.follows(self.steps) or self._capture.changed:
            return
        first = self._parts[0]
        groups = self._settings.groups(self.steps)
        step = TrainingStep(
            self._objective,
            first.batch,
            batch_size=first.size * self._subject.accumulation * self.ranks.count,
            index=self.steps,
            learning_rate=self._settings.rate,
            groups=groups,
            sampling=self._subject.batches.sampling,
        )
        recorder.follow(step, self._objective.parameters)
        if self._updates is not None:
            self._updates.pass_by(self.steps)

    def _measure(self) -> None:
        """Measure the step. If a gauge looks back, the step waits until the update is about to be
        made."""
        recorder = self._recorder
        groups = self._settings.groups(self.steps)
        proposal = self.steps + 1
        if recorder is not None and not self.ranks.alone:
            took = self.budget.clock() - self._looked_at
            proposal = recorder.cadence.next_due(self.steps, took)
        motion = None
        if self._updates is not None:
            rate = self._settings.rate
            motion = partial(self._updates.motion, index=self.steps, learning_rate=rate)
        try:
            step = self._capture.step(
                self._parts,
                index=self.steps,
                groups=groups,
                learning_rate=self._settings.rate,
                proposal=proposal,
                chosen=() if recorder is None or self.ranks.alone else recorder.chosen(),
                motion=motion,
            )
        except UserCodeFailed as error:
            if recorder is None or not self._dispensable:
                raise
            for name in self._dispensable:
                recorder.cadence.refuse(name)
                text = f"{name} is not measured: {error}"
                recorder.event("warning", self.steps, text=text, stopped=name)
            return
        if step is None or recorder is None:
            return
        if motion is None:
            recorder.measure(step, self._capture.together.made)
            return
        self._waiting = step
        if self.ranks.alone:
            self._capture.stop()

    def _measure_waiting(self) -> None:
        """Measure the step that waited: the update is about to be made, and `.grad` is final."""
        waiting = self._waiting
        self._waiting = None
        if waiting is None or self._recorder is None:
            return
        self._capture.stopwatch.wait()
        with self.budget.spending(READINGS), as_written():
            self._recorder.measure(waiting, self._capture.together.made)
            if self.ranks.alone:
                self._decide()
