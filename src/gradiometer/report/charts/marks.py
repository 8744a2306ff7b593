"""How an interval is drawn: as a band or a bar, and an open end as an arrow at the edge of the
axis."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import altair as alt

from gradiometer.report.charts.axes import OPEN_ABOVE, OPEN_BELOW, UNKNOWN, LogAxis
from gradiometer.report.charts.theme import CHARTS, DASHES, HEIGHT, POINTS, SHAPES, THEME, WIDTH

Row = dict[str, Any]
"""One drawn interval: `value`, `low` and `high` (None if unknown), `interval` as text, and its
place."""
Vertical = Callable[[str], alt.Y]
Horizontal = Callable[[str], alt.X]
"""The vertical and the horizontal channel of a chart, for a field of its rows."""

Layer = alt.Chart | alt.LayerChart

# Number format of an axis whose ticks we choose: 0.05, 1,200, 1e-7.
NUMBER = ",~g"

# Number format of an axis whose ticks d3 chooses (`g` would write 400 as 4e+2 there): 0.05, 1,200.
PLAIN = ",~r"


def inline(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Rows as the data of a chart. They are a tuple because altair copies a list once per layer."""
    return alt.InlineData(values=tuple(rows))


def by_step(rows: Sequence[Row], x: Horizontal | None = None) -> alt.Chart:
    """Rows along the run, or another axis of steps, each with a tooltip."""
    return alt.Chart(inline(rows)).encode(x=(x or step_x)("step"), tooltip=tooltip("step:Q"))


def step_x(field: str) -> alt.X:
    """The step axis that all charts of a run share. The page sets `span` in every chart."""
    return alt.X(
        field,
        type="quantitative",
        scale=alt.Scale(
            domainRaw=alt.ExprRef("span"), nice=False, zero=True, padding=CHARTS.step_padding
        ),
        axis=_step_axis(),
    )


def own_step_x(field: str) -> alt.X:
    """The step axis of a chart that shows only a part of a run, whatever the zoom of the page."""
    scale = alt.Scale(zero=False, nice=False, padding=CHARTS.step_padding)
    return alt.X(field, type="quantitative", scale=scale, axis=_step_axis())


def _step_axis() -> alt.Axis:
    return alt.Axis(
        title="step",
        format=",d",
        tickMinStep=1,
        tickCount=alt.ExprRef("max(2, width / 90)"),
        # a short run has ticks between steps
        labelExpr="datum.value === floor(datum.value) ? datum.label : ''",
    )


def along_steps(*layers: Layer) -> alt.LayerChart:
    """Layers over the shared step axis. The whole run is shown until `span` is set."""
    chart = layered(*layers)
    # In place, because altair's `properties` and `add_params` each copy the whole chart.
    chart.params = [cast("alt.VariableParameter", alt.param(name="span", value=None).param)]
    chart.width = WIDTH
    chart.height = HEIGHT
    return chart


def layered(*layers: Layer) -> alt.LayerChart:
    """Layers on the same axes. They are flattened because altair copies nested layers
    many times."""
    flat: list[Layer] = []
    for layer in layers:
        if isinstance(layer, alt.LayerChart) and layer.params is alt.Undefined:
            for part in layer.layer:
                own = cast("alt.Chart", part.copy(deep=False))
                # the data that altair moved to their parent
                own.data = layer.data if own.data is alt.Undefined else own.data
                flat.append(own)
        else:
            flat.append(layer)
    return cast("alt.LayerChart", alt.layer(*flat))  # only a facet would make it a FacetChart


def log_y(axis: LogAxis, title: str, format: str = NUMBER) -> Vertical:
    """A logarithmic vertical axis."""
    return lambda field: alt.Y(field, **_logarithmic(axis, title, format))


def log_x(axis: LogAxis, title: str) -> Horizontal:
    """A logarithmic horizontal axis."""
    return lambda field: alt.X(field, **_logarithmic(axis, title, NUMBER))


def _logarithmic(axis: LogAxis, title: str, format: str) -> dict[str, Any]:
    return {
        "type": "quantitative",
        "scale": alt.Scale(type="log", domain=[axis.low, axis.high], nice=False),
        "axis": alt.Axis(title=title, values=axis.ticks, format=format),
    }


def linear_y(title: str, format: str = PLAIN, scale: alt.Scale | None = None) -> Vertical:
    """A linear vertical axis that fits the data; it does not have to include zero."""
    axis = alt.Axis(title=title, format=format, tickCount=CHARTS.ticks)
    return lambda field: alt.Y(
        field, type="quantitative", scale=scale or alt.Scale(zero=False), axis=axis
    )


def linear_x(title: Any, scale: alt.Scale, format: str = PLAIN, **axis: Any) -> Horizontal:
    """A linear horizontal axis."""
    drawn = alt.Axis(title=title, format=format, **axis)
    return lambda field: alt.X(field, type="quantitative", axis=drawn, scale=scale)


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
    marks = _open_marks(base, rows, "triangle-up", "triangle-down")
    return [mark.encode(y=y(field)) for field, mark in marks]


