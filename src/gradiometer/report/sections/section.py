"""A section of the page: its charts, each with a summary and the numbers behind it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import altair as alt
import numpy as np
from jaxtyping import Int

from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Issue
from gradiometer.report.charts.axes import Curve
from gradiometer.report.charts.interval_strip import interval, number
from gradiometer.report.charts.theme import LISTS
from gradiometer.report.sections.questions import Answer


@dataclass(frozen=True)
class Numbers:
    """A table of formatted numbers. The first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """A chart with its summary and its numbers.

    Args:
        name: File name of the chart, and its anchor on the page.
        title: Title of the chart.
        chart: The chart.
        summary: Text alternative: the content of the chart with its numbers.
        table: The numbers behind the chart.
        note: How to read the chart.
        single: True if there is only one point: the page shows the summary, its number, in place of
            the chart.
    """

    name: str
    title: str
    chart: alt.LayerChart
    summary: str
    table: Numbers
    note: str = ""
    single: bool = False


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Args:
        name: Its anchor on the page.
        title: Its heading.
        lead: The question that it answers.
        figures: Its charts.
        table: Numbers that belong to no chart.
        answers: Findings that do not come from a gauge, for the cards.
        heading: Heading of the table.
        words: Its content in a few words, if no finding has them.
        method: How its numbers are measured, and where the formulas are.
        issue: The issue of SGD that it is about. The page has its sections in the order of the
            issues. One that an installed package adds follows the others of its issue, or all
            others if it has none.
    """

    name: str
    title: str
    lead: str
    figures: tuple[Figure, ...]
    table: Numbers | None = None
    answers: tuple[Answer, ...] = ()
    heading: str = "At the newest reading"
    words: str = ""
    method: str = ""
    issue: Issue | None = None


def change(points: Curve) -> str:
    """The first and the last estimate: "goes from 52 [41, 66] at step 250 to 610 [480, 800] at step
    6,000"."""
    (first_step, first), (last_step, last) = points[0], points[-1]
    if len(points) == 1:
        return f"{_value(last)} at step {last_step:,}"
    if not (_has_value(first) and _has_value(last)):
        return f"{_value(first)} at step {first_step:,}, and {_value(last)} at step {last_step:,}"
    return f"goes from {first} at step {first_step:,} to {last} at step {last_step:,}"


def _has_value(estimate: Estimate) -> bool:
    """True if the text of the estimate is a number."""
    return estimate.method == "exact" or math.isfinite(estimate.low)


def _value(estimate: Estimate) -> str:
    return f"is {estimate}" if _has_value(estimate) else "is not known yet"


def by_layer(estimates: Mapping[str, Estimate], prefix: str) -> dict[str, Estimate]:
    """The estimates whose name begins with a prefix such as "noise_scale/", by the name of the
    layer after it."""
    return {
        name.removeprefix(prefix): each
        for name, each in estimates.items()
        if name.startswith(prefix)
    }


def largest(layers: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """The layers that a chart has room for: those with the largest lower ends, in their order."""
    names = sorted(layers, key=lambda layer: -layers[layer].low)[: LISTS.layers]
    return {layer: estimate for layer, estimate in layers.items() if layer in names}


def extremes(layers: Mapping[str, Estimate]) -> tuple[str, str]:
    """The layers with the smallest and the largest value."""
    in_order = sorted(layers, key=lambda layer: layers[layer].value)
    return in_order[0], in_order[-1]


def cells_of(estimates: Mapping[str, Estimate], name: str) -> tuple[str, str]:
    """The number and its interval, as two cells; empty without this estimate."""
    return cells(estimates[name]) if name in estimates else ("", "")


def evenly(count: int, most: int) -> Int[np.ndarray, " chosen"]:
    """At most so many of the places of a sequence, evenly chosen, with the first and the last."""
    return np.unique(np.linspace(0, max(count - 1, 0), most).round().astype(int))[:count]


def numbers_of(points: Curve, quantity: str) -> Numbers:
    """One row per point along the run: step, estimate, interval, and number of readings."""
    return Numbers(
        ("step", quantity, "interval", "readings"),
        tuple(
            (f"{step:,}", *cells(estimate), f"{estimate.samples:,}") for step, estimate in points
        ),
    )


def numbers_along(curves: Mapping[str, Curve]) -> Numbers:
    """One row per step: the numbers of several curves over the same steps, with their intervals."""
    rows = [
        (f"{points[0][0]:,}", *(cell for _, estimate in points for cell in cells(estimate)))
        for points in zip(*curves.values(), strict=True)
    ]
    columns = [column for name in curves for column in (name, "interval")]
    return Numbers(("step", *columns), tuple(rows))


def quantity_table(labels: Mapping[str, str], estimates: Mapping[str, Estimate]) -> Numbers:
    """The estimates that have a label, in the order of the labels, with all their details."""
    rows = [
        (
            label,
            *cells(estimates[name]),
            estimates[name].unit,
            level_of(estimates[name]),
            f"{estimates[name].samples:,}" if estimates[name].samples else "",
            estimates[name].method,
        )
        for name, label in labels.items()
        if name in estimates
    ]
    return Numbers(
        ("quantity", "estimate", "interval", "unit", "level", "readings", "method"), tuple(rows)
    )


def level_of(estimate: Estimate) -> str:
    """The level of its interval in percent; empty for an exact number."""
    return "" if estimate.level == 1 else f"{estimate.level:.0%}"


def cells(estimate: Estimate) -> tuple[str, str]:
    """The number and its interval, as two cells."""
    return number(estimate.value), interval(estimate)
