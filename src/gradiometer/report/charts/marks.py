"""How an interval is drawn: as a band or a bar, and an open end as an arrow at the edge of the
axis."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import altair as alt

from gradiometer.measurement.estimate import Estimate
from gradiometer.report.charts.axes import OPEN_ABOVE, OPEN_BELOW, UNKNOWN, LogAxis
from gradiometer.report.charts.theme import SHAPES

Row = dict[str, Any]
"""One drawn interval: `value`, `low` and `high` (None if unknown), `interval` as text, and its
place."""
Vertical = Callable[[str], alt.Y]
Horizontal = Callable[[str], alt.X]
"""The vertical and the horizontal channel of a chart, for a field of its rows."""

Curve = Sequence[tuple[int, Estimate]]
"""Estimates along a run: a step, and the estimate of the value there."""

WIDTH, HEIGHT = 680, 280
NUMBER = ",~g"
"""Number format of an axis whose ticks we choose: 0.05, 1,200, 1e-7."""
PLAIN = ",~r"
"""Number format of an axis whose ticks d3 chooses (`g` would write 400 as 4e+2 there):
0.05, 1,200."""


def inline(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Rows as the data of a chart. They are a tuple because altair copies a list once per layer."""
    return alt.InlineData(values=tuple(rows))


def by_step(rows: Sequence[Row]) -> alt.Chart:
    """Rows along the run, each with a tooltip."""
    return alt.Chart(inline(rows)).encode(x=step_x(), tooltip=tooltip("step:Q"))


def step_x() -> alt.X:
    """The step axis that all charts of a run share. The page sets `span` in every chart."""
    # a short run has ticks between steps
    whole = "datum.value === floor(datum.value) ? datum.label : ''"
    axis = alt.Axis(
        title="step",
        format=",d",
        tickMinStep=1,
        tickCount=alt.ExprRef("max(2, width / 90)"),
        labelExpr=whole,
    )
    return alt.X(
        "step:Q",
        scale=alt.Scale(domainRaw=alt.ExprRef("span"), nice=False, zero=True, padding=8),
        axis=axis,
    )


def along_steps(*layers: alt.Chart | alt.LayerChart) -> alt.LayerChart:
    """Layers over the shared step axis. The whole run is shown until `span` is set."""
    chart = layered(*layers)
    # In place, because altair's `properties` and `add_params` each copy the whole chart.
    chart.params = [cast("alt.VariableParameter", alt.param(name="span", value=None).param)]
    chart.width = WIDTH
    chart.height = HEIGHT
    return chart


def layered(*layers: alt.Chart | alt.LayerChart) -> alt.LayerChart:
    """Layers on the same axes. They are flattened because altair copies nested layers
    many times."""
    flat = [part for layer in layers for part in _parts(layer)]
    return cast("alt.LayerChart", alt.layer(*flat))  # only a facet would make it a FacetChart


def _parts(layer: alt.Chart | alt.LayerChart) -> Sequence[alt.Chart | alt.LayerChart]:
    """The layers of a layer, each with the data that altair moved to their parent."""
    if not isinstance(layer, alt.LayerChart) or layer.params is not alt.Undefined:
        return [layer]
    parts = [cast("alt.Chart", part.copy(deep=False)) for part in layer.layer]
    for part in parts:
        part.data = layer.data if part.data is alt.Undefined else part.data
    return parts


def log_y(axis: LogAxis, title: str) -> Vertical:
    """A logarithmic vertical axis."""
    return lambda field: alt.Y(field, **_logarithmic(axis, title))


def log_x(axis: LogAxis, title: str) -> Horizontal:
    """A logarithmic horizontal axis."""
    return lambda field: alt.X(field, **_logarithmic(axis, title))


def _logarithmic(axis: LogAxis, title: str) -> dict[str, Any]:
    scale = alt.Scale(type="log", domain=[axis.low, axis.high], nice=False)
    return {
        "type": "quantitative",
        "scale": scale,
        "axis": alt.Axis(title=title, values=axis.ticks, format=NUMBER),
    }


