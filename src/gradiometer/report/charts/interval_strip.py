"""Small pictures inside a line: an estimate as text and as a strip, its interval on a small axis
with exact numbers to compare it with; and a curve along the run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.report.charts.axes import Curve, LogAxis, round_numbers
from gradiometer.report.charts.theme import STRIP


@dataclass(frozen=True)
class Tick:
    """An exact number on the strip.

    Attributes:
        place: Position, in percent of the strip's width.
        label: Its text, such as "B = 32".
    """

    place: float
    label: str


@dataclass(frozen=True)
class Strip:
    """An interval on a small axis, in percent of the strip's width. The axis is linear if it
    contains zero, else log.

    Attributes:
        left, right: Ends of the interval.
        point: The estimate; None if it cannot be drawn.
        open_left, open_right: True if the interval continues beyond this end of the strip.
        ticks: Exact numbers to compare the interval with.
        scale: Round numbers of the axis.
    """

    left: float
    right: float
    point: float | None
    open_left: bool
    open_right: bool
    ticks: tuple[Tick, ...]
    scale: tuple[Tick, ...] = ()


def strip(estimate: Estimate, thresholds: Mapping[str, Estimate]) -> Strip | None:
    """The strip of an estimate, or None if no end of its interval is known.

    Args:
        estimate: The estimate to draw.
        thresholds: Exact estimates by tick label. A threshold that is not positive makes the axis
            linear.
    """
    exact = {label: other.value for label, other in thresholds.items()}
    is_linear = estimate.low < 0 or not all(value > 0 for value in exact.values())
    ends = [end for end in (estimate.low, estimate.high) if math.isfinite(end)]
    # on a logarithmic axis an interval at or below zero, or of any positive number, has no end
    if not ends or not (is_linear or (math.isfinite(estimate.low) and max(ends) > 0)):
        return None
    marks = {f"{label} = {number(value)}": value for label, value in exact.items()}
    if is_linear:
        marks = marks or {"0": 0.0}
        shown = [end for end in (*ends, estimate.value, *marks.values()) if math.isfinite(end)]
        room = STRIP.room * (max(shown) - min(shown)) or 1.0
        low, high = min(shown) - room, max(shown) + room
        numbers = round_numbers(low, high)
    else:
        axis = LogAxis.holding([estimate], also=exact.values())
        low, high, numbers = axis.low, axis.high, axis.ticks

    def percent(value: float) -> float:
        if not low < value < high:
            return 100.0 if value >= high else 0.0
        if is_linear:
            return round(100 * (value - low) / (high - low), 2)
        return round(100 * math.log(value / low) / math.log(high / low), 2)

    stride = max(-(-len(numbers) // STRIP.numbers), 1)
    is_known = math.isfinite(estimate.value) and (is_linear or estimate.value > 0)
    return Strip(
        left=percent(estimate.low),
        right=percent(estimate.high),
        point=percent(estimate.value) if is_known else None,
        open_left=math.isinf(estimate.low) if is_linear else not estimate.low > 0,
        open_right=math.isinf(estimate.high),
        ticks=tuple(Tick(percent(value), label) for label, value in marks.items()),
        scale=tuple(Tick(percent(value), number(value)) for value in numbers[::stride]),
    )


def strips(
    estimates: Mapping[str, Estimate], names: Sequence[str], symbols: Mapping[str, str]
) -> dict[str, Strip]:
    """The strips of the estimates that are not exact, with the exact ones as thresholds.

    If all are exact, the first is drawn and the others are its thresholds.

    Args:
        estimates: Estimates by name.
        names: Names of the estimates in a finding.
        symbols: Mathematical symbols of quantities, by name.
    """
    named = {name: estimates[name] for name in names if name in estimates}
    shown = [name for name, each in named.items() if each.method != "exact"]
    if not shown and len(named) > 1:  # the estimate itself is exact, like its threshold
        shown = [next(iter(named))]
    exact = {symbols.get(name, name): each for name, each in named.items() if name not in shown}
    exact = {name: each for name, each in exact.items() if each.method == "exact"}
    drawn = {name: strip(named[name], exact) for name in shown}
    return {name: each for name, each in drawn.items() if each is not None}


def number(value: float) -> str:
    """A number as text with few digits; a whole number has no decimals.

    >>> number(32.0), number(1.6389)
    ('32', '1.64')
    """
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e6 else significant(value)


def interval(estimate: Estimate) -> str:
    """The interval as text. An infinite end is written as open: [695, ∞)."""
    if estimate.method == "exact":
        return "exact"
    left = "(" if math.isinf(estimate.low) else "["
    right = ")" if math.isinf(estimate.high) else "]"
    return f"{left}{significant(estimate.low)}, {significant(estimate.high)}{right}"


@dataclass(frozen=True)
class Sparkline:
    """The known values of a curve as points of an SVG line.

    Args:
        line: Points of the line, as "x,y x,y".
        end: The last point.
        words: Text alternative: the first and the last value with their steps.
    """

    line: str
    end: tuple[float, float]
    words: str


def sparkline(curve: Curve) -> Sparkline | None:
    """The curve as a small line, or None if fewer than three values are known. It is logarithmic if
    all are positive.

    >>> from gradiometer.measurement import Estimate
    >>> from gradiometer.report.charts.interval_strip import sparkline
    >>> drawn = sparkline([(step, Estimate.exact(2.0**step)) for step in range(4)])
    >>> drawn.line, drawn.words
    ('0,21 32,15 64,9 96,3', '1.00 at step 0, 8.00 at step 3')
    """
    known = [(step, estimate.value) for step, estimate in curve if math.isfinite(estimate.value)]
    if len(known) < STRIP.fewest:
        return None
    steps = [float(step) for step, _ in known]
    values = [value for _, value in known]
    heights = [math.log(value) for value in values] if min(values) > 0 else values
    across = [STRIP.width * share for share in _shares(steps)]
    bottom = STRIP.height - STRIP.margin
    up = [bottom - (bottom - STRIP.margin) * share for share in _shares(heights)]
    points = [(round(x, 1), round(y, 1)) for x, y in zip(across, up, strict=True)]
    (first, start), (last, end) = known[0], known[-1]
    return Sparkline(
        line=" ".join(f"{x:g},{y:g}" for x, y in points),
        end=points[-1],
        words=f"{significant(start)} at step {first:,}, {significant(end)} at step {last:,}",
    )


def _shares(values: list[float]) -> list[float]:
    """Positions between the smallest and the largest value, from 0 to 1; one half if
    all are equal."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]
