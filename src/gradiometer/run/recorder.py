"""The recorder decides when to measure, runs the gauges, and writes their readings into the run folder."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

from gradiometer.errors import BadArgument, Interrupted, Unsupported, UserCodeFailed
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.optimizer.changes import Changes
from gradiometer.measurement.reading import Moments, Reading, Series
from gradiometer.run.budget import Budget
from gradiometer.run.folder import RunFolder
from gradiometer.run.journal import JournalWriter

if TYPE_CHECKING:  # a run is read on a machine without torch
    from gradiometer.measurement.step import TrainingStep

LOSSES_A_LINE = 1000
RECENT_READINGS = 1000
SECONDS_BETWEEN_WRITES = 1.0

EXPENSIVE = 8
"""Expected cost of the first measurement with an expensive gauge (`one_in` above 1), in training steps."""

Mode = Literal["apart", "shared", "given"]


@runtime_checkable
class Measurable(Protocol):
    """The attributes of a training step that the recorder itself reads."""

    @property
    def index(self) -> int:
        """The step's number, from 0."""

    @property
    def batch_size(self) -> int:
        """B."""

    @property
    def learning_rate(self) -> float:
        """η at this step."""


class Recorder:
    """Writes one rank's readings, losses and events. Use it as a context manager, or close it.

    Losses cost about 0.3 µs per step. Losses and readings are written in blocks, at least once a second. Only `flush`
    waits for the disk: call it before a checkpoint is saved, and a killed run loses nothing before its checkpoint.

    Args:
        folder: The run.
        gauges: The gauges, in the order in which they run.
        budget: Share of the training time that measuring may use. With share 0 nothing is measured.
        every: Measure at every n-th step instead. Without `budget` and `every`, every step is measured.
        rank: Rank of this process. Each rank has a readings file, and rank 0 also writes the events.
        mode: How the spread within a step is measured. Default: by the `accumulation` of the configuration.

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
        rank: int = 0,
        mode: Mode | None = None,
    ) -> None:
        _check(gauges, every, rank)
        self.folder, self.gauges = folder, tuple(gauges)
        self.budget = budget if budget is not None else Budget(0.0)  # with share 0 it only counts the time
        self.every, self.rank = every, rank
        self.mode: str = mode or ("shared" if folder.configuration.accumulation > 1 else "apart")
        self._share = None if budget is None else budget.share
        self._clock: Callable[[], float] = self.budget.clock
        self._readings = JournalWriter(folder.readings_path(rank), folder.path)
        try:
            self._events = JournalWriter(folder.events_path, folder.path) if rank == 0 else None
        except BaseException:
            self._readings.close()
            raise
        self.settings = Changes(self._readings.append)
        self._losses: list[float] = []
        self._losses_from = self._next_loss = 0
        self._written = self._clock()
        self._recent = {gauge.name: deque[Reading](maxlen=RECENT_READINGS) for gauge in self.gauges}
        self._refused: set[str] = set()
        self._followers = tuple(gauge for gauge in self.gauges if gauge.own_steps)
        self._cadenced = tuple(gauge for gauge in self.gauges if not gauge.own_steps)
        self.tell: Callable[[str], object] | None = None
        """Takes the text of every warning too, before it is written; None to write only."""
        self._asked_about = self._measured_steps = 0
        self._first_measured = self._last_measured = 0

    def due(self, step: int) -> bool:
        """True if this step should be measured. Call it once per step: it also writes the buffers in time."""
        now = self._clock()
        if not now - self._written < SECONDS_BETWEEN_WRITES:
            self._write()
        self.budget.start()
        self._asked_about += 1
        if self._share == 0 or not self._turn():
            return False
        if self.every is not None:
            return step % self.every == 0
        return self._share is None or self.budget.fits(self.kind(), self._guess())

    def kind(self, ahead: int = 0) -> str:
        """Names of the gauges that run at the next measured step, or `ahead` measured steps later."""
        return ",".join(gauge.name for gauge in self._turn(ahead))

    def measure(self, step: Measurable) -> list[Reading]:
        """Run the gauges whose turn it is and record their readings.

        If a gauge cannot measure this training (such as a loss without a second derivative), the run gets a warning,
        the gauge is switched off and training continues.
        """
        with self.budget.measuring(self.kind()):
            readings = [reading for gauge in self._turn() if (reading := self._reading(gauge, step)) is not None]
            for reading in readings:
                self._record(reading)
        if readings:
            self._count(readings[0].step)
        return readings

    def record(self, reading: Reading) -> None:
        """Record a reading of numbers that another program computed. Call `due` first, once per step."""
        self._record(reading)
        self._count(reading.step)

    def follows(self, step: int) -> bool:
        """True if a gauge that chooses its own steps measures at this one."""
        return self._share != 0 and any(gauge.wants(step) for gauge in self._followers)

    def follow(self, step: Measurable) -> None:
        """Run the gauges that have chosen this step themselves, and record their readings."""
        with self.budget.spending():
            for gauge in self._followers:
                if gauge.name not in self._refused and gauge.wants(step.index):
                    reading = self._reading(gauge, step)
                    if reading is not None:
                        self._record(reading)

    def loss(self, step: int, value: float) -> None:
        """Record the training loss of the batch at this step, as a number and not as a tensor."""
        if step != self._next_loss or len(self._losses) >= LOSSES_A_LINE:
            self._end_losses()
            self._losses_from = step
        self._losses.append(value)
        self._next_loss = step + 1

    def event(self, event: str, step: int, **fields: Any) -> None:
        """Record an event and write it at once. Only rank 0 writes events."""
        if event == "warning" and self.tell is not None:
            self.tell(fields["text"])
        if self._events is not None:
            self._events.append({"event": event, "step": int(step), "time": time.time(), **fields})
            self._events.flush()

    def resume(self, step: int) -> None:
        """Resume the run at this step, the next to be made.

        A line in both files makes readers drop the readings and losses that the previous process wrote from this step
        on, and its events of later steps. Nothing is deleted. Events of this step are kept, because they belong to
        the state of the checkpoint.
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
        """The last readings of a gauge in this process, for a live panel; None before the first."""
        readings = self._recent.get(gauge)
        return Series.of(list(readings), self.folder.measured_sampling, self.folder.layers) if readings else None

    def flush(self) -> None:
        """Write everything and wait until it is on the disk."""
        with self.budget.spending():
            if self.rank == 0:
                self._readings.append({"kind": "overhead", **self.overhead})
            self._write()
            self._readings.sync()
            if self._events is not None:
                self._events.sync()

    def close(self) -> None:
        """Write everything and close the files. They are closed also if the disk is full."""
        if self._readings.closed:
            return
        try:
            self.flush()
        finally:
            self._close_files()

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._readings.closed

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.close()
        except Interrupted:
            if error is None:  # otherwise the first error is the one to report
                raise

    @property
    def overhead(self) -> dict[str, Any]:
        """The time that measuring was allowed and used, and how often it measured.

        `budget` and `used` are fractions of the training time, and `every` is the mean distance of measured steps, in
        steps. `budget` is None without a budget, `every` with fewer than two measured steps.
        """
        measured = self._measured_steps
        gap = (self._last_measured - self._first_measured) / (measured - 1) if measured > 1 else None
        return {
            "budget": self._share,
            "used": self.budget.used,
            "measured_steps": measured,
            "every": gap,
            "mode": "off" if self._share == 0 or not self.gauges else self.mode,
        }

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {
            "asked_about": self._asked_about,
            "measured_steps": self._measured_steps,
            "first_measured": self._first_measured,
            "last_measured": self._last_measured,
            "budget": self.budget.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint. Older ones lack `asked_about`, and get the last measured step instead."""
        self._measured_steps = int(state["measured_steps"])
        self._first_measured = int(state["first_measured"])
        self._last_measured = int(state["last_measured"])
        self._asked_about = int(state.get("asked_about", self._last_measured + 1))
        self.budget.load_state_dict(state["budget"])

    def _count(self, step: int) -> None:
        """Count one more measured step."""
        if not self._measured_steps:
            self._first_measured = step
        self._last_measured = step
        self._measured_steps += 1

    def _guess(self) -> float:
        """Expected seconds of the first measurement of a kind; 0 if all its gauges are cheap."""
        expensive = any(gauge.one_in > 1 for gauge in self._turn())
        return EXPENSIVE * self.budget.training / self._asked_about if expensive else 0.0

    def _turn(self, ahead: int = 0) -> list[Gauge]:
        """The gauges whose turn it is. Expensive ones run at the end of a round, after readings of the cheap ones.

        If no cheap gauge is left, all run at every measured step.
        """
        working = [gauge for gauge in self._cadenced if gauge.name not in self._refused]
        if all(gauge.one_in > 1 for gauge in working):
            return working
        return [gauge for gauge in working if (self._measured_steps + 1 + ahead) % gauge.one_in == 0]

    def _reading(self, gauge: Gauge, step: Measurable) -> Reading | None:
        try:
            moments = gauge.measure(cast("TrainingStep", step))
        except (BadArgument, Unsupported, UserCodeFailed) as error:
            self._refused.add(gauge.name)
            self.event("warning", step.index, text=f"{gauge.name} is no longer measured: {error}", stopped=gauge.name)
            return None
        if moments is None:
            return None
        return Reading(
            gauge=gauge.name,
            step=int(step.index),
            batch_size=int(step.batch_size),
            learning_rate=float(step.learning_rate),
            moments=moments,
        )

    def _record(self, reading: Reading) -> None:
        finite = is_finite(reading.moments)
        line: dict[str, Any] = {
            "kind": "reading",
            "gauge": reading.gauge,
            "step": reading.step,
            "batch_size": reading.batch_size,
            "learning_rate": reading.learning_rate,
            "moments": reading.moments,
        }
        if finite:
            self._recent[reading.gauge].append(reading)
        else:
            line["finite"] = False  # for people; the reader checks the numbers
        self._readings.append(line)

    def _end_losses(self) -> None:
        """End the block of losses. The next loss starts another."""
        if self._losses:
            values, self._losses = self._losses, []
            self._readings.append({"kind": "losses", "from": int(self._losses_from), "values": values})
        self._losses_from = self._next_loss

    def _write(self) -> None:
        with self.budget.spending():
            self._end_losses()
            self._readings.flush()
        self._written = self._clock()

    def _close_files(self) -> None:
        try:
            self._readings.close()
        finally:
            if self._events is not None:
                self._events.close()


def is_finite(moments: Moments) -> bool:
    """True if every moment is finite. A single one that is not would make every mean non-finite."""
    return all(
        all(map(math.isfinite, values)) if isinstance(values, list | tuple) else math.isfinite(values)
        for values in moments.values()
    )


def _check(gauges: Sequence[Gauge], every: int | None, rank: int) -> None:
    names = [gauge.name for gauge in gauges]
    if len(set(names)) < len(names):
        raise BadArgument(f"`gauges` must have different names, got {', '.join(names)}.")
    if every is not None and not every >= 1:
        raise BadArgument(f"`every` must be at least 1 step, got {every}.")
    if not rank >= 0:
        raise BadArgument(f"`rank` must be at least 0, got {rank}.")
