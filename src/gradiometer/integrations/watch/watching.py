"""The object that `watch` returns: its work at every backward and at every step."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.compiler import as_written
from gradiometer.errors import BadArgument
from gradiometer.gauges import Asked
from gradiometer.integrations.fsdp import is_sharded, preconditioner_for
from gradiometer.integrations.gradients import LastGradient
from gradiometer.integrations.trackers import Trackers
from gradiometer.integrations.watch.automatic import Automatic, Inputs
from gradiometer.integrations.watch.between import Between, next_decision
from gradiometer.integrations.watch.capture import Capture
from gradiometer.integrations.watch.data import Batches
from gradiometer.integrations.watch.description import (
    check_spread,
    configuration_of,
    known_sampling,
    left_out,
    manifest_of,
    recorder_of,
    shows_products,
)
from gradiometer.integrations.watch.findings import Announcements
from gradiometer.integrations.watch.kept import Kept
from gradiometer.integrations.watch.losses import NO_PART, Losses, Part, part_of
from gradiometer.integrations.watch.measuring import Measuring
from gradiometer.integrations.watch.processes import OverProcesses
from gradiometer.integrations.watch.requests.forks import Forks
from gradiometer.integrations.watch.requests.kept_updates import KeptUpdatesOfLoop
from gradiometer.integrations.watch.requests.on_the_way import OnTheWay
from gradiometer.integrations.watch.requests.trials import Trials
from gradiometer.integrations.watch.settings import Settings
from gradiometer.integrations.watch.shield import Shield, WarningLog, attempt, reason_of
from gradiometer.integrations.watch.subject import Subject
from gradiometer.integrations.watch.successive import Successive, reads_products
from gradiometer.integrations.watch.triage.recorder import TriageRecorder
from gradiometer.integrations.watch.updates import Pace, Updates, before_the_update
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.step import TrainingStep
from gradiometer.run.budget import BOOKKEEPING, READINGS, START
from gradiometer.run.folder import file_name
from gradiometer.run.recorder import Recorder

OUTSIDE = "`step` must be called inside `with watch(...) as w:`, around the whole training."


class Watch(Measuring, Forks, Automatic):
    """A watched training, made by `watch`. Use it as a context manager around the whole loop."""

    def __init__(
        self,
        subject: Subject,
        called: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        *,
        out: Path,
        name: str,
        batches: Batches,
        accumulation: int,
        scaler: Any,
        asked: Mapping[str, Any],
        gauges: Asked,
        to: Sequence[Any],
        announcements: Announcements,
        trials: float = 0.0,
    ) -> None:
        self._subject = subject
        self._objective = subject.objective
        self.budget = subject.budget
        self.ranks = subject.ranks
        self._called = called
        self._optimizers = optimizers
        sharded = is_sharded(self._objective.model)
        self._products = reads_products(
            optimizers,
            gauges.names,
            supported=shows_products(subject, batches, accumulation, asked),
        )
        self._cadenced = bool(asked["budget"]) and any(
            not kind.own_steps and kind.name not in self.read_elsewhere for kind in gauges.kinds
        )
        if self._cadenced and subject.spread is None:
            check_spread(subject, accumulation)
        self._out = out
        self._name = file_name(name)
        self._batches = batches
        self._accumulation = accumulation
        self._asked = asked
        self._gauges = gauges
        self._announcements = announcements
        self._updates = None
        if any(kind.looks_back for kind in gauges.kinds):
            self._updates = Updates(optimizers, self._objective, batches.sampling, subject.origin)
        self._waiting: TrainingStep | None = None
        self.shield = Shield(self._stop, passes=subject.is_own)
        """The context for everything that training calls: after the first update its errors become
        warnings."""
        self._warn = WarningLog(lambda: self.steps, subject.tell)
        self._settings = Settings(
            self._optimizers,
            self._objective,
            self._warn,
            lambda: self.steps,
            lambda: self.budget.planned,
        )
        self._capture = Capture(
            subject,
            batches,
            accumulation=accumulation,
            scaler=scaler if scaler is not None and scaler.is_enabled() else None,
            seed=asked["seed"],
            warn=self._warn,
            shield=self.shield,
            preconditioner=preconditioner_for(
                gauges.kinds, self._optimizers, self._objective, self.ranks
            ),
        )
        self._losses = Losses(
            self._objective,
            self._warn,
            locate=not sharded,
            has_loss=subject.has_loss,
            accumulation=accumulation,
            rank=None if self.ranks.alone else self.ranks.rank,
            seed=asked["seed"],
        )
        self._kept = Kept(
            self._losses, self.shield, self._warn, announcements, gauges.given, self._settings
        )
        self._trackers = Trackers(to, asked["level"], self._warn)
        self._restored: Mapping[str, Any] = {}
        self._parts = list[Part]()
        self._handles = list[Any]()
        self._failures = 0
        self._inputs: Inputs | None = None
        self._begun = False
        self._was_called = False
        self._recorder = None
        self._looked_at = 0.0
        last = LastGradient(self._objective.parameters, self._optimizers, self._capture.scaler)
        self._triage = TriageRecorder(
            self._objective,
            self._optimizers,
            last,
            accumulation=accumulation,
            enabled=bool(asked["budget"]) and self.ranks.first and not sharded,
            scale=self._capture.factor if self._capture.scaler is not None else None,
            warn=self._warn,
            budget=self.budget,
        )
        kept = KeptUpdatesOfLoop(
            subject, called, self._optimizers, self._capture.scaler, accumulation, self._warn
        )
        self.on_the_way = OnTheWay(kept, Trials(trials, self, announcements.say))
        self._pace = Pace(self._warn, partial(self._settings.search, self._follow_updates_of))
        self._successive = self._products_reader(last)
        self._between = Between(self._losses, self._settings, self._pace, self.budget, accumulation)
        self.steps = 0
        """Number of updates so far, which is the index of the next step."""

    def _products_reader(self, last: LastGradient) -> Successive | None:
        """Reads the products of successive gradients, if this loop shows the noise by them."""
        if self._products is None:
            return None
        return Successive(
            last,
            self._optimizers,
            self._products[0],
            budget=self.budget,
            gauges=self.read_elsewhere,
        )

    def __enter__(self) -> "Watch":
        if self._handles or self._begun:
            raise BadArgument(
                "`watch` can be entered only once: call `watch` again for another training."
            )
        self._follow_updates_of(self._optimizers[0])
        self.on_the_way.follow(self._optimizers[1:])
        self._inputs = Inputs(self._called, self.shield)
        self._handles.append(self._inputs)
        if self._cadenced:
            self._capture.start()
        return self

    def _follow_updates_of(self, optimizer: torch.optim.Optimizer) -> None:
        inside = self._pace.count_steps_inside(optimizer, lambda: self.steps)
        self._handles += [*inside, optimizer.register_step_post_hook(self._was_updated)]
        if self._updates is not None:
            self._handles.append(
                before_the_update(optimizer, self._measure_what_waited, self.shield)
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with self.shield:
            self.on_the_way.close(self.steps, error)
        with self.shield:
            self.end()
        if not self._subject.is_own:
            self._kept.close(self.steps, self._trackers, error)

    def end(self) -> None:
        """Stop following the training, and write what waits."""
        with self._triage.shield:
            self._triage.close()
        if self._successive is not None:
            self._successive.close()
        with self.shield:
            self._capture.stop()
            self._pace.end(self.steps)
            self._between.end()
        while self._handles:
            with self.shield:
                self._handles.pop().remove()

    def _draw_from(self, loader: Any) -> None:
        """Take the sampling from the loader, if it was not given and nothing is written yet."""
        self.on_the_way.draw_from(loader)
        batches = self._batches
        if not (batches.known or self._begun) and (sampling := known_sampling(loader)) is not None:
            batches.sampling = sampling
            batches.known = True

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
        if self.steps >= self.on_the_way.next:
            self.on_the_way.at_step(self.steps, batch, is_first=not self._parts)
        if batch is None:
            batch = self._batch_seen()
        elif self._inputs is not None:
            inputs, self._inputs = self._inputs, None
            with self.shield:
                inputs.remove()
        steps, between = self.steps, self._between
        if steps >= self._triage.next:
            with self._triage.shield:
                self._triage.at_step(steps, len(self._parts), batch)
        successive = self._successive
        if successive is not None and steps >= successive.next:
            successive.at_step(steps, loss, batch)
        try:
            if steps < between.until:
                self.steps = steps + between.take(steps, self._parts, loss, batch)
                return
            if between.starts_at(steps, self._parts):
                self.steps = steps + between.take_first(steps, self._parts, loss, batch)
                return
        except Exception as error:
            self.shield.caught(error)
            self._parts.append(NO_PART)
        else:
            if not self._handles:
                raise BadArgument(OUTSIDE)
            self._parts.append(NO_PART)
            if self._failures <= self.ranks.alone:  # on several processes none, on one a first one
                with self.shield:
                    self._step(loss, batch)
                    return
        if len(self._parts) >= self._accumulation:
            self._close_after_a_failure()

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

    def _step(self, loss: Tensor | float, batch: Batch) -> None:
        is_measured = self._capture.active
        if is_measured:
            self._capture.stopwatch.begin()
        self._looked_at = self.budget.clock()
        self._waiting = None  # a scaler may have skipped the step that waited
        self._was_called = True
        with self.budget.spending(READINGS if is_measured else BOOKKEEPING):
            self._between.charge(self.steps)
            self._parts[-1] = part_of(self._batches.examples_first(batch), loss)
            if not self._parts[-1].size and self.ranks.alone:
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
            if len(self._parts) == self._accumulation:
                if is_measured and self._capture.active:
                    with as_written():
                        self._measure()
                self._close_step()
        # A step that waits decides later, when its cost is known; on several processes now, as the
        # others do.
        if not (self._parts or (self.ranks.alone and bool(self._waiting))):
            self._decide()

    @property
    def read_elsewhere(self) -> tuple[str, ...]:
        """Names of the gauges whose readings are products of the gradients of successive steps."""
        return () if self._products is None else tuple(self._products[1])

    def begin(
        self, recorder: Recorder, step: int, losses: Sequence[float], *, has_facts: bool
    ) -> None:
        """Follow a training of ours in its own run.

        Args:
            recorder: Writes the run.
            step: The next step.
            losses: The losses of the steps before, if the run is resumed.
            has_facts: True if the run has the facts of triage already.
        """
        self._begun = True
        self.steps = step
        self._losses.examiner.repeat(losses)
        self._attach(recorder, step, has_facts=has_facts)
        self._decide()

    def note_settings(self) -> None:
        """Record the settings of the optimizers, which are those of the coming step."""
        self._settings.note()

    def _begin(self) -> None:
        """Make the run's folder and recorder, now that the batch size is known."""
        self._begun = True
        self.budget.start()
        size = self._parts[0].size * self._accumulation * self.ranks.count
        if size == 1 and self._cadenced and not self.read_elsewhere:
            raise BadArgument(
                "`batch_size` is 1, so a step has no spread: raise batch_size to 2 or more, or set "
                "budget to 0."
            )
        configuration = configuration_of(
            self._objective,
            name=self._name,
            batch_size=size,
            accumulation=self._accumulation * self.ranks.count,
            draw=self._batches.sampling.draw,
            **self._asked,
        )
        gauges = self._gauges.made(configuration, self._settings.groups)
        self._capture.together = OverProcesses(
            gauges, self.ranks, self.budget, self._objective.parameters[0].device
        )
        if not self.ranks.first:
            return
        manifest = manifest_of(
            configuration, self._objective, self._batches, self.ranks, self._gauges
        )
        recorder = recorder_of(
            configuration,
            manifest,
            gauges,
            self._out,
            self.budget,
            self._restored,
            self.steps,
            self.read_elsewhere,
        )
        self._announcements.begin(recorder.folder.path, configuration)
        self._attach(recorder, self.steps + 1)
        self._remember_start()
        if text := left_out(self._objective, self._optimizers):
            self._warn(text)

    def _attach(self, recorder: Recorder, following: int, *, has_facts: bool = False) -> None:
        """Write into the run from now on. `following` is the next step that is not
        under way yet."""
        self._recorder = recorder
        self._kept.attach(recorder)
        self._triage.attach(recorder, self.budget.planned, self.steps, has_facts=has_facts)
        self._kept.evaluate_what_waited()
        if self._successive is not None:
            self._successive.attach(partial(self._add, recorder), self._read_parts, following)

    def _close_step(self) -> None:
        """Keep the losses of the step, and count it: each step should be one update."""
        self._settings.stepped(self.steps)
        self._between.keep(self.steps, self._parts, at_once=True)
        self.steps += 1
        self._pace.at(self.steps)

    def _decide(self) -> None:
        """Decide if the next step is measured, after the time of the previous one has
        been counted."""
        due = self._is_due()
        if due or self._capture.active:
            with self.budget.spending(READINGS):
                self._capture.start() if due else self._capture.stop()
        recorder = None if self._failures else self._recorder
        next_due = (
            None if self.ranks.alone or not self._cadenced else self._capture.exchange.next_due
        )
        self._between.begin(
            self.steps, self.steps if due else next_decision(recorder, self.steps, next_due)
        )

    def _is_due(self) -> bool:
        due = not self._failures and self._recorder is not None and self._recorder.due(self.steps)
        alone = self.ranks.alone or not self._asked["budget"]
        return (
            due if alone else not self._failures and self.steps >= self._capture.exchange.next_due
        )

    def _close_after_a_failure(self) -> None:
        """Count a step that could not be closed, and leave the other processes at the exchange that
        is due."""
        if (
            self._cadenced
            and not self.ranks.alone
            and self.steps >= self._capture.exchange.next_due
        ):
            with self.shield:
                self._capture.exchange.leave()
        self.steps = self.steps + 1
        self._parts = []

    def _stop(self, error: Exception) -> None:
        """An error of our own after the first update: stop measuring. After a second one, stop
        recording too."""
        self._failures = self._failures + 1
        self._waiting = None
        stopped = "measuring has stopped" if self._failures == 1 else "recording has stopped"
        text = f"{stopped} at step {self.steps:,}, and training continues: {reason_of(error)}"
        if self._failures <= 2:
            attempt(self._between.end, self._capture.stop, lambda: self._warn(text, stopped="all"))

    def _was_updated(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """The optimizer was called."""
        between = self._between
        rate = optimizer.param_groups[0]["lr"]
        if rate is not self._triage.rate:
            with self._triage.shield:
                self._triage.note_rate(max(self.steps - 1, 0), rate)
        self._pace.updates += 1
        between.waits = False
        if self._triage.awaits_update:
            with self._triage.shield:
                self._triage.updated(self.steps - 1)
        if self.on_the_way.kept.awaits_update:
            self.on_the_way.updated(self.steps - 1)
        if self._successive is not None:
            self._successive.updated = True
        if self.steps >= between.planned or self._parts:
            with self.shield:
                self._settle_update()
            if self._failures:
                self.steps = self.steps + bool(self._parts)
                self._parts = []
        self.shield.before_first_update = False

    def _settle_update(self) -> None:
        """Close a step that `step` did not close, after the update: a closure makes its backward
        inside."""
        if self._failures > self.ranks.alone:
            return
        was_called, self._was_called = self._was_called, False
        if self._parts:
            with self.budget.spending():  # fewer backwards than usual, as at the end of an epoch
                self._pace.fell_short(self.steps, len(self._parts), self._accumulation)
                self._close_step()
            self._decide()
        elif self._capture.active and self._capture.has_read:
            # after a call of `step` the update itself made more backwards, as SAM does
            self._capture.forget() if was_called else self._capture.forget_unannounced_backward()
