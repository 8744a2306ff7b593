"""The parts of a watch, and the beginning of its run."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
from gradiometer.integrations.watch.losses import Between, Losses, Part
from gradiometer.integrations.watch.optimizers import (
    Pace,
    Settings,
    Updates,
    before_the_update,
)
from gradiometer.integrations.watch.processes import OverProcesses
from gradiometer.integrations.watch.recording import Announcements, Recording
from gradiometer.integrations.watch.requests.kept_updates import MOST_NUMBERS, KeptUpdatesOfLoop
from gradiometer.integrations.watch.requests.newest_updates import NewestUpdates
from gradiometer.integrations.watch.requests.trials import Trials
from gradiometer.integrations.watch.subject import Inputs, Subject
from gradiometer.integrations.watch.successive import Successive, early_cost, reads_products
from gradiometer.integrations.watch.triage.recorder import TriageRecorder
from gradiometer.measurement.step import TrainingStep
from gradiometer.run.cadence.early import PROMISED
from gradiometer.run.ranks import Ranks
from gradiometer.run.recorder import Recorder


class Beginning(Recording):
    """A watch, as far as it begins: what it is made of, and the start of its run."""

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
        # Names of the gauges whose readings are products of the gradients of successive steps.
        self.read_elsewhere: Sequence[str] = () if products is None else products[1]
        if products is not None:
            # Early readings of gauges beside the noise, if products show the noise: with 20 batch
            # sharpnesses a run of 300 steps of a small network paid 29 % for them alone.
            subject.budget.promised = 6
        cadenced = [
            kind.name
            for kind in gauges.kinds
            if not kind.own_steps and kind.name not in self.read_elsewhere
        ]
        self._cadenced = bool(self.budget.share) and bool(cadenced)
        # Gauges that nobody asked for, while the noise needs no loss: they are left out if the loss
        # cannot be run apart from training, as one that calls `autograd.grad`.
        self._dispensable = cadenced if gauges.by_default and products is not None else []
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
        self._pace = Pace(self._warn, partial(self._settings.search, self._follow_updates_of))
        self._triage = TriageRecorder(subject, last, self._warn, self._pace.made)
        self._successive: Successive | None = None
        if products is not None:
            self._successive = Successive(
                subject, last, self._triage, *products, all_steps=asked["every"] == 1
            )
        self.kept_updates = KeptUpdatesOfLoop(subject, self._warn)
        self.newest_updates = NewestUpdates(subject, self._warn)
        self.trials = Trials(trials, self, announcements.say)
        self._between = Between(subject, self._losses, self._settings, self._pace)
        self._at_start: list[Tensor] | None = None
        self._parts: list[Part] = []
        self._handles: list[Any] = []
        self._inputs: Inputs | None = None
        self._waiting: TrainingStep | None = None
        self._failures = 0
        self._was_called = False
        self._looked_at = 0.0

    @abstractmethod
    def _on_update(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """The optimizer was called."""

    @abstractmethod
    def _measure_waiting(self) -> None:
        """Measure the step that waited: the update is about to be made, and `.grad` is final."""

    def _follow_updates_of(self, optimizer: torch.optim.Optimizer) -> None:
        inside = self._pace.count_steps_inside(optimizer, lambda: self.steps)
        self._handles += [*inside, optimizer.register_step_post_hook(self._on_update)]
        if self._updates is not None:
            self._handles.append(before_the_update(optimizer, self._measure_waiting, self.shield))

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
        recorder.cadence.start(self.steps)
        early = early_cost(self.budget.share, products=bool(self.read_elsewhere))
        self._announcements.begin(
            recorder.folder.path, configuration, early=early, planned=self.budget.planned
        )
        self._attach(recorder, self.steps + 1)
        is_new = "run" not in self._restored and not subject.sharded
        if is_new and self._objective.dimension <= MOST_NUMBERS:
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
            self._successive.attach(recorder.add, self._read_parts, following)

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
