"""The charts of issue 4: the temperature of SGD along the run by source, where the heat goes, and
the layers."""

from collections.abc import Mapping

import altair as alt

from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.report.charts.axes import LogAxis, plain_row
from gradiometer.report.charts.marks import (
    WIDTH,
    Curve,
    Vertical,
    along_steps,
    band,
    bars,
    by_step,
    layered,
    linear_y,
    log_x,
    log_y,
    named_series,
    off_the_axis,
    off_the_side,
    points,
    tooltip,
)

DASHES = ([1, 0], [6, 3])


def heat_chart(parts: Mapping[str, Curve], unit: str) -> alt.LayerChart:
    """The temperature and the part of it that comes from batch noise, on a logarithmic axis.

    Args:
        parts: Curves by legend label, the whole temperature first.
        unit: The unit of all temperatures.
    """
    axis = LogAxis.holding(estimate for curve in parts.values() for _, estimate in curve)
    y, series = log_y(axis, unit), named_series(list(parts))
    layers: list[alt.Chart | alt.LayerChart] = []
    for (name, curve), dash in zip(parts.items(), DASHES, strict=False):
        rows = [{**row, "series": name} for row in axis.rows(curve)]
        base = by_step(rows)
        layers += _curve(base, y, len(rows), dash, series)
        layers += [layer.encode(color=series["color"]) for layer in off_the_axis(base, rows, y)]
    return along_steps(*layers)


def drift_share_chart(curve: Curve) -> alt.LayerChart:
    """The share of the heat that moves the mean position of Φ, with a rule at zero: no net
    movement."""
    y = linear_y("share of the heat", "~%")
    rows = [{"step": step, **plain_row(estimate)} for step, estimate in curve]
    zero = alt.Chart(alt.Data(values=[{"zero": 0.0, "label": "at rest"}]))
    label = zero.mark_text(style="reference-label", align="left", baseline="bottom", dx=4, dy=-4)
    return along_steps(
        zero.mark_rule(style="reference").encode(y=y("zero")),
        label.encode(y=y("zero"), x=alt.value(0), text="label:N"),
        *_curve(by_step(rows), y, len(rows), DASHES[0], {}),
    )


def layer_temperatures_chart(
    estimates: Mapping[str, Estimate], whole: Estimate, unit: str
) -> alt.LayerChart:
    """The temperature of each layer as horizontal intervals in the given order, with a rule at the
    whole model's."""
    axis = LogAxis.holding([*estimates.values(), whole])
    rows = [{"layer": layer, **axis.row(estimate)} for layer, estimate in estimates.items()]
    place = alt.Y("layer:N", sort=None, axis=alt.Axis(title=None, labelLimit=130, grid=True))
    base, x = (
        alt.Chart(alt.Data(values=rows)).encode(y=place, tooltip=tooltip("layer:N")),
        log_x(axis, unit),
    )
    layers = [
        base.mark_rule(strokeWidth=5, opacity=0.4).encode(x=x("low"), x2="high:Q"),
        base.transform_filter("datum.value !== null").mark_point(size=64).encode(x=x("value")),
        *off_the_side(base, rows, x),
    ]
    if whole.value > 0:
        rule = alt.Chart(
            alt.Data(values=[{"whole": whole.value, "label": f"all {significant(whole.value, 2)}"}])
        )
        label = rule.mark_text(style="reference-label", align="left", baseline="bottom", dx=5)
        layers.append(rule.mark_rule(style="reference").encode(x=x("whole")))
        layers.append(label.encode(x=x("whole"), y=alt.value(-4), text="label:N"))
    return layered(*layers).properties(width=WIDTH, height=26 * len(rows))


def _curve(
    base: alt.Chart, y: Vertical, count: int, dash: list[int], series: dict[str, object]
) -> list[alt.Chart | alt.LayerChart]:
    """A band with its points, or bars if there are too few points for a line."""
    if count < 3:
        return [bars(base, y, **series)]
    return [band(base, y, dash, **series), points(base, y, **series)]
