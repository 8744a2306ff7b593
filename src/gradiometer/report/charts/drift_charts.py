"""The charts of issue 2: the sharpness along the run and the edge of stability, and the density of
curvatures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from gradiometer.drift.curvature_survey import SpectralDensity
from gradiometer.measurement.estimate import significant
from gradiometer.report.charts.axes import LogAxis
from gradiometer.report.charts.marks import (
    HEIGHT,
    PLAIN,
    WIDTH,
    Curve,
    Vertical,
    along_steps,
    band,
    bars,
    by_step,
    inline,
    layered,
    linear_y,
    log_y,
    named_series,
    off_the_axis,
    points,
    tooltip,
)

DECADES = 1e-6
"""Share of its peak below which the density is not drawn."""

UNIT = "loss / parameter²"

LOSS = "loss, one batch"


def sharpness_chart(batch: Curve, full: Curve, edge: Curve, edge_words: str) -> alt.LayerChart:
    """Batch sharpness along the run as a band, full-batch sharpness at each survey, and the edge of
    stability.

    Args:
        batch: The batch sharpness along the run; may be empty.
        full: λ_max at each survey; may be empty.
        edge: The edge, which moves with the learning rate; may be empty.
        edge_words: Label of the edge, such as 2/η.
    """
    axis = LogAxis.holding(estimate for _, estimate in (*batch, *full, *edge))
    y = log_y(axis, UNIT)
    names = ["batch sharpness"] * bool(batch) + ["sharpness λ_max"] * bool(full)
    series = named_series(names)
    layers: list[alt.Chart | alt.LayerChart] = []
    for name, curve in zip(names, [curve for curve in (batch, full) if curve], strict=True):
        rows = [{**row, "series": name} for row in axis.rows(curve)]
        base = by_step(rows)
        connected = name == names[0] and bool(batch) and len(rows) > 2
        layers += (
            [band(base, y, **series), points(base, y, **series)]
            if connected
            else [bars(base, y, **series)]
        )
        layers += [layer.encode(color=series["color"]) for layer in off_the_axis(base, rows, y)]
    return along_steps(*layers, *_edge_line(edge, y, edge_words))


def spike_chart(losses: Sequence[tuple[int, float]], first: int, last: int) -> alt.LayerChart:
    """The losses of single batches around a spike, whose steps are shaded. It does not follow the
    zoom of the page.

    Args:
        losses: Steps with their losses, in order.
        first: The first step of the spike.
        last: Its last step.
    """
    at, y = (
        alt.X(
            "step:Q",
            scale=alt.Scale(zero=False, nice=False),
            axis=alt.Axis(title="step", format=",d", tickMinStep=1),
        ),
        linear_y(LOSS),
    )
    rows = [{"step": step, "loss": loss, "interval": significant(loss)} for step, loss in losses]
    base = alt.Chart(inline(rows)).encode(x=at, y=y("loss"), tooltip=tooltip("step:Q"))
    shade = alt.Chart(inline([{"step": first - 0.5, "end": last + 0.5}]))
    return layered(
        shade.mark_rect(opacity=0.14).encode(x=at, x2="end:Q"),
        base.mark_line(strokeWidth=1.2),
        base.mark_point(size=18),
    ).properties(width=WIDTH, height=HEIGHT)


def _edge_line(edge: Curve, y: Vertical, words: str) -> list[alt.Chart]:
    if not edge:
        return []
    rows: list[dict[str, Any]] = [
        {
            "step": step,
            "edge": estimate.value if math.isfinite(estimate.value) else None,
            "interval": str(estimate),
        }
        for step, estimate in edge
    ]
    drawn = [row for row in rows if row["edge"] is not None] or rows
    rises = max(row["edge"] or 0.0 for row in drawn) > 1.01 * (drawn[0]["edge"] or 0.0)
    at: dict[str, Any] = {"baseline": "top", "dy": 6} if rises else {"baseline": "bottom", "dy": -4}
    line = by_step(rows).mark_line(style="reference", interpolate="step-before").encode(y=y("edge"))
    label = by_step([{**drawn[0], "label": words}]).mark_text(
        style="reference-label", align="left", dx=4, **at
    )
    point = (
        by_step(rows).mark_rule(style="reference").encode(y=y("edge")) if len(rows) == 1 else line
    )
    return [point, label.encode(y=y("edge"), text="label:N")]


def density_chart(density: SpectralDensity, marked: Mapping[str, float]) -> alt.LayerChart:
    """The spectral density with its band on a logarithmic axis.

    Args:
        density: The density of the Hessian's eigenvalues.
        marked: Curvatures to draw as rules, by label: λ_max, the edge.
    """
    grid = density.grid
    value, low, high = density.at(grid)
    peak = float(high.max())
    floor = peak * DECADES
    rows = [
        {
            "curvature": float(at),
            "value": float(middle) if middle > floor else None,
            "low": max(float(below), floor),
            "high": max(float(above), floor),
        }
        for at, middle, below, above in zip(grid, value, low, high, strict=True)
    ]
    scale = alt.Scale(type="log", domain=[floor, 2 * peak], nice=False)
    ticks = [
        10.0**power
        for power in range(int(np.ceil(np.log10(floor))), int(np.floor(np.log10(2 * peak))) + 1)
    ]
    y_axis = alt.Axis(title="share of directions per loss / parameter²", values=ticks, format="~e")
    x = alt.X(
        "curvature:Q",
        title=f"curvature, {UNIT}",
        axis=alt.Axis(format=PLAIN),
        scale=alt.Scale(nice=False),
    )
    tooltip = [
        alt.Tooltip(f"{name}:Q", format=",.3~g") for name in ("curvature", "value", "low", "high")
    ]
    base = alt.Chart(inline(rows)).encode(x=x, tooltip=tooltip)
    area = base.mark_area(clip=True).encode(
        y=alt.Y("low:Q", scale=scale, axis=y_axis), y2=alt.Y2("high:Q")
    )
    line = base.mark_line(clip=True).encode(y=alt.Y("value:Q", scale=scale, axis=y_axis))
    return layered(area, line, *_rules(marked)).properties(width=WIDTH, height=HEIGHT)


def _rules(marked: Mapping[str, float]) -> list[alt.Chart]:
    rows = [{"curvature": at, "label": label} for label, at in marked.items()]
    if not rows:
        return []
    base = alt.Chart(inline(rows)).encode(x=alt.X("curvature:Q"))
    label = base.mark_text(style="reference-label", align="right", baseline="top", dx=-4)
    return [base.mark_rule(style="reference"), label.encode(y=alt.value(0), text="label:N")]
