"""Several runs on the same axes, each with its own colour, shape and dash."""

from collections.abc import Mapping

import altair as alt

from gradiometer.report.charts.axes import LogAxis, plain_row
from gradiometer.report.charts.marks import (
    Curve,
    Vertical,
    along_steps,
    band,
    bars,
    by_step,
    linear_y,
    log_y,
    named_series,
    off_the_axis,
    points,
)
from gradiometer.report.charts.theme import DASHES

STEEP = 20
"""Curves that span more than this factor are drawn on a logarithmic axis."""


def together_chart(
    runs: Mapping[str, Curve], title: str, format: str | None = None
) -> alt.LayerChart:
    """One quantity of several runs along their steps, each with the band of its intervals.

    Args:
        runs: Estimates along each run, by the run's name.
        title: Title of the vertical axis.
        format: Number format of a linear vertical axis. By default the axis is logarithmic for
            steep curves.
    """
    estimates = [estimate for curve in runs.values() for _, estimate in curve]
    axis, names = LogAxis.holding(estimates), list(runs)
    steep = (
        format is None
        and min(estimate.value for estimate in estimates) > 0
        and axis.high / axis.low > STEEP
    )
    y: Vertical = (
        log_y(axis, title) if steep else (linear_y(title, format) if format else linear_y(title))
    )
    series = named_series(names)
    layers: list[alt.Chart | alt.LayerChart] = []
    for (name, curve), dash in zip(runs.items(), DASHES, strict=False):
        rows = [
            {"step": step, "series": name, **(axis.row(estimate) if steep else plain_row(estimate))}
            for step, estimate in curve
        ]
        base = by_step(rows)
        layers += [bars(base, y, **series)] if len(rows) < 3 else [band(base, y, dash, **series)]
        layers += [points(base, y, **series)] if 3 <= len(rows) <= 30 else []
        layers += (
            [layer.encode(color=series["color"]) for layer in off_the_axis(base, rows, y)]
            if steep
            else []
        )
    return along_steps(*layers)
