"""The recorder decides when to measure, runs the gauges, and writes their readings into the run
folder."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Literal

import numpy as np

from gradiometer.errors import BadArgument, Interrupted, Unsupported, UserCodeFailed
from gradiometer.measurement.artifact import Evaluation
from gradiometer.measurement.gauge import Gauge, Measurable, measured
from gradiometer.measurement.optimizer.groups import Changes
from gradiometer.measurement.reading import Moments, Reading, Series
from gradiometer.run.artifacts import FILE, write_examples
from gradiometer.run.budget import START, Budget
from gradiometer.run.cadence.cadence import Cadence
from gradiometer.run.folder import RunFolder
from gradiometer.storage.disk import interrupted_by_disk
from gradiometer.storage.journal import JournalWriter

LOSSES_A_LINE = 1000
# A page looks at the files as often.
SECONDS_BETWEEN_WRITES = 1.0
FOLLOWED = 64

Mode = Literal["apart", "shared", "given"]

# By the name of a gauge: the moments over all processes, None if the step has none, or the reason
# of a failure.
Made = Mapping[str, Moments | str | None]


class Recorder:
    """Writes the readings, losses and events of a run. Use it as a context manager, or close it.

    Losses cost about 0.3 µs per step. Losses and readings are written in blocks, at least once a
    second. Only `flush`
    waits for the disk: call it before a checkpoint is saved, and a killed run loses nothing before
    its checkpoint.

    Args:
        folder: The run.
        gauges: The gauges, in the order in which they run.
        budget: Share of the training time that measuring may use. With share 0 nothing is measured.
        every: Measure at every n-th step instead. Without `budget` and `every`, every step is
            measured.
        mode: How the spread within a step is measured. Default: by the `accumulation` of the
            configuration.
        elsewhere: Names of gauges whose readings are made elsewhere and given to `add`.

    Raises:
        BadArgument: An argument is invalid, or another process is writing this run.
        StorageFailed: The folder cannot be written to.
    """

    def __init__(
        self,
        folder: RunFolder,
        gauges: Sequence[Gauge],
        *,
        budget: Budget | None = None,
        every: int | None = None,
        mode: Mode | None = None,
        elsewhere: Collection[str] = (),
    ) -> None:
        self.folder = folder
        self.gauges = tuple(gauges)
        # with share 0 it only counts the time
        self.budget = budget if budget is not None else Budget(0.0)
        self.every = every
        self.mode: str = mode or ("shared" if folder.configuration.accumulation > 1 else "apart")
        self._share = None if budget is None else budget.share
        # there is no command that resumes a watched run
        then = "start a new `watch`" if folder.watched else ""
        self._readings = JournalWriter(folder.readings_path(), folder.path, then)
        # Without it, an error here would keep the lock of the file before.
        try:
            self._events = JournalWriter(folder.events_path, folder.path, then)
        except BaseException:
            self._readings.close()
            raise
        self.settings = Changes(self._readings.append)
        self._losses: list[float] = []
        self._losses_from = self._next_loss = 0
        self._written = time.perf_counter()
        # As many as a tracker needs. The file has all of them.
        self._recent = {gauge.name: deque[Reading](maxlen=1000) for gauge in self.gauges}
        self._added = 0
        # Gauges that choose their own steps.
        self.followers: tuple[Gauge, ...] = ()
        if self._share != 0:
            self.followers = tuple(gauge for gauge in self.gauges if gauge.own_steps)
        cadenced = [
            gauge for gauge in self.gauges if not gauge.own_steps and gauge.name not in elsewhere
        ]
        # The first step from `_wanted_from` on that one of them wants.
        self._wanted = self._wanted_from = 0
        self._promises = bool(cadenced)
        # Takes the text of every warning too, before it is written; None to write only.
        self.tell: Callable[[str], object] | None = None
        # The most bytes by which a measured step raised the peak memory.
        self._raised = 0
        # Says which steps are measured.
        self.cadence = Cadence(cadenced, self.budget, every, self._share, elsewhere=bool(elsewhere))

    def due(self, step: int) -> bool:
        """True if this step should be measured. It also writes the buffers in time. Steps before
        `cadence.next_look` may be left out, for at most `LOOK_SECONDS`."""
        if step < self.cadence.next_look and not self.cadence.is_late:
            return False
        # Who follows the run sees its losses also where no step is measured.
        if not time.perf_counter() - self._written < SECONDS_BETWEEN_WRITES:
            self._write()
        return self.cadence.due(step)

    def next_wanted(self, step: int, until: int) -> int:
        """The first step, from this one up to `until`, that a gauge with its own steps wants;
        otherwise `until`.

        Only the next 64 steps are looked at if there is such a gauge.
        """
        if not self.followers:
            return until
        # What a gauge wants depends on the step alone, so that the step found stays the next one.
        if not self._wanted_from <= step < self._wanted:
            ahead = range(step, step + FOLLOWED)
            self._wanted = next((one for one in ahead if self.follows(one)), ahead.stop)
            self._wanted_from = step
        return min(until, self._wanted)

    def chosen(self) -> list[str]:
        """Names of the gauges that `measure` would run now."""
        return [gauge.name for gauge in (*self.cadence.turn, *self.cadence.expensive())]

    def measure(self, step: Measurable, together: Made | None = None) -> list[Reading]:
        """Run the gauges whose turn it is and record their readings.

        If a gauge cannot measure this training (such as a loss without a second derivative), the
        run gets a warning, the gauge is switched off and training continues.

        Args:
            step: The step.
            together: On several processes, what all of them have measured, by the name of the
                gauge: its moments, None, or the reason why there are none. No other gauge that runs
                the model is then run.
        """
        turn = self.cadence.turn
        if together is None:
            expensive = self.cadence.expensive()
        else:
            expensive = [
                gauge for gauge in self.gauges if gauge.name in together and gauge not in turn
            ]
        # a step that another program has made has none
        parameters = step.objective.parameters if hasattr(step, "objective") else ()
        peak = peak_of(parameters)
        readings = [self._reading(gauge, step, parameters, together) for gauge in turn]
        for gauge in expensive:
            with self.budget.spending(gauge.name):
                readings.append(self._reading(gauge, step, parameters, together))
            self.cadence.ran(gauge)
        made = [reading for reading in readings if reading is not None]
        for reading in made:
            self._record(reading)
        self._raised = max(self._raised, peak_of(parameters) - peak)
        if made:
            self.cadence.made(made[0].step)
        return made

    def record(self, reading: Reading) -> None:
        """Record a reading of numbers that another program computed. Call `due` first, once per
        step."""
        self._record(reading)
        self.cadence.made(reading.step)

    def add(self, reading: Reading) -> None:
        """Record a reading that was made elsewhere."""
        self._record(reading)
        self.cadence.made(reading.step, elsewhere=True)
        self._added += 1

    def take_back(self, names: Collection[str]) -> None:
        """Measure these gauges here from now on: no more readings of them are given to `add`."""
        self.cadence.add([gauge for gauge in self.gauges if gauge.name in names])
        self._promises = True

    def has_readings(self, gauge: str) -> bool:
        """True if this process has recorded a reading of this gauge."""
        return bool(self._recent.get(gauge))

    def follows(self, step: int) -> bool:
        """True if a gauge that chooses its own steps measures at this one."""
        return any(gauge.wants(step) for gauge in self.followers)

    def follow(self, step: Measurable, parameters: Sequence[Any]) -> None:
        """Run the gauges that have chosen this step of a model with these parameters themselves,
        and record their readings."""
        with self.budget.spending():
            for gauge in self.followers:
                if gauge.name not in self.cadence.refused and gauge.wants(step.index):
                    reading = self._reading(gauge, step, parameters)
                    if reading is not None:
                        self._record(reading)

    def loss(self, step: int, value: float) -> None:
        """Record the training loss of the batch at this step, as a number and not as a tensor."""
        self.losses(step, [value])

    def losses(self, step: int, values: Sequence[float]) -> None:
        """Record the training losses of this step and of those that follow it."""
        if step != self._next_loss or len(self._losses) + len(values) > LOSSES_A_LINE:
            self._end_losses()
            self._losses_from = step
        self._losses += values
        self._next_loss = step + len(values)

    def signs(self, step: int, signs: Mapping[str, Any]) -> None:
        """Record the numbers of one step that triage needs: single numbers, or lists with one for
        each tensor."""
        self._readings.append({"kind": "signs", "step": int(step), "signs": signs})

    def event(self, event: str, step: int, **fields: Any) -> None:
        """Record an event and write it at once."""
        if event == "warning" and self.tell is not None:
            self.tell(fields["text"])
        self._events.append({"event": event, "step": int(step), "time": time.time(), **fields})
        self._events.flush()

    def evaluation(self, step: int, evaluation: Evaluation) -> None:
        """Record an evaluation: its means as an event, the numbers of single examples in a file."""
        path = self.folder.path
        with interrupted_by_disk(path / FILE, path, "but the lines before it are safe"):
            places = write_examples(path, evaluation.examples)
        means = {name: estimate.to_dict() for name, estimate in evaluation.estimates.items()}
        self.event("evaluation", step, estimates=means, examples=places)

    def resume(self, step: int) -> None:
        """Resume the run at this step, the next to be made.

        A line in both files makes readers drop the readings and losses that the previous process
        wrote from this step on, and its events of later steps. Nothing is deleted. Events of this
        step are kept, because they belong to the state of the checkpoint.
        """
        self._end_losses()
        self._readings.append({"kind": "resumed", "step": int(step)})
        self._readings.flush()
        self.settings.restart(step)
        self.event("resumed", step)
        for readings in self._recent.values():
            kept = [reading for reading in readings if reading.step < step]
            readings.clear()
            readings.extend(kept)

    def recent(self, gauge: str) -> Series | None:
        """The last readings of a gauge in this process, for trackers; None before the first."""
        readings = self._recent.get(gauge)
        return (
            Series.of(list(readings), self.folder.measured_sampling, self.folder.layers)
            if readings
            else None
        )

    def flush(self) -> None:
        """Write everything and wait until it is on the disk."""
        with self.budget.spending():
            self.cadence.reached(self._next_loss)
            self._readings.append({"kind": "overhead", **self.overhead})
            self._write()
            self._readings.sync()
            self._events.sync()

    def close(self) -> None:
        """Write everything and close the files. They are closed also if the disk is full."""
        if self.closed:
            return
        with closing(self._events), closing(self._readings):
            try:
                self.flush()
            finally:
                self.budget.stop()

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._readings.closed

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Interrupted:
            if error is None:  # otherwise the first error is the one to report
                raise

    @property
    def overhead(self) -> dict[str, Any]:
        """The time that measuring was allowed and used, and how often it measured.

        `budget` and `used` are fractions of the training time, and `every` is the mean distance of
        measured steps, in steps. `budget` is None without a budget, `every` with fewer than two
        measured steps. `spent` splits `used` by name. `outside` names what has a budget of its own,
        `fixed` what is paid back later. `short_of` is the number of readings that the run should
        have by now, if the budget could not pay for them; else None. `beyond_allowance` is True if
        its readings took more than the start-up allowance. `mode` is "products" if most readings
        are of training's own gradients. `memory` is the most by which a measured step raised the
        peak memory, in bytes: of the accelerator, or else of the process.
        """
        spent, training = self.budget.spent_on, self.budget.training
        budgeted = self._share is not None and self.every is None and self._promises
        wanted = self.budget.short_of() if budgeted else None
        # readings of training's own gradients cost the budget of readings nothing
        if wanted is not None and self.cadence.measured >= wanted:
            wanted = None
        mode = "products" if 2 * self._added > self.cadence.measured else self.mode
        if self._share == 0 or not self.gauges:
            mode = "off"
        return {
            "budget": self._share,
            "used": self.budget.used,
            "measured_steps": self.cadence.measured,
            "every": self.cadence.spacing,
            "mode": mode,
            "spent": {name: seconds / training for name, seconds in spent.items()}
            if training > 0
            else {},
            "outside": sorted(self.budget.outside),
            "fixed": sorted(self.budget.fixed - {START}),
            "short_of": wanted,
            "memory": self._raised,
            "beyond_allowance": budgeted and self.budget.beyond_allowance(),
        }

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {**self.cadence.state_dict(), "budget": self.budget.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.budget.load_state_dict(state["budget"])
        self.cadence.load_state_dict(state)

    def _reading(
        self,
        gauge: Gauge,
        step: Measurable,
        parameters: Sequence[Any],
        together: Made | None = None,
    ) -> Reading | None:
        try:
            if together is None or not gauge.needs_loss:
                found: Moments | str | None = measured(gauge, step, parameters)
            else:
                found = together.get(gauge.name)
            if isinstance(found, str):
                raise Unsupported(found)
        except (BadArgument, Unsupported, UserCodeFailed) as error:
            self.cadence.refuse(gauge.name)
            self.event(
                "warning",
                step.index,
                text=f"{gauge.name} is no longer measured: {error}",
                stopped=gauge.name,
            )
            return None
        if found is None:
            return None
        return Reading(
            gauge=gauge.name,
            step=int(step.index),
            batch_size=int(step.batch_size),
            learning_rate=float(step.learning_rate),
            moments=found,
        )

    def _record(self, reading: Reading) -> None:
        line = {"kind": "reading", **vars(reading)}
        # a single moment that is not finite would make every mean of them so
        # NumPy asks for one number as long as for a thousand
        if all(
            math.isfinite(moment) if isinstance(moment, float) else np.isfinite(moment).all()
            for moment in reading.moments.values()
        ):
            self._recent[reading.gauge].append(reading)
        else:
            line["finite"] = False  # for people; the reader checks the numbers
        self._readings.append(line)

    def _end_losses(self) -> None:
        """End the block of losses. The next loss starts another."""
        if self._losses:
            values, self._losses = self._losses, []
            self._readings.append(
                {"kind": "losses", "from": int(self._losses_from), "values": values}
            )
        self._losses_from = self._next_loss

    def _write(self) -> None:
        with self.budget.spending():
            self._end_losses()
            self._readings.flush()
        self._written = time.perf_counter()


def peak_of(parameters: Sequence[Any]) -> int:
    """The peak memory so far, in bytes, where these parameters are: of the accelerators, or else of
    the process; 0 if it is not known."""
    accelerators = {one.device for one in parameters if one.device.type != "cpu"}
    if not accelerators:
        try:
            import resource  # noqa: PLC0415 (not on Windows)
        except ImportError:
            return 0
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    modules = [(sys.modules["torch"].get_device_module(one.type), one) for one in accelerators]
    return sum(
        module.max_memory_allocated(one)
        for module, one in modules
        if hasattr(module, "max_memory_allocated")
    )
