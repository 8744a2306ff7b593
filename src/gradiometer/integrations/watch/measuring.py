"""The work of a watch at every backward and at every step."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradiometer.compiler import as_written
from gradiometer.errors import BadArgument
from gradiometer.gauges import Asked
from gradiometer.integrations.fsdp import preconditioner_for
from gradiometer.integrations.gradients import LastGradient
from gradiometer.integrations.watch.capture import Capture
from gradiometer.integrations.watch.description import (
    check_spread,
    configuration_of,
    left_out,
    manifest_of,
    shows_products,
)
from gradiometer.integrations.watch.losses import NO_PART, Between, Losses, Part, part_of
from gradiometer.integrations.watch.optimizers import (
    Pace,
    Settings,
    StepWithoutGradient,
    Updates,
    before_the_update,
)
from gradiometer.integrations.watch.processes import OverProcesses
from gradiometer.integrations.watch.recording import Announcements, Recording
from gradiometer.integrations.watch.requests.kept_updates import KeptUpdatesOfLoop
from gradiometer.integrations.watch.requests.newest_updates import NewestUpdates
from gradiometer.integrations.watch.requests.trials import Trials
from gradiometer.integrations.watch.shield import attempt, reason_of
from gradiometer.integrations.watch.subject import Inputs, Subject
from gradiometer.integrations.watch.successive import Successive, early_cost, reads_products
from gradiometer.integrations.watch.triage.recorder import TriageRecorder
from gradiometer.integrations.watch.turns import Turns, signal
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.optimizer.groups import largest_rate
from gradiometer.measurement.reading import Reading
from gradiometer.measurement.step import TrainingStep
from gradiometer.run.budget import BOOKKEEPING, READINGS, START
from gradiometer.run.cadence.cadence import FARTHEST
from gradiometer.run.cadence.early import PROMISED
from gradiometer.run.ranks import Ranks
from gradiometer.run.recorder import Recorder

OUTSIDE = "`step` must be called inside `with watch(...) as w:`, around the whole training."

# Most parameters whose values at the start of training are kept for the certificate: 64 MiB in
# single precision.
KEPT_NUMBERS = 2**24

# Early readings of gauges beside the noise, if products show the noise: with 20 batch sharpnesses a
# run of 300 steps of a small network paid 29 % for them alone.
CHECKS = 6


class Measuring(Recording):
    """A watch, as far as it is called by training."""

    ranks: Ranks

    def __init__(
        self,
        subject: Subject,
        *,
        out: Path,
        name: str,
        asked: Mapping[str, Any],
        gauges: Asked,
        to: Sequence[Any],
        announcements: Announcements,
        trials: float = 0.0,
    ) -> None:
        super().__init__(
            out=out,
            name=name,
            level=asked["level"],
            to=to,
            tell=subject.tell,
            announcements=announcements,
            gauges=gauges.given,
            passes=subject.is_own,
        )
        self._subject = subject
        self._objective = subject.objective
        self._optimizers = subject.optimizers
        self.budget = subject.budget
        self.ranks = subject.ranks
        self._asked = asked
        self._gauges = gauges
        products = reads_products(
            subject.optimizers, gauges.names, supported=shows_products(subject, asked)
        )
        self.read_elsewhere: Sequence[str] = () if products is None else products[1]
        """Names of the gauges whose readings are products of the gradients of successive steps."""
        if products is not None:
            subject.budget.promised = CHECKS
        self._cadenced = bool(self.budget.share) and any(
            not kind.own_steps and kind.name not in self.read_elsewhere for kind in gauges.kinds
        )
        if self._cadenced and subject.spread is None:
            check_spread(subject)
        self._updates: Updates | None = None
        if any(kind.looks_back for kind in gauges.kinds):
            self._updates = Updates(subject)
        preconditioner = preconditioner_for(
            gauges.kinds, subject.optimizers, subject.objective, subject.ranks
        )
        self._settings = Settings(subject, self._warn)
        self._capture = Capture(subject, self._warn, self.shield, preconditioner)
        self._losses = Losses(subject, self._warn)
        last = LastGradient(subject.objective.parameters, subject.optimizers, subject.scaler)
        self._triage = TriageRecorder(subject, last, self._warn)
        self._successive: Successive | None = None
        if products is not None:
            self._successive = Successive(subject, last, *products)
        self.kept_updates = KeptUpdatesOfLoop(subject, self._warn)
        self.newest_updates = NewestUpdates(subject, self._warn)
        self.trials = Trials(trials, self, announcements.say)
        self._pace = Pace(self._warn, partial(self._settings.search, self._follow_updates_of))
        self._between = Between(subject, self._losses, self._settings, self._pace)
        self._at_start: list[Tensor] | None = None
        self._parts: list[Part] = []
        self._handles: list[Any] = []
        self._inputs: Inputs | None = None
        self._waiting: TrainingStep | None = None
        self._failures = 0
        self._was_called = False
        self._looked_at = 0.0

    def _follow_updates_of(self, optimizer: torch.optim.Optimizer) -> None:
        inside = self._pace.count_steps_inside(optimizer, lambda: self.steps)
        self._handles += [*inside, optimizer.register_step_post_hook(self._on_update)]
        if self._updates is not None:
            self._handles.append(before_the_update(optimizer, self._measure_waiting, self.shield))

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
            signal(self.budget.clock, self.shield)
        steps = self.steps
        if steps >= self.kept_updates.next or steps >= self.newest_updates.next:
            self._keep_update(steps, loss, batch)
        if steps >= self.trials.next and not self._parts:
            self.trials.at_step(steps)
        if batch is None:
            batch = self._batch_seen()
        elif self._inputs is not None:
            inputs, self._inputs = self._inputs, None
            with self.shield:
                inputs.remove()
        if steps >= self._triage.next:
            with self._triage.shield:
                self._triage.at_step(steps, len(self._parts), batch)
        if self._successive is not None and steps >= self._successive.next:
            self._successive.at_step(steps, loss, batch)
        between = self._between
        if steps >= between.planned:
            self._step_with_a_decision(loss, batch)
            return
        try:
            if steps >= between.until or time.perf_counter() >= between.late:
                if between.take_last(steps, self._parts, loss, batch):
                    self.steps = steps + 1
                    self._end_stretch()
            elif between.take(steps, self._parts, loss, batch):
                self.steps = steps + 1
        except Exception as error:
            self.shield.caught(error)
            self._parts.append(NO_PART)
            self._close_after_a_failure()

    def _keep_update(self, step: int, loss: Any, batch: Batch | None) -> None:
        """Keep the coming update, to make it again."""
        if step >= self.kept_updates.next:
            self.kept_updates.at_step(batch)
        if step >= self.newest_updates.next:
            self.newest_updates.at_step(step, loss, batch)

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

    def _end_stretch(self) -> None:
        """Write the losses of a stretch of steps that were not measured, and decide about the next
        one."""
        with self.shield:
            self._was_called = True
            with self.budget.spending(BOOKKEEPING):
                self._between.charge(self.steps)
                self._losses.write()
                self._pace.at(self.steps)
            self._decide()

    def _step_with_a_decision(self, loss: Any, batch: Batch) -> None:
        """Take a backward of a step that is measured, or is the first one."""
        if not self._handles:
            raise BadArgument(OUTSIDE)
        self._parts.append(NO_PART)
        if self._failures <= self.ranks.alone:  # on several processes none, on one a first one
            with self.shield:
                self._step(loss, batch)
                return
        self._close_after_a_failure()

    def _step(self, loss: Tensor | float, batch: Batch) -> None:
        is_measured = self._capture.active
        if is_measured:
            self._capture.stopwatch.begin()
        self._looked_at = self.budget.clock()
        self._waiting = None  # a scaler may have skipped the step that waited
        self._was_called = True
        with self.budget.spending(READINGS if is_measured else BOOKKEEPING):
            part = part_of(self._subject.batches.examples_first(batch), loss)
            self._parts[-1] = part
            if not part.size and self.ranks.alone:
                self._parts.pop()
                self._capture.forget()
                self._losses.leave_out()
                return
            if not self._begun:
                with self.budget.spending(START):
                    self._begin()
            self._follow()
            if is_measured:
                self._capture.catch(self._parts, loss)
            self._losses.look_at(self.steps, self._parts)
            if len(self._parts) == self._subject.accumulation:
                if is_measured and self._capture.active:
                    with as_written():
                        self._measure()
                self._close_step()
        # A step that waits decides later, when its cost is known; on several processes now, as the
        # others do.
        if not (self._parts or (self.ranks.alone and self._waiting is not None)):
            self._decide()

    def note_settings(self) -> None:
        """Record the settings of the optimizers, which are those of the coming step."""
        self._settings.note(self.steps)

    def _begin(self) -> None:
        """Make the run's folder and recorder, now that the batch size is known."""
        self._begun = True
        self.budget.start()
        subject = self._subject
        size = self._parts[0].size * subject.accumulation * self.ranks.count
        if size == 1 and self._cadenced and not self.read_elsewhere:
            raise BadArgument(
                "`batch_size` is 1, so a step has no spread: raise batch_size to 2 or more, or set "
                "budget to 0."
            )
        configuration = configuration_of(subject, self._name, size, self._asked)
        gauges = self._gauges.made(configuration, subject.groups)
        self._capture.together = OverProcesses(
            gauges, self.ranks, self.budget, self._objective.parameters[0].device
        )
        if not self.ranks.first:
            return
        recorder = self._new_recorder(
            manifest_of(configuration, subject, self._gauges),
            gauges,
            self.steps,
            budget=self.budget,
            every=configuration.every,
            elsewhere=self.read_elsewhere,
        )
        early = early_cost(self.budget.share, products=bool(self.read_elsewhere))
        self._announcements.begin(
            recorder.folder.path, configuration, early=early, planned=self.budget.planned
        )
        self._attach(recorder, self.steps + 1)
        is_new = "run" not in self._restored and not subject.sharded
        if is_new and self._objective.dimension <= KEPT_NUMBERS:
            self._at_start = [one.detach().to("cpu", copy=True) for one in subject.parameters]
        text = left_out(self._objective, self._optimizers)
        if text:
            self._warn(text)

    def _attach(self, recorder: Recorder, following: int, *, has_facts: bool = False) -> None:
        """Write into the run from now on. `following` is the next step that is not
        under way yet."""
        self._recorder = recorder
        self._settings.attach(recorder.settings)
        self._losses.recorder = recorder
        self._warn.attach(recorder)
        self._triage.attach(recorder, self.steps, has_facts=has_facts)
        self._write_evaluations()
        if self._successive is not None:
            self._successive.attach(partial(self._add, recorder), self._read_parts, following)

    def _give_what_waits(self) -> None:
        self.note_settings()
        self._losses.fetch()

    def _close_step(self) -> None:
        """Keep the losses of the step, and count it: each step should be one update."""
        self._settings.stepped(self.steps)
        self._between.keep(self.steps, self._parts)
        self.steps += 1
        self._pace.at(self.steps)

    def _decide(self) -> None:
        """Decide if the next step is measured, after the time of the previous one has
        been counted."""
        step = self.steps
        recorder = None if self._failures else self._recorder
        due = recorder is not None and recorder.due(step)
        planned = step + FARTHEST
        if recorder is not None:
            planned = recorder.next_wanted(step, recorder.next_look)
        if not self.ranks.alone and self._cadenced:  # all of them measure the same steps
            exchange = self._capture.exchange
            due = not self._failures and step >= exchange.next_due
            planned = min(planned, exchange.next_due)
        if due or self._capture.active:
            with self.budget.spending(READINGS):
                self._capture.start() if due else self._capture.stop()
        self._between.begin(step, step if due else planned)

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
        if self._triage.awaits_update:
            with self._triage.shield:
                self._triage.updated(self.steps - 1)
        if self.kept_updates.awaits_update:
            self.kept_updates.updated(self.steps - 1)
        if self.newest_updates.awaits_update:
            self.newest_updates.updated()
        if self._successive is not None:
            self._successive.updated = True
        if self.steps >= self._between.planned or self._parts:
            with self.shield:
                self._settle_update()
            if self._failures:
                self.steps += bool(self._parts)
                self._parts = []
        self.shield.before_first_update = False
        if Turns.several:
            signal(self.budget.clock, self.shield)

    def _was_updated_by_another(self, *_: Any) -> None:
        """Another optimizer than the first was called: it may step after the backward."""
        if self.kept_updates.awaits_update:
            self.kept_updates.updated(self.steps - 1)

    def _settle_update(self) -> None:
        """Close a step that `step` did not close, after the update: a closure makes its backward
        inside."""
        if self._failures > self.ranks.alone:
            return
        was_called = self._was_called
        self._was_called = False
        if self._parts:
            with self.budget.spending():  # fewer backwards than usual, as at the end of an epoch
                self._pace.fell_short(self.steps, len(self._parts), self._subject.accumulation)
                self._close_step()
            self._decide()
        elif self._capture.active and self._capture.has_read:
            # after a call of `step` the update itself made more backwards, as SAM does
            if was_called:
                self._capture.forget()
            else:
                self._capture.forget_unannounced_backward()

    def _follow(self) -> None:
        """Let gauges that choose their own steps read Φ, which is the same at all backwards of a
        step."""
        if self._failures or self._recorder is None or len(self._parts) > 1:
            return
        if not self._recorder.follows(self.steps) or self._capture.changed:
            return
        size = self._parts[0].size * self._subject.accumulation * self.ranks.count
        rate = largest_rate(self._subject.groups)
        self._recorder.follow(StepWithoutGradient(self._objective, self.steps, size, rate))
        if self._updates is not None:
            self._updates.pass_by(self.steps)

    def _measure(self) -> None:
        """Measure the step. If a gauge looks back, the step waits until the update is about to be
        made."""
        groups = self._subject.groups
        recorder = self._recorder
        proposal = self.steps + 1
        if recorder is not None:
            proposal = recorder.next_due(self.steps, self.budget.clock() - self._looked_at)
        motion = None
        if self._updates is not None:
            rate = largest_rate(groups)
            motion = partial(self._updates.motion, index=self.steps, learning_rate=rate)
        step = self._capture.step(
            self._parts,
            index=self.steps,
            groups=groups,
            proposal=proposal,
            chosen=() if recorder is None or self.ranks.alone else recorder.chosen(),
            motion=motion,
        )
        if step is None or recorder is None:
            return
        if motion is None:
            self._record(recorder, step)
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
            self._record(self._recorder, waiting)
        if self.ranks.alone:
            self._decide()

    def _record(self, recorder: Recorder, step: TrainingStep) -> None:
        recorder.measure(step, self._capture.together.made)
        self._trackers.send(recorder, self.budget.clock())

    def _add(self, recorder: Recorder, reading: Reading) -> None:
        """Record a reading from products of successive gradients."""
        recorder.add(reading)
        self._trackers.send(recorder, self.budget.clock())

    def _read_parts(self, why: str) -> None:
        """No products any more: compare the parts of batches, if nothing was recorded so far."""
        recorder = self._recorder
        names = self.read_elsewhere
        self._successive = None
        if recorder is None:
            return
        if self._capture.has_loss and not any(map(recorder.has_readings, names)):
            self._warn(f"{why}; until then, half of the batch is run again at some steps")
            recorder.take_back(names)
            self.budget.promised = PROMISED
            self._cadenced = True
            self._between.end()
            return
        for name in names:
            text = f"{name} is no longer measured: {why}"
            recorder.event("warning", self.steps, text=text, stopped=name)
