"""The recorder: decides when to measure, asks the gauges, and writes what they say into the run folder."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, runtime_checkable

from gradiometer.errors import BadArgument, Interrupted, Unsupported, UserCodeFailed
from gradiometer.measurement.reading import Moments, Reading, Series
from gradiometer.run.budget import Budget
from gradiometer.run.folder import RunFolder
from gradiometer.run.journal import JournalWriter

LOSSES_A_LINE = 1000
RECENT_READINGS = 1000
SECONDS_BETWEEN_WRITES = 1.0

DEAR = 8
"""Steps that a measurement with gauges that are asked at one in many is taken to cost, until one was made."""

Mode = Literal["apart", "shared"]


@runtime_checkable
class Measurable(Protocol):
    """What the recorder itself reads off a training step; the gauges read the rest."""

    @property
    def index(self) -> int:
        """The step's number, from 0."""

    @property
    def batch_size(self) -> int:
        """B."""

    @property
    def learning_rate(self) -> float:
        """η at this step."""


@runtime_checkable
class Measures(Protocol):
    """What the recorder asks of a gauge; its other verbs are for whoever reads the run."""

    @property
    def name(self) -> str:
        """Under which its readings are found."""

    @property
    def one_in(self) -> int:
        """It is asked at one in so many measured steps; at every one, where no gauge is asked at each."""

    @property
    def own_steps(self) -> bool:
        """Whether it is asked at the steps it wants, whatever the cadence."""

    def wants(self, step: int) -> bool:
        """Whether this is such a step."""

    def measure(self, step: Any) -> Moments:
        """The raw moments of this one step."""


