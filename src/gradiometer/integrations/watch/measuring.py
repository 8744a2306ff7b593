"""The measured steps of a watched loop: readings of gauges, and of products of gradients."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial

from gradiometer.compiler import as_written
from gradiometer.integrations.trackers import Trackers
from gradiometer.integrations.watch.between import Between
from gradiometer.integrations.watch.capture import Capture
from gradiometer.integrations.watch.losses import Part
from gradiometer.integrations.watch.settings import Settings
from gradiometer.integrations.watch.shield import WarningLog
from gradiometer.integrations.watch.successive import Successive
from gradiometer.integrations.watch.updates import StepWithoutGradient, Updates
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.optimizer.groups import largest_rate
from gradiometer.measurement.reading import Reading
from gradiometer.measurement.step import TrainingStep
from gradiometer.run.budget import READINGS, Budget
from gradiometer.run.ranks import Ranks
from gradiometer.run.recorder import Recorder


class Measuring:
    """What a watch does at a step that is measured."""

    ranks: Ranks
    budget: Budget
    steps: int
    _objective: Objective
    _capture: Capture
    _between: Between
    _settings: Settings
    _trackers: Trackers
    _warn: WarningLog
    _recorder: Recorder | None
    _updates: Updates | None
    _successive: Successive | None
    _waiting: TrainingStep | None
    _parts: list[Part]
    _accumulation: int
    _failures: int
    _looked_at: float
    _cadenced: bool

    @property
    @abstractmethod
    def read_elsewhere(self) -> Sequence[str]:
        """Names of the gauges whose readings are products of gradients."""

    @abstractmethod
    def _decide(self) -> None:
        """Decide if the next step is measured."""

    def _follow(self) -> None:
        """Let gauges that choose their own steps read Φ, which is the same at all backwards of a
        step."""
        if self._failures or self._recorder is None or len(self._parts) > 1:
            return
        if not self._recorder.follows(self.steps) or self._capture.changed:
            return
        size = self._parts[0].size * self._accumulation * self.ranks.count
        self._recorder.follow(
            StepWithoutGradient(
                self._objective, self.steps, size, largest_rate(self._settings.groups)
            )
        )
        if self._updates is not None:
            self._updates.pass_by(self.steps)

    def _measure(self) -> None:
        """Measure the step. If a gauge looks back, the step waits until the update is about to be
        made."""
        updates, rate = self._updates, largest_rate(groups := self._settings.groups)
        recorder, took = self._recorder, self.budget.clock() - self._looked_at
        caught = self._capture.step(
            self._parts,
            index=self.steps,
            groups=groups,
            proposal=self.steps + 1 if recorder is None else recorder.next_due(self.steps, took),
            chosen=() if recorder is None or self.ranks.alone else recorder.chosen(),
            motion=None
            if updates is None
            else partial(updates.motion, index=self.steps, learning_rate=rate),
        )
        if caught is not None and recorder is not None and updates is None:
            self._record(recorder, caught)
        elif caught is not None and recorder is not None:
            self._waiting = caught
            if self.ranks.alone:
                self._capture.stop()

    def _measure_what_waited(self) -> None:
        """Measure the step that waited: the update is about to be made, and `.grad` is final."""
        waiting, self._waiting = self._waiting, None
        if waiting is None or self._recorder is None:
            return
        self._capture.stopwatch.wait()
        with self.budget.spending(READINGS), as_written():
            self._record(self._recorder, waiting)
        if self.ranks.alone:
            self._decide()

    def _record(self, recorder: Recorder, caught: TrainingStep) -> None:
        recorder.measure(caught, self._capture.together.made)
        self._trackers.send(recorder, self.budget.clock())

    def _add(self, recorder: Recorder, reading: Reading) -> None:
        """Record a reading from products of successive gradients."""
        recorder.add(reading)
        self._trackers.send(recorder, self.budget.clock())

    def _read_parts(self, why: str) -> None:
        """Products are no longer read: compare the parts of batches instead, if nothing was
        recorded so far."""
        recorder, names = self._recorder, self.read_elsewhere
        self._successive = None
        if recorder is None:
            return
        if self._capture.has_loss and not any(map(recorder.has_readings, names)):
            self._warn(f"{why}; until then, half of the batch is run again at some steps")
            recorder.take_back(names)
            self._cadenced = True
            self._between.end()
            return
        for name in names:
            recorder.event(
                "warning", self.steps, text=f"{name} is no longer measured: {why}", stopped=name
            )