def _open_marks(
    base: alt.Chart, rows: Sequence[Row], above: str, below: str
) -> list[tuple[str, alt.Chart]]:
    """The field at which each mark is drawn, and the mark."""
    kinds = {row.get("open") for row in rows}
    marks: list[tuple[str, alt.Chart]] = []
    for kind, field, shape in ((OPEN_ABOVE, "high", above), (OPEN_BELOW, "low", below)):
        if kind in kinds:
            ends = base.transform_filter(alt.datum.open == kind)
            marks.append((field, ends.mark_point(style="open", shape=shape)))
    if UNKNOWN in kinds:
        unknown = base.transform_filter(alt.datum.open == UNKNOWN)
        marks.append(("middle", unknown.mark_text(style="unknown", text="?", clip=True)))
    return marks


def curves(
    named: Mapping[str, Sequence[tuple[Any, Any]]],
    y: Vertical,
    row: Callable[[Any], Row],
    *,
    apart: Collection[str] = (),
    x: Horizontal | None = None,
) -> list[Layer]:
    """Curves that differ in colour, shape and dash, as lines with bands, or as bars if they have
    too few points for a line. Open ends have arrows.

    Args:
        named: The curves, by their names in the legend.
        y: The vertical axis.
        row: How an estimate is placed on it.
        apart: Names of the curves whose points are not joined.
        x: The horizontal axis; by default that of the steps of a run.
    """
    series = named_series(list(named))
    layers: list[Layer] = []
    for (name, curve), dash in zip(named.items(), DASHES, strict=False):
        rows = [{"step": step, "series": name, **row(estimate)} for step, estimate in curve]
        base = by_step(rows, x)
        if name in apart or len(rows) < 3:
            layers.append(bars(base, y, **series))
        else:
            layers.append(band(base, y, dash, **series))
            # The points give the legend its shapes: some, evenly chosen, and each value without a
            # neighbour in the line.
            stride = -(-len(rows) // POINTS.line)
            known = [False, *(each["value"] is not None for each in rows), False]
            kept = [
                each
                for at, each in enumerate(rows)
                if at % stride == 0 or known[at : at + 3] == [False, True, False]
            ]
            layers.append(points(by_step(kept, x), y, **series))
        layers += [mark.encode(color=series["color"]) for mark in off_the_axis(base, rows, y)]
    return layers


def across(rows: Sequence[Row], place: str, x: Horizontal) -> list[alt.Chart]:
    """Horizontal intervals below each other, in the order given, with arrows at their open ends.

    Args:
        rows: The intervals.
        place: The field that names them.
        x: The horizontal axis.
    """
    y = alt.Y(f"{place}:N", sort=None, axis=alt.Axis(title=None, grid=True))
    base = alt.Chart(inline(rows)).encode(y=y, tooltip=tooltip(f"{place}:N"))
    ends = base.transform_filter("datum.low !== null && datum.high !== null")
    known = base.transform_filter("datum.value !== null")
    arrows = _open_marks(base, rows, "triangle-right", "triangle-left")
    # a width in a style does not reach a rule
    thick = ends.mark_rule(style="interval", strokeWidth=THEME["interval_width"])
    return [
        thick.encode(x=x("low"), x2="high:Q"),
        known.mark_point(style="estimate").encode(x=x("value")),
        *(mark.encode(x=x(field)) for field, mark in arrows),
    ]


def level(y: Vertical, value: float, label: str, *, at_end: bool = False) -> list[alt.Chart]:
    """A horizontal rule with its label at its start or its end."""
    base = alt.Chart(alt.Data(values=[{"at": value, "label": label}]))
    text = base.mark_text(style=["reference-label", "above-end" if at_end else "above-start"])
    place = alt.value(alt.ExprRef("width") if at_end else 0)
    return [
        base.mark_rule(style="reference").encode(y=y("at")),
        text.encode(y=y("at"), x=place, text="label:N"),
    ]


def upright(x: Horizontal, labels: Mapping[Any, str], style: str = "right-of") -> list[alt.Chart]:
    """Vertical rules with their labels at the top.

    Args:
        x: The horizontal axis.
        labels: The labels by their places.
        style: Where a label is, as in the theme: "right-of" or "left-of" its rule, or "above-start"
            for above the chart.
    """
    rows = [{"at": at, "label": label} for at, label in labels.items()]
    base = alt.Chart(alt.Data(values=rows))
    text = base.mark_text(style=["reference-label", style])
    return [
        base.mark_rule(style="reference").encode(x=x("at")),
        text.encode(x=x("at"), y=alt.value(0), text="label:N"),
    ]


def side_of_zero(rows: Iterable[Mapping[str, Any]]) -> str:
    """The style of a label at zero, on the side where the intervals of the rows go further."""
    ends = [end for row in rows for end in (row["low"], row["high"]) if end is not None]
    goes_right = max(ends, default=0.0) >= -min(ends, default=0.0)
    return "above-start" if goes_right else "above-end"


def in_usual_width(*layers: Layer, height: int = HEIGHT) -> alt.LayerChart:
    """Layers as a chart of the usual width."""
    return layered(*layers).properties(width=WIDTH, height=height)


def named_series(names: Sequence[str]) -> dict[str, Any]:
    """Colour and shape by `series`, so that series never differ by colour alone. Two or more have a
    legend."""
    legend = None
    if len(names) > 1:
        room = CHARTS.legend_letter * max(map(len, names)) + CHARTS.legend_symbol
        legend = alt.Legend(title=None, columns=alt.ExprRef(f"max(1, floor(width / {room}))"))
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
