"""How an interval is drawn: as a band or a bar, and where it has no end, as an arrow off the axis."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import altair as alt

from gradiometer.measurement.estimate import Estimate
from gradiometer.report.charts.axes import OPEN_ABOVE, OPEN_BELOW, UNKNOWN, LogAxis
from gradiometer.report.charts.theme import SHAPES

Row = dict[str, Any]
"""One drawn interval: `value`, `low`, `high` (None where there is none), `interval` in words, and its place."""
Vertical = Callable[[str], alt.Y]
"""The vertical channel of a chart, for a field of its rows."""

Windows = Sequence[tuple[int, Estimate]]
"""Estimates along a run: the step each window ends at, and its estimate."""

WIDTH, HEIGHT = 680, 280
NUMBER = ",~g"
"""Numbers on an axis with ticks of its own: 0.05, 1,200, 1e-7."""
PLAIN = ",~r"
"""Numbers on an axis whose ticks are d3's, which has `g` write 400 as 4e+2 there: 0.05, 1,200."""


def inline(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Rows as a chart holds them. A tuple, which altair leaves alone where it copies a list at every layer."""
    return alt.InlineData(values=tuple(rows))


def by_step(rows: Sequence[Row]) -> alt.Chart:
    """Rows along the run, each with its numbers at hand when pointed at."""
    return alt.Chart(inline(rows)).encode(x=step_x(), tooltip=tooltip("step:Q"))


def step_x() -> alt.X:
    """The step axis, which all charts of a run share: the page sets `span` in every one of them."""
    whole = "datum.value === floor(datum.value) ? datum.label : ''"  # few steps have ticks between them
    axis = alt.Axis(
        title="step", format=",d", tickMinStep=1, tickCount=alt.ExprRef("max(2, width / 90)"), labelExpr=whole
    )
    return alt.X("step:Q", scale=alt.Scale(domainRaw=alt.ExprRef("span"), nice=False, zero=True, padding=8), axis=axis)


def along_steps(*layers: alt.Chart | alt.LayerChart) -> alt.LayerChart:
    """Layers over the shared step axis, whole until `span` is set to a part of it."""
    chart = layered(*layers)
    # In place: altair's own `properties` and `add_params` copy the whole chart each.
    chart.params = [cast("alt.VariableParameter", alt.param(name="span", value=None).param)]
    chart.width, chart.height = WIDTH, HEIGHT
    return chart


def layered(*layers: alt.Chart | alt.LayerChart) -> alt.LayerChart:
    """One above the other, on the same axes; laid flat, since altair copies what is nested many times over."""
    flat = [part for layer in layers for part in _parts(layer)]
    return cast("alt.LayerChart", alt.layer(*flat))  # a facet among them would make it a FacetChart


def _parts(layer: alt.Chart | alt.LayerChart) -> Sequence[alt.Chart | alt.LayerChart]:
    """The layers of a layer, each with the data that altair has moved up from them."""
    if not isinstance(layer, alt.LayerChart) or layer.params is not alt.Undefined:
        return [layer]
    parts = [cast("alt.Chart", part.copy(deep=False)) for part in layer.layer]
    for part in parts:
        part.data = layer.data if part.data is alt.Undefined else part.data
    return parts


def log_y(axis: LogAxis, title: str) -> Vertical:
    """A logarithmic vertical axis."""
    scale = alt.Scale(type="log", domain=[axis.low, axis.high], nice=False)
    return lambda field: alt.Y(
        field, type="quantitative", scale=scale, axis=alt.Axis(title=title, values=axis.ticks, format=NUMBER)
    )


def log_x(axis: LogAxis, title: str) -> Callable[[str], alt.X]:
    """A logarithmic horizontal axis."""
    scale = alt.Scale(type="log", domain=[axis.low, axis.high], nice=False)
    return lambda field: alt.X(
        field, type="quantitative", scale=scale, axis=alt.Axis(title=title, values=axis.ticks, format=NUMBER)
    )


def linear_y(title: str, format: str = PLAIN, scale: alt.Scale | None = None) -> Vertical:
    """A linear vertical axis, as near to the data as it comes."""
    scale, axis = scale or alt.Scale(zero=False), alt.Axis(title=title, format=format, tickCount=6)
    return lambda field: alt.Y(field, type="quantitative", scale=scale, axis=axis)


def band(base: alt.Chart, y: Vertical, dash: Sequence[int] = (1, 0), **series: Any) -> alt.LayerChart:
    """A line with the band of its intervals; it is broken where there is no estimate, the band where an end lacks."""
    area = base.mark_area(clip=True)
    line = base.mark_line(clip=True, strokeDash=list(dash))
    return layered(
        area.encode(y=y("low"), y2="high:Q", **_colour_of(series)), line.encode(y=y("value"), **_colour_of(series))
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
    """What cannot be drawn in place: an arrow at the end that is open, a question mark where nothing is known."""
    found = {row["open"] for row in rows}
    layers = []
    if OPEN_ABOVE in found:
        layers.append(_arrow(base, OPEN_ABOVE, "triangle-up").encode(y=y("high")))
    if OPEN_BELOW in found:
        layers.append(_arrow(base, OPEN_BELOW, "triangle-down").encode(y=y("low")))
    if UNKNOWN in found:
        layers.append(_question_mark(base).encode(y=y("middle")))
    return layers


def off_the_side(base: alt.Chart, rows: Sequence[Row], x: Callable[[str], alt.X]) -> list[alt.Chart]:
    """The same for horizontal intervals."""
    found = {row["open"] for row in rows}
    layers = []
    if OPEN_ABOVE in found:
        layers.append(_arrow(base, OPEN_ABOVE, "triangle-right").encode(x=x("high")))
    if OPEN_BELOW in found:
        layers.append(_arrow(base, OPEN_BELOW, "triangle-left").encode(x=x("low")))
    if UNKNOWN in found:
        layers.append(_question_mark(base).encode(x=x("middle")))
    return layers


def named_series(names: Sequence[str]) -> dict[str, Any]:
    """Colour and shape by `series`, so that none is told by colour alone; a legend where there are two."""
    legend = alt.Legend(title=None, columns=alt.ExprRef("max(1, floor(width / 210))")) if len(names) > 1 else None
    domain = list(names)
    return {
        "color": alt.Color("series:N", scale=alt.Scale(domain=domain), legend=legend),
        "shape": alt.Shape(
            "series:N", scale=alt.Scale(domain=domain, range=list(SHAPES[: len(domain)])), legend=legend
        ),
    }


def tooltip(place: str) -> list[alt.Tooltip]:
    """Where, and the estimate in words."""
    return [alt.Tooltip(place, format=",d") if place.endswith(":Q") else alt.Tooltip(place), alt.Tooltip("interval:N")]


def _colour_of(series: dict[str, Any]) -> dict[str, Any]:
    """Lines and bars have no shape: given one, a line is drawn with points."""
    return {"color": series["color"]} if series else {}


def _arrow(base: alt.Chart, which: str, shape: str) -> alt.Chart:
    arrow: alt.Chart = base.transform_filter(alt.datum.open == which).mark_point(style="open", shape=shape)
    return arrow


def _question_mark(base: alt.Chart) -> alt.Chart:
    mark: alt.Chart = base.transform_filter(alt.datum.open == UNKNOWN).mark_text(style="unknown", text="?", clip=True)
    return mark
