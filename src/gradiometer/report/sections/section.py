"""A part of the page: its charts, each with what it shows in words and the numbers behind it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import altair as alt

from gradiometer.measurement.estimate import Estimate
from gradiometer.report.charts.interval_strip import interval, number
from gradiometer.report.charts.marks import Windows
from gradiometer.report.sections.questions import Answer


@dataclass(frozen=True)
class Numbers:
    """Numbers in words: the first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """A chart, what it shows in words, and its numbers.

    Args:
        name: File name of the chart, and its place on the page.
        title: What is drawn.
        chart: The chart.
        summary: Text alternative: what one sees, with its numbers.
        table: The numbers behind the chart.
        note: How to read it.
    """

    name: str
    title: str
    chart: alt.LayerChart
    summary: str
    table: Numbers
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        name: Its place on the page; where the page has `methods_NAME.html.jinja`, its formulas.
        title: Its heading.
        lead: What it is about.
        figures: Its charts.
        table: Numbers that belong to no chart.
        answers: What it found beside the readings of the gauges, for the cards.
        heading: Of the table.
    """

    name: str
    title: str
    lead: str
    figures: tuple[Figure, ...]
    table: Numbers | None = None
    answers: tuple[Answer, ...] = ()
    heading: str = "In the latest window"


def course(points: Windows) -> str:
    """From where to where: "goes from 52 [41, 66] at step 250 to 610 [480, 800] at step 6,000"."""
    (first_step, first), (last_step, last) = points[0], points[-1]
    if len(points) == 1:
        return f"{_stands(last)} at step {last_step:,}"
    if not (_told(first) and _told(last)):
        return f"{_stands(first)} at step {first_step:,}, and {_stands(last)} at step {last_step:,}"
    return f"goes from {first} at step {first_step:,} to {last} at step {last_step:,}"


def _told(estimate: Estimate) -> bool:
    """Whether its words are a number."""
    return estimate.method == "exact" or math.isfinite(estimate.low)


def _stands(estimate: Estimate) -> str:
    return f"is {estimate}" if _told(estimate) else "cannot be told yet"


def numbers_of(points: Windows, quantity: str) -> Numbers:
    """A row for every point along the run: its step, the estimate, its interval, and how many readings it rests on."""
    return Numbers(
        ("step", quantity, "interval", "readings"),
        tuple((f"{step:,}", *cells(estimate), f"{estimate.samples:,}") for step, estimate in points),
    )


def quantity_table(labels: Mapping[str, str], estimates: Mapping[str, Estimate]) -> Numbers:
    """The estimates that have a label, in the order of the labels, with all that is known of each."""
    rows = [
        (
            label,
            *cells(estimate),
            estimate.unit,
            "" if estimate.level == 1 else f"{estimate.level:.0%}",
            f"{estimate.samples:,}" if estimate.samples else "",
            estimate.method,
        )
        for name, label in labels.items()
        if (estimate := estimates.get(name)) is not None
    ]
    return Numbers(("quantity", "estimate", "interval", "unit", "level", "readings", "method"), tuple(rows))


def cells(estimate: Estimate) -> tuple[str, str]:
    """The number and its interval, as two cells."""
    return number(estimate.value), interval(estimate)
