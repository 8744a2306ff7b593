"""The pictures of the lecture. The prediction is diamonds on a dashed line, the measurement is
points with bars."""

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import vl_convert

from gradiometer.lab.lecture.experiment import Experiment, ExperimentResult
from gradiometer.measurement.estimate import Estimate
from gradiometer.report.charts.axes import LogAxis, plain_row
from gradiometer.report.charts.charts import vl_version
from gradiometer.report.charts.marks import (
    NUMBER,
    Row,
    Vertical,
    bars,
    layered,
    linear_y,
    log_x,
    log_y,
    named_series,
    off_the_axis,
)
from gradiometer.report.charts.theme import PAGE, PAGE_FONT, config

WIDTH, HEIGHT = 430, 250
"""Small enough to read on a telephone, on which a picture is as wide as the screen."""

DOTTED, DASH_DOTTED = [1, 4], [8, 4, 1, 4]

PREDICTED, MEASURED = "predicted", "measured"
CLAIM, WRONG = "the claim", "a wrong theory"
Horizontal = Callable[[str], alt.X]
"""The horizontal channel of a picture, for a field of its rows."""


def svg(outcome: ExperimentResult, *, with_measurement: bool = True, page: str = "") -> str:
    """The picture as SVG in the page's own colours, so that it fits dark mode and print.

    Args:
        outcome: What is drawn.
        with_measurement: False to draw the prediction alone.
        page: A prefix for the names inside, for a page with pictures of several statements.
    """
    spec = chart(outcome, with_measurement=with_measurement).to_dict() | {
        "config": config(PAGE, PAGE_FONT)
    }
    drawn: str = vl_convert.vegalite_to_svg(json.dumps(spec), vl_version())
    # Several pictures share a page: the ids of their clips and gradients must differ.
    place = f"{page}{outcome.experiment.name}-{'both' if with_measurement else 'predicted'}-"
    return re.sub(r'(id="|url\(#)(clip|gradient)', rf"\1{place}\2", drawn)


def chart(outcome: ExperimentResult, *, with_measurement: bool = True) -> alt.LayerChart:
    """Prediction and measurement along the dial; a claim that fails is a dotted line, a wrong
    theory a dash-dotted one.

    The axes fit both, also if the prediction is drawn alone, so that the two pictures match.
    """
    experiment = outcome.experiment
    claimed = experiment.claimed
    others = (*claimed, *outcome.rival)
    drawn = [*outcome.predicted, *outcome.measured]
    if experiment.log:
        vertical = LogAxis.holding(drawn, also=others)
        y, row = log_y(vertical, experiment.quantity), vertical.row
    else:
        y, row = _linear([*drawn, *map(Estimate.exact, others)], experiment.quantity), plain_row
    x = _dial(experiment)
    theories = {CLAIM: (claimed, DOTTED), WRONG: (outcome.rival, DASH_DOTTED)}
    theories = {name: theory for name, theory in theories.items() if theory[0]}
    series = _series([*([MEASURED] if with_measurement else []), PREDICTED, *theories])
    layers: list[alt.Chart | alt.LayerChart] = []
    for name, (values, dash) in theories.items():
        layers += _theory_layers(experiment, name, values, dash, x, y, series)
    predicted = _rows(experiment.points, outcome.predicted, PREDICTED, row)
    layers += _prediction_layers(predicted, x, y, series)
    if with_measurement:
        rows = _rows(experiment.points, outcome.measured, MEASURED, row)
        base = _base(rows, x)
        layers += [bars(base, y, **series), *off_the_axis(base, rows, y)]
    return layered(*layers).properties(width=WIDTH, height=HEIGHT)


def _series(drawn: Sequence[str]) -> dict[str, Any]:
    """Colour and shape of each series, the same in all pictures. The legend names those that are
    drawn."""
    series = named_series((MEASURED, PREDICTED, CLAIM, WRONG))
    for channel in series.values():
        channel.legend = alt.Legend(title=None, values=list(drawn), columns=2, labelLimit=200)
    return series


def _prediction_layers(
    rows: Sequence[Row], x: Horizontal, y: Vertical, series: dict[str, Any]
) -> list[alt.Chart | alt.LayerChart]:
    base, colour = _base(rows, x), series["color"]
    known = base.transform_filter("datum.value !== null")
    area = base.transform_filter("datum.low !== null && datum.high !== null").mark_area()
    return [
        area.encode(y=y("low"), y2="high:Q", color=colour),
        known.mark_line(strokeDash=[6, 3], strokeWidth=1.25).encode(y=y("value"), color=colour),
        known.mark_point(size=110, filled=False, strokeWidth=1.5).encode(y=y("value"), **series),
        *off_the_axis(base, rows, y),
    ]


def _rows(
    points: Sequence[float] | Sequence[int],
    estimates: Sequence[Estimate],
    name: str,
    row: Callable[[Estimate], Row],
) -> list[Row]:
    plain = {"series": name, "open": "", "middle": None}
    return [
        plain | {"dial": point, **row(estimate)}
        for point, estimate in zip(points, estimates, strict=True)
    ]


def _base(rows: Sequence[Row], x: Horizontal) -> alt.Chart:
    return alt.Chart(alt.Data(values=list(rows))).encode(x=x("dial"))


def _dial(experiment: Experiment) -> Horizontal:
    if experiment.log_dial and min(experiment.points) > 0:
        return log_x(
            LogAxis.holding([Estimate.exact(float(point)) for point in experiment.points]),
            experiment.dial,
        )
    scale, axis = (
        alt.Scale(zero=False, padding=12),
        alt.Axis(title=experiment.dial, format=NUMBER, tickCount=6),
    )
    if all(float(point).is_integer() for point in experiment.points):
        axis.tickMinStep = 1
    return lambda field: alt.X(field, type="quantitative", scale=scale, axis=axis)


def _linear(estimates: Sequence[Estimate], title: str) -> Vertical:
    ends = [
        end for each in estimates for end in (each.low, each.value, each.high) if math.isfinite(end)
    ]
    room = 0.06 * (max(ends) - min(ends))
    return linear_y(
        title, NUMBER, alt.Scale(domain=[min(ends) - room, max(ends) + room], nice=False)
    )


def _theory_layers(
    experiment: Experiment,
    name: str,
    values: Sequence[float],
    dash: list[int],
    x: Horizontal,
    y: Vertical,
    series: dict[str, Any],
) -> list[alt.Chart | alt.LayerChart]:
    """What another theory says, as a line with points. A log axis leaves out zero."""
    rows = [
        {"dial": point, "theory": value, "series": name}
        for point, value in zip(experiment.points, values, strict=True)
        if value > 0 or not experiment.log
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(x=x("dial"))
    line = base.mark_line(strokeDash=dash, strokeCap="round", strokeWidth=1.25)
    return [
        line.encode(y=y("theory"), color=series["color"]),
        base.mark_point(filled=False, size=36).encode(y=y("theory"), **series),
    ]