class Recorder:
    """Writes one rank's readings, losses and events. Use it as a context manager, or close it.

    Losses cost about a third of a microsecond a step; they and the readings are written in blocks, at the
    latest a second apart, and wait for the disk at `flush`. Call `flush` before a checkpoint is saved: then
    a killed run loses nothing that came before its checkpoint.

    Args:
        folder: The run.
        gauges: What is measured, in order.
        budget: Share of the training time that measuring may use; one with share 0 never measures.
        every: Measure at every so many steps instead; with neither, at every step.
        rank: Of this process; each has a readings file, and rank 0 also writes the events.
        mode: How the spread within a step is seen; None: as the configuration's `accumulation` say.

    Raises:
        BadArgument: An argument makes no sense, or another process is writing this run.
    """

    def __init__(
        self,
        folder: RunFolder,
        gauges: Sequence[Measures],
        *,
        budget: Budget | None = None,
        every: int | None = None,
        rank: int = 0,
        mode: Mode | None = None,
    ) -> None:
        _refuse_nonsense(gauges, every, rank)
        self.folder = folder
        self.gauges = tuple(gauges)
        self.budget = budget if budget is not None else Budget(0.0)  # the one of share 0 only keeps the accounts
        self.every = every
        self.rank = rank
        self.mode: str = mode or ("shared" if folder.configuration.accumulation > 1 else "apart")
        self._share = None if budget is None else budget.share
        self._clock: Callable[[], float] = self.budget.clock
        self._readings = JournalWriter(folder.readings_path(rank), folder.path)
        try:
            self._events = JournalWriter(folder.events_path, folder.path) if rank == 0 else None
        except BaseException:
            self._readings.close()
            raise
        self._losses: list[float] = []
        self._losses_from = self._next_loss = 0
        self._written = self._clock()
        self._recent = {gauge.name: deque[Reading](maxlen=RECENT_READINGS) for gauge in self.gauges}
        self._refused: set[str] = set()
        self._followers = tuple(gauge for gauge in self.gauges if gauge.own_steps)
        self._cadenced = tuple(gauge for gauge in self.gauges if not gauge.own_steps)
        self._asked_about = self._measured_steps = 0
        self._first_measured = self._last_measured = 0

    def due(self, step: int) -> bool:
        """Whether this step should be measured. Ask once a step: what is buffered is written along the way."""
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
        """What is asked at the next measured step, or at one so many further: the names of the gauges."""
        return ",".join(gauge.name for gauge in self._turn(ahead))

    def measure(self, step: Measurable) -> list[Reading]:
        """Ask the gauges whose turn it is for their moments of this step, and record them.

        A gauge that cannot measure this training (a loss without a second derivative) says so in an event and is not
        asked again; training goes on.
        """
        with self.budget.measuring(self.kind()):
            readings = [reading for gauge in self._turn() if (reading := self._asked(gauge, step)) is not None]
            for reading in readings:
                self._record(reading)
        self._first_measured = readings[0].step if readings and not self._measured_steps else self._first_measured
        self._last_measured = readings[0].step if readings else self._last_measured
        self._measured_steps += bool(readings)
        return readings

    def follows(self, step: int) -> bool:
        """Whether a gauge with steps of its own wants this one."""
        return self._share != 0 and any(gauge.wants(step) for gauge in self._followers)

    def follow(self, step: Measurable) -> None:
        """Ask the gauges that want this step for their own, and record what they say."""
        with self.budget.spending():
            for gauge in self._followers:
                if gauge.name not in self._refused and gauge.wants(step.index):
                    reading = self._asked(gauge, step)
                    if reading is not None:
                        self._record(reading)

    def loss(self, step: int, value: float) -> None:
        """The training loss of the batch at this step, a number and not a tensor. Every one is kept."""
        if step != self._next_loss or len(self._losses) >= LOSSES_A_LINE:
            self._end_losses()
            self._losses_from = step
        self._losses.append(value)
        self._next_loss = step + 1

    def event(self, event: str, step: int, **fields: Any) -> None:
        """Something that happened, written at once. A run's events are those of rank 0; others write none."""
        if self._events is not None:
            self._events.append({"event": event, "step": int(step), "time": time.time(), **fields})
            self._events.flush()

    def resume(self, step: int) -> None:
        """Take the run up again at this step, the next to be made.

        Readings and losses that the process before wrote from this step on, and events of later steps, are
        dropped by whoever reads the run: a line in both files says so, and nothing is deleted. An event of
        this very step stays: it came after as many updates as the checkpoint has.
        """
        self._end_losses()
        self._readings.append({"kind": "resumed", "step": int(step)})
        self._readings.flush()
        self.event("resumed", step)
        for readings in self._recent.values():
            kept = [reading for reading in readings if reading.step < step]
            readings.clear()
            readings.extend(kept)

    def recent(self, gauge: str) -> Series | None:
        """The last readings of a gauge since this process began, for a live panel; None before the first."""
        readings = self._recent.get(gauge)
        return Series.of(list(readings), self.folder.sampling, self.folder.layers) if readings else None

    def flush(self) -> None:
        """Write everything down and wait until it is on the disk."""
        with self.budget.spending():
            if self.rank == 0:
                self._readings.append({"kind": "overhead", **self.overhead})
            self._write()
            self._readings.sync()
            if self._events is not None:
                self._events.sync()

    def close(self) -> None:
        """Write everything down and let the files go; they are let go also where the disk is full."""
        if self._readings.closed:
            return
        try:
            self.flush()
        finally:
            self._close_files()

    @property
    def closed(self) -> bool:
        """Whether the files were let go."""
        return self._readings.closed

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.close()
        except Interrupted:
            if error is None:  # else the first error is the one to hear about
                raise

    @property
    def overhead(self) -> dict[str, Any]:
        """What the instrument was allowed and what it used, and how often it measured.

        `budget` and `used` are fractions of the training time, `every` is in steps, on average; None where
        there is none to state.
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
        """What a checkpoint keeps."""
        return {
            "asked_about": self._asked_about,
            "measured_steps": self._measured_steps,
            "first_measured": self._first_measured,
            "last_measured": self._last_measured,
            "budget": self.budget.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; one that does not say how often was asked was asked up to its last measured step."""
        self._measured_steps = int(state["measured_steps"])
        self._first_measured = int(state["first_measured"])
        self._last_measured = int(state["last_measured"])
        self._asked_about = int(state.get("asked_about", self._last_measured + 1))
        self.budget.load_state_dict(state["budget"])

    def _guess(self) -> float:
        """Seconds of a measurement of a kind that was never made: none where all is cheap, as it is soon known."""
        dear = any(gauge.one_in > 1 for gauge in self._turn())
        return DEAR * self.budget.training / self._asked_about if dear else 0.0

    def _turn(self, ahead: int = 0) -> list[Measures]:
        """The gauges whose turn it is; the dear ones come last in their round, when a first cheap reading is in.

        Where no cheap one is left, whose readings make up a round, all have their turn at every measured step.
        """
        working = [gauge for gauge in self._cadenced if gauge.name not in self._refused]
        if all(gauge.one_in > 1 for gauge in working):
            return working
        return [gauge for gauge in working if (self._measured_steps + 1 + ahead) % gauge.one_in == 0]

    def _asked(self, gauge: Measures, step: Measurable) -> Reading | None:
        try:
            moments = gauge.measure(step)
        except (BadArgument, Unsupported, UserCodeFailed) as error:
            self._refused.add(gauge.name)
            self.event("warning", step.index, text=f"{gauge.name} is not measured any more: {error}")
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
            line["finite"] = False  # a flag for people; the reader looks at the numbers
        self._readings.append(line)

    def _end_losses(self) -> None:
        """Close the block: the next loss, if it follows, begins another."""
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
    """Whether every moment is a finite number: one that is not would spoil every mean it enters."""
    return all(
        all(map(math.isfinite, values)) if isinstance(values, list | tuple) else math.isfinite(values)
        for values in moments.values()
    )


def _refuse_nonsense(gauges: Sequence[Measures], every: int | None, rank: int) -> None:
    names = [gauge.name for gauge in gauges]
    if len(set(names)) < len(names):
        raise BadArgument(f"`gauges` must have names of their own, got {', '.join(names)}.")
    if every is not None and not every >= 1:
        raise BadArgument(f"`every` must be at least 1 step, got {every}.")
    if not rank >= 0:
        raise BadArgument(f"`rank` must be at least 0, got {rank}.")
