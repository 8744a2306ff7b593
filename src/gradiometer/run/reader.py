"""A run as it is read: on any machine, a year later, without torch, while it is written or after it was killed."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from jaxtyping import Float, Int

from gradiometer.measurement.reading import Reading, Sampling, Series
from gradiometer.run.configuration import Configuration
from gradiometer.run.folder import RunFolder
from gradiometer.run.journal import NOT_FINITE, Line, being_written, read_journal
from gradiometer.run.recorder import is_finite

Status = Literal["running", "finished", "interrupted", "diverged"]

HISTORY = ("started", "resumed", "interrupted", "diverged", "finished")
"""Events about the process: they stay when a run is taken up again at an earlier step, and the last is its status."""

_ENDS: dict[str, Status] = {"interrupted": "interrupted", "diverged": "diverged", "finished": "finished"}

_Number = float | Literal["inf", "-inf", "nan"]
_StepNumber = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class _ReadingLine(msgspec.Struct, tag_field="kind", tag="reading"):
    gauge: str
    step: _StepNumber
    batch_size: Annotated[int, msgspec.Meta(ge=1, lt=2**53)]
    learning_rate: _Number
    moments: dict[str, _Number | list[_Number]]


class _LossesLine(msgspec.Struct, tag_field="kind", tag="losses", rename={"from_step": "from"}):
    from_step: _StepNumber
    values: list[_Number]


class _ResumedLine(msgspec.Struct, tag_field="kind", tag="resumed"):
    step: _StepNumber


class _OverheadLine(msgspec.Struct, tag_field="kind", tag="overhead"):
    budget: _Number | None
    used: _Number
    measured_steps: int
    every: _Number | None
    mode: str


class _Event(msgspec.Struct):
    event: str
    step: _StepNumber
    time: float


_Steps = Int[np.ndarray, " steps"]
_Losses = Float[np.ndarray, " steps"]
_Block = tuple[Int[np.ndarray, " _"], Float[np.ndarray, " _"]]
"""Steps and losses of one line: as many of the one as of the other, in every line another number."""


class Run:
    """A run read from its folder. What is torn or garbled is left out, and named in `warnings`.

    Nothing is read before it is asked for, and each file once: open the run again to see what came since.

    Args:
        folder: The run.
        rank: Whose readings and losses, of a run of several processes.
    """

    def __init__(self, folder: RunFolder, rank: int = 0) -> None:
        self.folder = folder
        self.rank = rank

    @classmethod
    def open(cls, path: Path | str, rank: int = 0) -> "Run":
        """The run in this folder.

        Raises:
            BadInput: It is not a run folder, or of a newer format.
        """
        return cls(RunFolder.open(path), rank)

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder.path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def manifest(self) -> dict[str, Any]:
        """What `run.toml` says: format, name, created, configuration, versions, seeds, fingerprint of the data."""
        return self.folder.manifest

    @property
    def configuration(self) -> Configuration:
        """What the run was asked to do."""
        return self.folder.configuration

    @property
    def sampling(self) -> Sampling:
        """How batches were drawn."""
        return self.folder.sampling

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in the order of the moments taken per layer."""
        return self.folder.layers

    @property
    def events(self) -> list[dict[str, Any]]:
        """What happened, oldest first: {"event", "step", "time" in seconds since 1970, ...}."""
        return self._events[0]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The events that are evaluations."""
        return [event for event in self.events if event["event"] == "evaluation"]

    @property
    def losses(self) -> tuple[_Steps, _Losses]:
        """Steps, and the training loss of the batch at each: every one, nothing downsampled."""
        return self._readings.losses

    @property
    def gauges(self) -> tuple[str, ...]:
        """Names of the gauges that have readings, in the order they first appear."""
        return tuple(self._series)

    def series(self, gauge: str) -> Series | None:
        """The readings of a gauge whose moments are finite, oldest first; None where there are none."""
        return self._series.get(gauge)

    @property
    def overhead(self) -> dict[str, Any]:
        """What the instrument was allowed and used, as the recorder last stated it; empty where it never did."""
        return self._readings.overhead

    @property
    def steps(self) -> int:
        """The last step seen, 0 where there is none."""
        seen = [int(step) for step in self.losses[0][-1:]]
        seen += [int(series.steps[-1]) for series in self._series.values()]
        seen += [int(event["step"]) for event in self.events[-1:]]
        return max(seen, default=0)

    @property
    def status(self) -> Status:
        """What became of the run; one that was killed is interrupted."""
        last = next((event["event"] for event in reversed(self.events) if event["event"] in HISTORY), "started")
        if last in _ENDS:
            return _ENDS[last]
        return "running" if being_written(self.folder.events_path) else "interrupted"

    @property
    def warnings(self) -> list[str]:
        """One sentence for everything that could not be used as it lies, or lay, on the disk."""
        told = [str(event.get("text")) for event in self.events if event["event"] == "warning"]
        return [*told, *self._events[1], *self._readings.warnings, *self._series_and_warnings[1]]

    @cached_property
    def _events(self) -> tuple[list[dict[str, Any]], list[str]]:
        path = self.folder.events_path
        lines, warnings = read_journal(path)
        events: list[dict[str, Any]] = []
        for number, record in lines:
            try:
                event = msgspec.convert(record, _Event)
            except msgspec.ValidationError:
                warnings.append(f"{path.name}:{number}: not an event (event, step and time): left out.")
                continue
            if event.event == "resumed":
                # A reading of step s is taken before its update, an event of step s after s updates, so before the
                # checkpoint of step s: that one stays.
                events = [e for e in events if e["step"] <= event.step or e["event"] in HISTORY]
            events.append(record)
        return events, warnings

    @cached_property
    def _readings(self) -> "_Readings":
        path = self.folder.readings_path(self.rank)
        lines, warnings = read_journal(path, _ReadingLine | _LossesLine | _ResumedLine | _OverheadLine)
        return _Readings(lines, warnings)

    @property
    def _series(self) -> dict[str, Series]:
        return self._series_and_warnings[0]

    @cached_property
    def _series_and_warnings(self) -> tuple[dict[str, Series], list[str]]:
        series: dict[str, Series] = {}
        warnings: list[str] = []
        for gauge, readings in self._readings.by_gauge.items():
            usable, complaints = _usable(gauge, readings)
            warnings += complaints
            if usable:
                series[gauge] = Series.of(usable, self.sampling, self.layers)
        return series, warnings


class _Readings:
    """The lines of a readings file in the order of steps, without what a resumed run has overtaken."""

    def __init__(self, lines: Sequence[Line], warnings: list[str]) -> None:
        self.warnings = warnings
        self.overhead: dict[str, Any] = {}
        readings: list[_ReadingLine] = []
        losses: list[_Block] = []
        for _, line in lines:
            if isinstance(line, _ReadingLine):
                readings.append(line)
            elif isinstance(line, _LossesLine):
                losses.append(_block(line))
            elif isinstance(line, _OverheadLine):
                self.overhead = {name: NOT_FINITE.get(x, x) for name, x in msgspec.structs.asdict(line).items()}
            else:
                readings = [reading for reading in readings if reading.step < line.step]
                losses = [_before(line.step, block) for block in losses]
        self.losses = _joined(losses)
        self.by_gauge: dict[str, list[Reading]] = {}
        for reading in readings:
            self.by_gauge.setdefault(reading.gauge, []).append(_reading(reading))


def _usable(gauge: str, readings: Sequence[Reading]) -> tuple[list[Reading], list[str]]:
    """Readings that can be stacked: finite, one a step, all with the same moments."""
    warnings: list[str] = []
    finite = [reading for reading in readings if is_finite(reading.moments)]
    if len(finite) < len(readings):
        first = next(reading.step for reading in readings if not is_finite(reading.moments))
        count = len(readings) - len(finite)
        warnings.append(
            f"{gauge}: {count} of {len(readings)} readings are not finite, the first at step {first}: left out."
        )
    shapes = [_shape(reading) for reading in finite]
    if len(set(shapes)) > 1:
        usual = Counter(shapes).most_common(1)[0][0]
        kept = [reading for reading, shape in zip(finite, shapes, strict=True) if shape == usual]
        warnings.append(f"{gauge}: {len(finite) - len(kept)} readings have other moments than the rest: left out.")
        finite = kept
    by_step = {reading.step: reading for reading in finite}  # the later line counts
    return [by_step[step] for step in sorted(by_step)], warnings


def _shape(reading: Reading) -> tuple[tuple[str, int], ...]:
    return tuple(
        sorted((name, len(value) if isinstance(value, list) else -1) for name, value in reading.moments.items())
    )


def _reading(line: _ReadingLine) -> Reading:
    moments = {
        name: [float(x) for x in value] if isinstance(value, list) else float(value)
        for name, value in line.moments.items()
    }
    return Reading(line.gauge, line.step, line.batch_size, float(line.learning_rate), moments)


def _block(line: _LossesLine) -> _Block:
    values = np.array([float(x) for x in line.values], dtype=np.float64)
    return np.arange(line.from_step, line.from_step + len(values), dtype=np.int64), values


def _before(step: int, block: _Block) -> _Block:
    kept = block[0] < step
    return block[0][kept], block[1][kept]


def _joined(blocks: Sequence[_Block]) -> tuple[_Steps, _Losses]:
    """In increasing order of steps; where a step came twice, the later line counts."""
    if not blocks:
        return np.array([], dtype=np.int64), np.array([], dtype=np.float64)
    steps = np.concatenate([steps for steps, _ in blocks])[::-1]
    losses = np.concatenate([losses for _, losses in blocks])[::-1]
    unique, first = np.unique(steps, return_index=True)
    return unique, losses[first]
