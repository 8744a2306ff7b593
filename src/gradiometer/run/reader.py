"""A run as it is read: on any machine, a year later, without torch, while it is written or after it was killed."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from jaxtyping import Float, Int

from gradiometer.measurement.reading import Sampling, Series
from gradiometer.run.configuration import Configuration
from gradiometer.run.folder import RunFolder
from gradiometer.run.journal import being_written, read_journal
from gradiometer.run.readings import Readings

Status = Literal["running", "finished", "interrupted", "diverged"]

HISTORY = ("started", "resumed", "interrupted", "diverged", "finished")
"""Events about the process: they stay when a run is taken up again at an earlier step, and the last is its status."""

_ENDS: dict[str, Status] = {"interrupted": "interrupted", "diverged": "diverged", "finished": "finished"}

_StepNumber = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


WATCHED = "a loop of its own, watched"
"""The description of the problem of a run whose loop is not ours."""


class _Event(msgspec.Struct):
    event: str
    step: _StepNumber
    time: float


_Steps = Int[np.ndarray, " steps"]
_Losses = Float[np.ndarray, " steps"]


class Run:
    """A run read from its folder. What is torn or garbled is left out, and named in `warnings`.

    Nothing is read before it is asked for, and each file once: `refreshed` sees what came since.

    Args:
        folder: The run.
        rank: Process whose readings and losses are read, in a run of several processes.
        gauges: Gauges of your own, or their classes, that the run was measured with.
    """

    def __init__(self, folder: RunFolder, rank: int = 0, gauges: Sequence[object] = ()) -> None:
        self.folder = folder
        self.rank = rank
        self.known_gauges = tuple(gauges)
        self._journal = Readings(folder.readings_path(rank))

    @classmethod
    def open(cls, path: Path | str, rank: int = 0, gauges: Sequence[object] = ()) -> "Run":
        """The run in this folder.

        Raises:
            BadArgument: It is not a run folder, or of a newer format.
        """
        return cls(RunFolder.open(path), rank, gauges)

    def refreshed(self) -> "Run":
        """The run as it lies there now. Of its readings only what came since is read, and this one is done with."""
        later = Run(self.folder, self.rank, self.known_gauges)
        later._journal = self._journal
        return later

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder.path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def watched(self) -> bool:
        """Whether it was a loop of its own that was watched: no command knows its model and data."""
        problem = self.manifest.get("problem")
        return isinstance(problem, dict) and problem.get("description") == WATCHED

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

    @cached_property
    def losses(self) -> tuple[_Steps, _Losses]:
        """Steps, and the training loss of the batch at each: every one, nothing downsampled."""
        return self._readings.losses

    @property
    def gauges(self) -> tuple[str, ...]:
        """Names of the gauges that have readings, in the order they first appear."""
        return tuple(self._series)

    def series(self, gauge: str) -> Series | None:
        """The readings of a gauge whose moments are finite, oldest first; None where there are none."""
        series = self._series.get(gauge)
        return None if series is None else replace(series, reached=self.steps)

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
    def _readings(self) -> Readings:
        self._journal.read()
        return self._journal

    @property
    def _series(self) -> dict[str, Series]:
        return self._series_and_warnings[0]

    @cached_property
    def _series_and_warnings(self) -> tuple[dict[str, Series], list[str]]:
        return self._readings.series(self.sampling, self.layers)
