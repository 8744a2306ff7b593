"""Read a run, without torch, while it is being written or after its process was killed."""

import shlex
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from jaxtyping import Float, Int

from gradiometer.arguments import path_of, type_name
from gradiometer.errors import BadArgument, RunNotFound, StorageFailed
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.optimizer.groups import UNKNOWN_OPTIMIZER, Group, family_of
from gradiometer.measurement.optimizer.hyperparameters import Hyperparameters
from gradiometer.measurement.reading import Series
from gradiometer.run.configuration import Configuration
from gradiometer.run.folder import RunFolder
from gradiometer.run.readings import Readings, StepNumber
from gradiometer.storage.journal import Line, being_written, read_journal

Status = Literal["running", "finished", "interrupted", "diverged"]

# Events of the process. They are kept if a run is resumed from an earlier step. The last one is the
# run's status.
HISTORY = ("started", "resumed", "interrupted", "diverged", "finished")

_ENDS: dict[str, Status] = {
    "interrupted": "interrupted",
    "diverged": "diverged",
    "finished": "finished",
}


# The event of a test of what limits a training, which says that the training is over.
TESTED = "tested"

# The event that says what a test would need besides, and all that it may need.
TESTABLE = "testable"
NEEDED_FOR_TESTS = ("loss=", "sampling=loader", "checkpoints=3")

# The `mode` of a run whose gradient norms were given as numbers, without a model.
GIVEN = "given"


