"""The events of a run as they are read: each kind has a type with ranges, and an event that does
not fit is skipped."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from gradiometer.measurement.estimate import Estimate
from gradiometer.run.columns import StepNumber
from gradiometer.storage.journal import Line

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
# NaN fails both comparisons.
Finite = Annotated[float, msgspec.Meta(ge=-1.7e308, le=1.7e308)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=1.7e308)]


class _Event(msgspec.Struct):
    event: Name
    step: StepNumber
    time: Finite


class _Warning(_Event):
    text: Annotated[str, msgspec.Meta(min_length=1)]
    stopped: str | msgspec.UnsetType = msgspec.UNSET
    withholds: str | msgspec.UnsetType = msgspec.UNSET
    repeats: str | msgspec.UnsetType = msgspec.UNSET
    not_finite: str | msgspec.UnsetType = msgspec.UNSET


class _Evaluation(_Event):
    estimates: dict[str, Estimate] = {}
    # where the numbers of single examples begin, and how many there are
    examples: dict[str, tuple[StepNumber, StepNumber]] = {}


class _Snapshot(_Event):
    number: StepNumber


class _Diverged(_Event):
    reason: str = ""


class _Cooling(_Event):
    fork: str | None
    begins: StepNumber | None
    outcome: str
    spent: float


class _RateFork(_Event):
    fork: str | None
    factor: Rate
    outcome: str
    spent: float


class _CooledForecast(_Event):
    averaged: float
    forecast: Estimate | None
    fork: str | None
    seen: float | None
    going_on: float | None
    spent: float


class _Stationarity(_Event):
    learning_rate: Rate
    steps: StepNumber
    left: float
    gain: Estimate
    predicted: Estimate
    stopped: bool


class _CutScored(_Event):
    cut_at: StepNumber
    seen: float
    within: bool
    predicted: Estimate


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


# The types of the events that readers look into. Events of other kinds have a name, a step and a
# time.
KINDS: dict[str, Any] = {
    "triage": _Triage,
    "warning": _Warning,
    "evaluation": _Evaluation,
    "snapshot": _Snapshot,
    "diverged": _Diverged,
    "cooling": _Cooling,
    "rate fork": _RateFork,
    "cooled forecast": _CooledForecast,
    "stationarity": _Stationarity,
    "cut scored": _CutScored,
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
        from gradiometer.drift.spikes.evidence import Examined  # noqa: PLC0415

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
