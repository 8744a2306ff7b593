"""An estimate in words, and as a strip: its interval on a small axis, with the exact numbers it is held against."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.report.charts.axes import LogAxis


@dataclass(frozen=True)
class Tick:
    """An exact number on the strip.

    Attributes:
        place: In percent of the strip's width.
        label: In words: "B = 32".
    """

    place: float
    label: str


@dataclass(frozen=True)
class Strip:
    """An interval on a small axis, in percent of the strip's width: logarithmic, or linear where zero is on it.

    Attributes:
        left, right: Ends of the interval.
        point: The estimate; None where there is none to draw.
        open_left, open_right: Whether the interval goes on beyond the strip.
        ticks: Exact numbers it is held against.
    """

    left: float
    right: float
    point: float | None
    open_left: bool
    open_right: bool
    ticks: tuple[Tick, ...]


def strip(estimate: Estimate, held_against: Mapping[str, Estimate]) -> Strip | None:
    """The strip of an estimate, or None where no end of its interval is known.

    Args:
        estimate: Whose interval is drawn.
        held_against: Exact estimates by the label of their tick; one that is not positive makes the axis linear.
    """
    if not (math.isfinite(estimate.low) or math.isfinite(estimate.high)):
        return None
    exact = {label: other.value for label, other in held_against.items()}
    if estimate.low < 0 or not all(value > 0 for value in exact.values()):
        return _linear_strip(estimate, exact)
    return _logarithmic_strip(estimate, exact) if estimate.high > 0 and math.isfinite(estimate.low) else None


def _logarithmic_strip(estimate: Estimate, exact: Mapping[str, float]) -> Strip | None:
    if not estimate.low > 0 and math.isinf(estimate.high):  # from zero to anywhere
        return None
    axis = LogAxis.holding([estimate], also=exact.values())
    return Strip(
        left=_percent(estimate.low, axis),
        right=_percent(estimate.high, axis),
        point=_percent(estimate.value, axis) if 0 < estimate.value < math.inf else None,
        open_left=not estimate.low > 0,
        open_right=math.isinf(estimate.high),
        ticks=tuple(Tick(_percent(value, axis), f"{label} = {number(value)}") for label, value in exact.items()),
    )


def _linear_strip(estimate: Estimate, exact: Mapping[str, float]) -> Strip:
    """With a tick at zero, which such an interval is held against where nothing else is."""
    marks = {f"{label} = {number(value)}": value for label, value in exact.items()} or {"0": 0.0}
    shown = [end for end in (estimate.low, estimate.value, estimate.high, *marks.values()) if math.isfinite(end)]
    room = 0.08 * (max(shown) - min(shown)) or 1.0
    low, high = min(shown) - room, max(shown) + room

    def percent(value: float) -> float:
        return round(100 * (min(max(value, low), high) - low) / (high - low), 2)

    return Strip(
        left=percent(estimate.low),
        right=percent(estimate.high),
        point=percent(estimate.value) if math.isfinite(estimate.value) else None,
        open_left=math.isinf(estimate.low),
        open_right=math.isinf(estimate.high),
        ticks=tuple(Tick(percent(value), label) for label, value in marks.items()),
    )


def strips(estimates: Mapping[str, Estimate], names: Sequence[str], symbols: Mapping[str, str]) -> dict[str, Strip]:
    """The strips of those of these estimates that are no exact numbers, held against those that are.

    Where all are exact, the first is drawn and held against the others.

    Args:
        estimates: Estimates by name.
        names: The ones a finding speaks of.
        symbols: How a quantity is written on paper, by name.
    """
    spoken_of = {name: estimates[name] for name in names if name in estimates}
    shown = [name for name, each in spoken_of.items() if each.method != "exact"]
    if not shown and len(spoken_of) > 1:  # a number that happens to be exact, against its threshold
        shown = [next(iter(spoken_of))]
    exact = {symbols.get(name, name): each for name, each in spoken_of.items() if name not in shown}
    exact = {name: each for name, each in exact.items() if each.method == "exact"}
    drawn = {name: strip(spoken_of[name], exact) for name in shown}
    return {name: each for name, each in drawn.items() if each is not None}


def number(value: float) -> str:
    """A number in few digits, and a whole number as one: 32, 1.64, 695."""
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e6 else significant(value)


def interval(estimate: Estimate) -> str:
    """The interval in words; an end that is not there is open: [695, ∞)."""
    if estimate.method == "exact":
        return "exact"
    left = "(" if math.isinf(estimate.low) else "["
    right = ")" if math.isinf(estimate.high) else "]"
    return f"{left}{significant(estimate.low)}, {significant(estimate.high)}{right}"


def _percent(value: float, axis: LogAxis) -> float:
    if not value > axis.low:
        return 0.0
    if not value < axis.high:
        return 100.0
    return round(100 * math.log(value / axis.low) / math.log(axis.high / axis.low), 2)