class Run(RunFolder):
    """A run read from its folder. Lines that cannot be read are skipped and listed in `warnings`.

    Each file is read once, at its first use. `refreshed` reads the lines that are new.

    Args:
        path: The folder.
        gauges: Custom gauges, or their classes, that the run was measured with.

    >>> from gradiometer import Run
    >>> from gradiometer.run.folder import RunFolder
    >>> from gradiometer.run.recorder import Recorder
    >>> folder = RunFolder.create("runs", "example", {})
    >>> with Recorder(folder, []) as recorder:
    ...     for step in range(3):
    ...         recorder.loss(step, 1 / (step + 1))
    >>> steps, losses = Run.open("runs/example-1").losses
    >>> losses.tolist()
    [1.0, 0.5, 0.3333333333333333]
    """

    def __init__(self, path: Path, gauges: Sequence[object] = ()) -> None:
        super().__init__(path)
        self.known_gauges = tuple(gauges)
        self._journal = Readings(self.readings_path())
        # Artifacts and forks that could not be used: their files, with reasons.
        self.unread: dict[str, str] = {}

    @classmethod
    def open(cls, path: Path | str, gauges: Sequence[object] = ()) -> "Run":
        """The run in this folder.

        Raises:
            BadArgument: `path` is no path.
            RunNotFound: There is no run in it.
            RunDamaged: The run cannot be read, or was written in a newer format.
        """
        run = cls(path_of("path", path), gauges)
        run._refuse_other_formats()
        return run

    @classmethod
    def reopen(cls, path: Path | str, gauges: Sequence[object] = ()) -> "Run":
        """The run in this folder, in which there was one before.

        Raises:
            StorageFailed: There is none any more.
        """
        try:
            return cls.open(path, gauges=gauges)
        except RunNotFound as error:
            raise StorageFailed(
                f"`{path}` was deleted or moved in the meantime: nothing more can be read there."
            ) from error

    def refreshed(self) -> "Run":
        """The run as it is now on the disk. Only new readings are read. Do not use the old object
        afterwards."""
        later = Run(self.path, self.known_gauges)
        later._journal = self._journal
        # its manifest stays what it was
        vars(later)["_manifest_and_warnings"] = self._manifest_and_warnings
        return later

    @property
    def has_program_with_model(self) -> bool:
        """True if a program has its PyTorch model: `gradiometer train`, or one with `watch`; not
        for given norms."""
        return self.manifest.get("mode") != GIVEN

    def call(self, verb: str, examples: str) -> str:
        """The command for this run, or the call that does its work in a program with `watch`, in
        backticks."""
        if self.watched:
            return f"`w.{verb}({examples})` in your program"
        # Commands that are not called like the method of `Watch` that does the same.
        command = {"certify": "measure certificate", "sharpness": "measure sharpness"}.get(
            verb, verb
        )
        return f"`gradiometer {command} {shlex.quote(str(self.path))}`"

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events, oldest first: {"event", "step", "time" in seconds since 1970, ...}."""
        return self._events[0]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The events that are evaluations."""
        return [event for event in self.events if event["event"] == "evaluation"]

    @cached_property
    def losses(self) -> tuple[Int[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
        """Steps and the training loss of the batch at each, for every recorded step."""
        return self._readings.losses

    @property
    def gauges(self) -> tuple[str, ...]:
        """Names of the gauges that have readings, in the order of their first readings."""
        return tuple(self._series)

    def series(self, gauge: str) -> Series | None:
        """The readings of a gauge with finite moments, oldest first; None if it has none."""
        series = self._series.get(gauge)
        return None if series is None else replace(series, reached=self.steps)

    @cached_property
    def hyperparameters(self) -> Hyperparameters | None:
        """Learning rate, momentum, weight decay and optimizer along the run; None if they were not
        recorded.

        A run of `NormsWatch` or of an older version has only the learning rates of its measured
        steps, and one of `train` at least those of its schedule.
        """
        if self._readings.settings:
            steps, groups = zip(*self._readings.settings, strict=True)
            return Hyperparameters(steps, groups, self.steps)
        longest = max(self._series.values(), key=len, default=None)
        c = self.configuration
        if isinstance(c, Configuration):
            group = c.group
        else:
            name: str = self.manifest.get("problem", {}).get("optimizer", UNKNOWN_OPTIMIZER)
            group = Group(name, family_of([name]), 0.0)
        if longest is not None:
            steps, rates = longest.steps.tolist(), longest.learning_rate.tolist()
        elif isinstance(c, Configuration):
            from gradiometer.run.planned import planned  # noqa: PLC0415 (slow)

            # a schedule is read at 200 steps, as fine as a picture of it
            steps = np.unique(np.linspace(0, self.steps, 200).round().astype(int)).tolist()
            schedule = planned(c, self.manifest.get("steps", self.steps + 1))
            rates = [schedule(step) for step in steps]
        else:
            return None
        return Hyperparameters(
            tuple(steps),
            tuple((replace(group, learning_rate=rate),) for rate in rates),
            self.steps,
            longest is not None,
        )

    @property
    def signs(self) -> list[tuple[int, dict[str, Any]]]:
        """Steps, and the numbers of each that triage needs, by name; empty if they were not
        recorded."""
        return self._readings.signs

    @property
    def overhead(self) -> dict[str, Any]:
        """Time that measuring was allowed and used, as in `Recorder.overhead`; empty if it was not
        recorded."""
        return self._readings.overhead

    @property
    def readings_wanted(self) -> int | None:
        """How many readings a run of 300 steps should have, if the budget could not pay for them;
        else None."""
        wanted: int | None = self.overhead.get("short_of")
        return wanted if self.configuration.every is None else None

    @property
    def steps(self) -> int:
        """Number of steps made, as far as they are on record."""
        # a loss is recorded after the update of its step
        seen = [int(step) + 1 for step in self.losses[0][-1:]]
        seen += [int(series.steps[-1]) for series in self._series.values()]
        seen += [int(event["step"]) for event in self.events[-1:]]
        return max(seen, default=0)

    @property
    def status(self) -> Status:
        """The state of the run. A killed run is interrupted."""
        last = next(
            (event["event"] for event in reversed(self.events) if event["event"] in HISTORY),
            "started",
        )
        if last in _ENDS:
            return _ENDS[last]
        # A killed process has let go of its lock.
        return "running" if being_written(self.events_path) else "interrupted"

    @property
    def planned(self) -> int | None:
        """Number of updates of the whole training, as it was announced or is scheduled; None if
        that is not known."""
        told = [event for event in self.events if event["event"] == "triage"]
        steps: int | None = told[-1].get("steps") if told else None
        return steps

    @property
    def is_over(self) -> bool:
        """True if the training has ended: it finished, has all of its updates, or was tested after
        its newest one."""
        tested = [event["step"] for event in self.events if event["event"] == TESTED]
        if self.status == "finished" or tested[-1:] == [self.steps]:
            return True
        return self.planned is not None and self.steps >= self.planned

    @property
    def missing_for_tests(self) -> tuple[str, ...]:
        """What a watched loop would have to give, as arguments of `watch`, so that changes can be
        tried on copies of it, also from an earlier state."""
        told = [event["missing"] for event in self.events if event["event"] == TESTABLE]
        return tuple(told[-1]) if told else NEEDED_FOR_TESTS

    @property
    def warnings(self) -> list[str]:
        """Warnings that were raised during training, and one for everything on the disk that could
        not be used."""
        raised = [event["text"] for event in self.events if event["event"] == "warning"]
        unread = [
            f"{name} cannot be read: left out ({reason})." for name, reason in self.unread.items()
        ]
        damaged = [
            *super().warnings,
            *self._events[1],
            *self._readings.warnings,
            *self._series_and_warnings[1],
        ]
        return [*raised, *damaged, *unread]

    @cached_property
    def _events(self) -> tuple[list[dict[str, Any]], list[str]]:
        path = self.events_path
        lines, warnings = read_journal(
            path, repeats=lambda record: record.get("event") == "resumed"
        )
        written, refused = events_of(path.name, lines)
        events: list[dict[str, Any]] = []
        for event in written:
            if event["event"] == "resumed":
                # A reading of step s is taken before its update, but an event of step s after s
                # updates and before the checkpoint of step s. So this event is kept.
                events = [e for e in events if e["step"] <= event["step"] or e["event"] in HISTORY]
            events.append(event)
        return events, [*warnings, *refused]

    @cached_property
    def _readings(self) -> Readings:
        self._journal.read()
        return self._journal

    @property
    def _series(self) -> dict[str, Series]:
        return self._series_and_warnings[0]

    @cached_property
    def _series_and_warnings(self) -> tuple[dict[str, Series], list[str]]:
        return self._readings.series(self.measured_sampling, self.layers)


Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
# NaN fails both comparisons.
Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]


def check_run(run: Any, name: str = "run") -> None:
    """Raise unless this is a run: a folder is opened first."""
    if not isinstance(run, Run):
        raise BadArgument(
            f"`{name}` must be a Run, got {type_name(run)}: open the folder of a run with "
            "Run.open(folder)."
        )


class _Event(msgspec.Struct):
    event: Name
    step: StepNumber
    time: Finite


class _Triage(_Event):
    """What triage knows of the loop: one value for each parameter tensor, and what
    holds for all."""

    tensors: list[str]
    sizes: list[StepNumber]
    axes: list[Annotated[int, msgspec.Meta(ge=0, le=1000)]]
    layers: list[str]
    rows: list[StepNumber] | msgspec.UnsetType = msgspec.UNSET
    untrained: list[str] = []
    dropout: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    steps: StepNumber | msgspec.UnsetType = msgspec.UNSET
    scheduled: StepNumber | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if not len(self.tensors) == len(self.sizes) == len(self.axes) == len(self.layers):
            raise ValueError("tensors, sizes, axes and layers are not equally many")
        if self.rows is not msgspec.UNSET and len(self.rows) != len(self.tensors):
            raise ValueError("rows and tensors are not equally many")


def _with(kind: str, **fields: Any) -> Any:
    """The type of an event with these fields: each a type, or a type and a default."""
    listed = [
        (name, *field) if isinstance(field, tuple) else (name, field)
        for name, field in fields.items()
    ]
    return msgspec.defstruct(kind, listed, bases=(_Event,), kw_only=True)


_OPTIONAL = (str | msgspec.UnsetType, msgspec.UNSET)

# The types of the events that readers look into. Events of other kinds have a name, a step and a
# time.
KINDS: dict[str, Any] = {
    "triage": _Triage,
    TESTABLE: _with(TESTABLE, missing=list[str]),
    "warning": _with(
        "warning",
        text=Annotated[str, msgspec.Meta(min_length=1)],
        stopped=_OPTIONAL,
        withholds=_OPTIONAL,
        repeats=_OPTIONAL,
        not_finite=_OPTIONAL,
    ),
    "evaluation": _with(
        "evaluation",
        estimates=(dict[str, Estimate], {}),
        # where the numbers of single examples begin, and how many there are
        examples=(dict[str, tuple[StepNumber, StepNumber]], {}),
    ),
    "snapshot": _with("snapshot", number=StepNumber),
    "diverged": _with("diverged", reason=(str, "")),
    "cooling": _with(
        "cooling", fork=str | None, begins=StepNumber | None, outcome=str, spent=float
    ),
    "rate fork": _with("rate_fork", fork=str | None, factor=Rate, outcome=str, spent=float),
    "cooled forecast": _with(
        "cooled_forecast",
        averaged=float,
        forecast=Estimate | None,
        fork=str | None,
        seen=float | None,
        going_on=float | None,
        spent=float,
    ),
    "stationarity": _with(
        "stationarity",
        learning_rate=Rate,
        steps=StepNumber,
        left=float,
        gain=Estimate,
        predicted=Estimate,
        stopped=bool,
    ),
    "cut scored": _with(
        "cut_scored", cut_at=StepNumber, seen=float, within=bool, predicted=Estimate
    ),
}


def events_of(path_name: str, lines: Iterable[Line]) -> tuple[list[dict[str, Any]], list[str]]:
    """The events of a journal, oldest first, and one warning for each kind of event that could not
    be used.

    Args:
        path_name: Name of the file, for the warnings.
        lines: Its lines.
    """
    found: list[dict[str, Any]] = []
    refused: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, record in lines:
        kind = "event"
        try:
            kind = msgspec.convert(record, _Event).event
            wanted = KINDS.get(kind) or _slow_kind(kind)
            # The fields that are known are kept as their types have them, the others as they are.
            known = {} if wanted is None else msgspec.to_builtins(msgspec.convert(record, wanted))
            found.append(record | known)
        except (msgspec.ValidationError, OverflowError) as error:
            refused[kind].append((number, str(error)))
    return found, [_sentence(path_name, kind, places) for kind, places in refused.items()]


def _slow_kind(kind: str) -> Any:
    """The type of an event whose room imports scipy, which a run without such events is read
    without."""
    if kind == "endpoint":
        from gradiometer.convergence.trajectory.endpoint import Endpoint  # noqa: PLC0415

        return Endpoint
    if kind == "loss_examined":
        from gradiometer.drift.spikes.cause import Examined  # noqa: PLC0415

        return Examined
    return None


def _sentence(path_name: str, kind: str, places: list[tuple[int, str]]) -> str:
    number, reason = places[0]
    named = (
        "not an event (event, step and time)"
        if kind == "event"
        else f"the event `{kind}` is damaged"
    )
    more = f", and {len(places) - 1} more" if len(places) > 1 else ""
    return f"{path_name}:{number}{more}: {named}: skipped ({reason})."
