"""The chart of the batch table: updates and examples needed for the same loss at other
batch sizes."""

import math

import altair as alt

from gradiometer.estimation.batch_table import BatchTable
from gradiometer.report.charts.axes import LogAxis
from gradiometer.report.charts.marks import (
    HEIGHT,
    WIDTH,
    band,
    inline,
    layered,
    log_x,
    log_y,
    named_series,
    points,
    tooltip,
)

NAMES = ("updates", "examples")


def batch_chart(table: BatchTable) -> alt.LayerChart:
    """Updates and examples against the batch size, relative to the current batch size,
    with bands."""
    factors = [factor for row in table.rows for factor in (row.updates, row.examples)]
    axis, sizes = LogAxis.holding(factors), [float(row.batch_size) for row in table.rows]
    room = math.sqrt(2)
    y, x = (
        log_y(axis, "relative to the current batch size"),
        log_x(LogAxis(min(sizes) / room, max(sizes) * room), "batch size"),
    )
    layers: list[alt.Chart | alt.LayerChart] = []
    for name, dash in zip(NAMES, ([1, 0], [6, 3]), strict=True):
        rows = [
            {"batch_size": row.batch_size, "series": name, **axis.row(getattr(row, name))}
            for row in table.rows
        ]
        base = alt.Chart(inline(rows)).encode(x=x("batch_size"), tooltip=tooltip("batch_size:Q"))
        layers += [
            band(base, y, dash, **named_series(NAMES)),
            points(base, y, **named_series(NAMES)),
        ]
    present = alt.Chart(
        alt.Data(values=[{"batch_size": table.present, "label": f"B = {table.present:,}"}])
    )
    label = present.mark_text(style="reference-label", align="left", baseline="bottom", dx=5)
    return layered(
        *layers,
        present.mark_rule(style="reference").encode(x=x("batch_size")),
        label.encode(x=x("batch_size"), y=alt.value(-4), text="label:N"),
    ).properties(width=WIDTH, height=HEIGHT)
