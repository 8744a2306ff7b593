"""The charts of a fork: the loss of all branches, and the effects as intervals against zero."""

from collections.abc import Mapping, Sequence

import altair as alt

from gradiometer.measurement.estimate import Estimate
from gradiometer.report.charts.axes import plain_row
from gradiometer.report.charts.marks import (
    HEIGHT,
    PLAIN,
    WIDTH,
    band,
    inline,
    layered,
    linear_y,
    named_series,
    points,
    tooltip,
)
from gradiometer.report.charts.theme import DASHES

MOST = len(DASHES)
"""Most series of a chart: each has its own colour, shape and dash."""


def branches_chart(
    curves: Mapping[str, Sequence[tuple[float, float, float, float]]],
) -> alt.LayerChart:
    """The mini-batch loss of the branches, as the mean over replicates with the band from the
    lowest to the highest.

    Args:
        curves: By alternative: step, mean, lowest and highest loss. At most six alternatives.
    """
    axis = alt.Axis(title="step", format=",d", tickCount=alt.ExprRef("max(2, width / 90)"))
    x = alt.X("step:Q", axis=axis, scale=alt.Scale(zero=False, nice=False, padding=8))
    y, names = linear_y("mini-batch loss"), list(curves)
    series = named_series(names)
    layers: list[alt.Chart | alt.LayerChart] = []
    for (name, curve), dash in zip(curves.items(), DASHES, strict=False):
        rows = [
            {
                "step": step,
                "series": name,
                "value": mean,
                "low": low,
                "high": high,
                "interval": f"{name}: {mean:.3g}",
            }
            for step, mean, low, high in curve
        ]
        base = alt.Chart(inline(rows)).encode(x=x, tooltip=tooltip("step:Q"))
        layers += [band(base, y, dash, **series), points(base, y, **series)]
    return layered(*layers).properties(width=WIDTH, height=HEIGHT)


def effects_chart(
    effects: Mapping[str, Estimate], in_general: Mapping[str, Estimate], title: str
) -> alt.LayerChart:
    """The effects of alternatives as horizontal intervals against zero.

    Args:
        effects: By alternative; those that are not known are drawn as a question mark.
        in_general: The wider intervals, if they are known.
        title: Title of the horizontal axis.
    """

    def x(field: str) -> alt.X:
        axis = alt.Axis(title=title, format=PLAIN, tickCount=6)
        return alt.X(field, type="quantitative", axis=axis, scale=alt.Scale(zero=True, padding=12))

    place = alt.Y("alternative:N", sort=None, axis=alt.Axis(title=None, labelLimit=200, grid=True))
    thick, thin = (_rows(found) for found in (effects, in_general))
    base = alt.Chart(inline(thick)).encode(y=place, tooltip=tooltip("alternative:N"))
    known = base.transform_filter("datum.low !== null && datum.high !== null")
    wide = (
        alt.Chart(inline(thin))
        .transform_filter("datum.low !== null && datum.high !== null")
        .encode(y=place)
    )
    zero = alt.Chart(alt.Data(values=[{"value": 0, "label": "going on as it is"}]))
    label = zero.mark_text(style="reference-label", align="left", baseline="bottom", dx=5)
    return layered(
        wide.mark_rule(strokeWidth=1.5).encode(x=x("low"), x2="high:Q"),
        known.mark_rule(strokeWidth=6, opacity=0.4).encode(x=x("low"), x2="high:Q"),
        base.transform_filter("datum.value !== null").mark_point(size=64).encode(x=x("value")),
        base.transform_filter("datum.value === null")
        .mark_text(style="unknown", text="?")
        .encode(x=alt.datum(0)),
        zero.mark_rule(style="reference").encode(x=x("value")),
        label.encode(x=x("value"), y=alt.value(-4), text="label:N"),
    ).properties(width=WIDTH, height=34 * max(len(thick), 1))


def _rows(found: Mapping[str, Estimate]) -> list[dict[str, object]]:
    return [{"alternative": name, **plain_row(estimate)} for name, estimate in found.items()]