def linear_y(title: str, format: str = PLAIN, scale: alt.Scale | None = None) -> Vertical:
    """A linear vertical axis that fits the data; it does not have to include zero."""
    scale, axis = scale or alt.Scale(zero=False), alt.Axis(title=title, format=format, tickCount=6)
    return lambda field: alt.Y(field, type="quantitative", scale=scale, axis=axis)


def band(
    base: alt.Chart, y: Vertical, dash: Sequence[int] = (1, 0), **series: Any
) -> alt.LayerChart:
    """A line with the band of its intervals. The line has gaps at unknown estimates, the band at
    missing ends."""
    area = base.mark_area(clip=True)
    line = base.mark_line(clip=True, strokeDash=list(dash))
    return layered(
        area.encode(y=y("low"), y2="high:Q", **_colour_of(series)),
        line.encode(y=y("value"), **_colour_of(series)),
    )


def bars(base: alt.Chart, y: Vertical, **series: Any) -> alt.LayerChart:
    """Points with the bars of their intervals."""
    bar = base.transform_filter("datum.low !== null && datum.high !== null").mark_rule(clip=True)
    return layered(
        bar.encode(y=y("low"), y2="high:Q", **_colour_of(series)),
        points(base, y, **series),
    )


def points(base: alt.Chart, y: Vertical, **series: Any) -> alt.Chart:
    """The estimates themselves."""
    known: alt.Chart = base.transform_filter("datum.value !== null").mark_point(clip=True)
    return known.encode(y=y("value"), **series)


def off_the_axis(base: alt.Chart, rows: Sequence[Row], y: Vertical) -> list[alt.Chart]:
    """An arrow at each open end of a vertical interval, and a question mark for an interval with no
    known end."""
    found = _open_marks(base, rows, ("triangle-up", "triangle-down"))
    return [mark.encode(y=y(field)) for field, mark in found]


def off_the_side(base: alt.Chart, rows: Sequence[Row], x: Horizontal) -> list[alt.Chart]:
    """The same for horizontal intervals."""
    found = _open_marks(base, rows, ("triangle-right", "triangle-left"))
    return [mark.encode(x=x(field)) for field, mark in found]


def _open_marks(
    base: alt.Chart, rows: Sequence[Row], arrows: tuple[str, str]
) -> list[tuple[str, alt.Chart]]:
    """The field at which each mark is drawn, and the mark."""
    found = {row["open"] for row in rows}
    marks: list[tuple[str, alt.Chart]] = []
    for kind, field, shape in zip((OPEN_ABOVE, OPEN_BELOW), ("high", "low"), arrows, strict=True):
        if kind in found:
            marks.append((field, _only(base, kind).mark_point(style="open", shape=shape)))
    if UNKNOWN in found:
        marks.append(
            ("middle", _only(base, UNKNOWN).mark_text(style="unknown", text="?", clip=True))
        )
    return marks


def named_series(names: Sequence[str]) -> dict[str, Any]:
    """Colour and shape by `series`, so that series never differ by colour alone. Two or more have a
    legend."""
    legend = (
        alt.Legend(title=None, columns=alt.ExprRef("max(1, floor(width / 210))"))
        if len(names) > 1
        else None
    )
    domain = list(names)
    return {
        "color": alt.Color("series:N", scale=alt.Scale(domain=domain), legend=legend),
        "shape": alt.Shape(
            "series:N",
            scale=alt.Scale(domain=domain, range=list(SHAPES[: len(domain)])),
            legend=legend,
        ),
    }


def tooltip(place: str) -> list[alt.Tooltip]:
    """The place, and the estimate as text."""
    return [
        alt.Tooltip(place, format=",d") if place.endswith(":Q") else alt.Tooltip(place),
        alt.Tooltip("interval:N"),
    ]


def _colour_of(series: dict[str, Any]) -> dict[str, Any]:
    """Colour without shape: a line with a shape would be drawn with points."""
    return {"color": series["color"]} if series else {}


def _only(base: alt.Chart, kind: str) -> alt.Chart:
    chart: alt.Chart = base.transform_filter(alt.datum.open == kind)
    return chart
