"""The charts of a run, one function each, and how they are written: for the page, as
PNG or as SVG."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from gradiometer.measurement.estimate import Estimate
from gradiometer.report.charts.axes import LogAxis, plain_row
from gradiometer.report.charts.blocks import Block
from gradiometer.report.charts.marks import (
    HEIGHT,
    WIDTH,
    Curve,
    along_steps,
    band,
    bars,
    by_step,
    inline,
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
from gradiometer.report.charts.theme import DASHES, LIGHT, Palette, config
from gradiometer.storage.disk import replace_file

STEEP = 20
"""A loss that falls by more than this factor is drawn on a logarithmic axis."""


def loss_chart(
    training: Sequence[Block],
    test: Curve,
    batches: Sequence[tuple[int, float]] = (),
    events: Sequence[tuple[int, str]] = (),
    readings: Sequence[int] = (),
    guess: float | None = None,
    tried: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> alt.LayerChart:
    """Training loss as block means with the band of their intervals; test loss as points with bars.

    Args:
        training: The blocks, in order.
        test: The test loss along the run; may be empty.
        batches: The losses of single batches, drawn as a line if there are too few blocks for one;
            otherwise empty.
        events: Step and description of each event, such as a spike, drawn as vertical lines.
        readings: The measured steps, drawn as ticks on the step axis.
        guess: The loss of the best answer that does not look at its input, drawn as a level.
        tried: By alternative, step and loss of branches that were trained from this run.
    """
    tried = tried or {}
    names = ["training loss"] * bool(training) + ["test loss"] * bool(test) + list(tried)
    estimates = [block.mean for block in training] + [estimate for _, estimate in test]
    estimates += [Estimate.exact(loss) for _, loss in batches]
    estimates += [Estimate.exact(loss) for curve in tried.values() for _, loss in curve]
    if guess is not None:
        estimates.append(Estimate.exact(guess))
    axis = LogAxis.holding(estimates)
    title = "loss, mean over examples"
    y, row = (
        (log_y(axis, title), axis.row) if _steep(estimates, axis) else (linear_y(title), plain_row)
    )
    curve = by_step(
        [{"step": block.middle, "series": names[0], **row(block.mean)} for block in training]
    )
    tests = by_step(
        [{"step": step, "series": "test loss", **row(estimate)} for step, estimate in test]
    )
    series = named_series(names)
    layers = [band(curve, y, **series)] * bool(training and not batches)
    if batches:
        single = by_step(
            [
                {"step": step, "series": names[0], **row(Estimate.exact(loss))}
                for step, loss in batches
            ]
        )
        layers = [
            band(single, y, **series),
            *([bars(curve, y, **series)] if all(block.mean.tells for block in training) else []),
        ]
    layers += [bars(tests, y, **series)] * bool(test)
    for (name, curve_tried), dash in zip(tried.items(), DASHES[1:], strict=False):
        branch = by_step(
            [
                {"step": step, "series": name, **row(Estimate.exact(loss))}
                for step, loss in curve_tried
            ]
        )
        layers.append(band(branch, y, dash, **series))
    if guess is not None:
        level = alt.Chart(alt.Data(values=[{"guess": guess, "label": "a guess"}]))
        label = level.mark_text(
            style="reference-label", align="right", baseline="bottom", dx=-4, dy=-3
        )
        layers.append(level.mark_rule(style="reference").encode(y=y("guess")))
        layers.append(label.encode(y=y("guess"), x=alt.value(alt.ExprRef("width")), text="label:N"))
    if events:
        marks = by_step([{"step": step, "interval": words} for step, words in events])
        layers.append(marks.mark_rule(style="event", clip=True))
    if readings:
        ticks = by_step([{"step": step, "interval": "measured"} for step in readings])
        bottom = alt.ExprRef("height")
        layers.append(ticks.mark_tick(style="reading", clip=True).encode(y=alt.YValue(bottom)))
    return along_steps(*layers)


def accuracy_chart(test: Curve) -> alt.LayerChart:
    """Test accuracy as points with the bars of their intervals."""
    base = by_step([{"step": step, **plain_row(estimate)} for step, estimate in test])
    return along_steps(bars(base, linear_y("share of test examples classified correctly", "~%")))


def noise_scale_chart(curve: Curve, batch_size: float) -> alt.LayerChart:
    """The gradient noise scale along the run, with a labelled rule at the batch size B.

    A point whose interval has no upper end is drawn as open at the top.
    """
    axis = LogAxis.holding((estimate for _, estimate in curve), also=(batch_size,))
    rows, y = axis.rows(curve), log_y(axis, "examples")
    base, reference = by_step(rows), _batch_size(batch_size)
    rule = reference.mark_rule(style="reference").encode(y=y("batch_size"))
    label = reference.mark_text(
        style="reference-label", align="left", baseline="bottom", dx=4, dy=-4
    )
    return along_steps(
        band(base, y),
        bars(base, y) if len(rows) < 3 else points(base, y),
        *off_the_axis(base, rows, y),
        rule,
        label.encode(y=y("batch_size"), x=alt.value(0), text="label:N"),
    )


def noise_and_gradient_chart(variance: Curve, norm_squared: Curve, unit: str) -> alt.LayerChart:
    """tr Σ and ‖g‖² along the run on one logarithmic axis. The distance between them is the noise
    scale."""
    axis = LogAxis.holding(estimate for _, estimate in (*variance, *norm_squared))
    y, series = (
        log_y(axis, unit),
        named_series(names := ("tr Σ, gradient variance", "‖g‖², squared gradient norm")),
    )
    layers: list[alt.Chart | alt.LayerChart] = []
    for name, curve, dash in zip(names, (variance, norm_squared), ([1, 0], [6, 3]), strict=True):
        rows = [{**row, "series": name} for row in axis.rows(curve)]
        base = by_step(rows)
        layers.append(band(base, y, dash, **series))
        layers.append(bars(base, y, **series) if len(rows) < 3 else points(base, y, **series))
        layers += [layer.encode(color=series["color"]) for layer in off_the_axis(base, rows, y)]
    return along_steps(*layers)


def layers_chart(estimates: Mapping[str, Estimate], batch_size: float) -> alt.LayerChart:
    """The noise scale of each layer, as horizontal intervals, in the order given."""
    axis = LogAxis.holding(estimates.values(), also=(batch_size,))
    rows = [{"layer": layer, **axis.row(estimate)} for layer, estimate in estimates.items()]
    place = alt.Y("layer:N", sort=None, axis=alt.Axis(title=None, labelLimit=130, grid=True))
    base = alt.Chart(inline(rows)).encode(y=place, tooltip=tooltip("layer:N"))
    x, reference = log_x(axis, "examples"), _batch_size(batch_size)
    label = reference.mark_text(style="reference-label", align="left", baseline="bottom", dx=5)
    return layered(
        base.mark_rule(strokeWidth=5, opacity=0.4).encode(x=x("low"), x2="high:Q"),
        base.transform_filter("datum.value !== null").mark_point(size=64).encode(x=x("value")),
        *off_the_side(base, rows, x),
        reference.mark_rule(style="reference").encode(x=x("batch_size")),
        label.encode(x=x("batch_size"), y=alt.value(-4), text="label:N"),
    ).properties(width=WIDTH, height=26 * len(rows))


def save_png(chart: alt.LayerChart, path: Path, title: str = "", palette: Palette = LIGHT) -> Path:
    """Write a chart as PNG, at twice the usual resolution."""
    replace_file(
        path, vl_convert.vegalite_to_png(_with_title(chart, title, palette), vl_version(), scale=2)
    )
    return path


def save_svg(chart: alt.LayerChart, path: Path, title: str = "", palette: Palette = LIGHT) -> Path:
    """Write a chart as SVG."""
    replace_file(
        path, vl_convert.vegalite_to_svg(_with_title(chart, title, palette), vl_version()).encode()
    )
    return path


def page_spec(chart: alt.LayerChart, description: str, highest: int = HEIGHT) -> dict[str, Any]:
    """A chart as the page embeds it: as wide as its column. The page has the colours of all charts
    once.

    Args:
        chart: The chart.
        description: Its text alternative.
        highest: Greatest height, in pixels.
    """
    # The tests check the schema. Checking it again for every page would double the time to write a
    # page.
    spec = chart.to_dict(validate=False)
    spec.pop("config", None)
    shortened: dict[str, Any] = _shortened(spec)
    return shortened | {
        "width": "container",
        "height": min(spec["height"], highest),
        "autosize": {"type": "fit-x", "contains": "padding"},
        "description": description,
    }


def _shortened(value: Any) -> Any:
    """The same with eight digits in every float, which no screen shows the end of."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {name: _shortened(part) for name, part in value.items()}
    return [_shortened(part) for part in value] if isinstance(value, list | tuple) else value


@cache
def vl_version() -> str:
    """Version of Vega-Lite in which the charts are written, in the format of vl-convert: 6.4."""
    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def _with_title(chart: alt.LayerChart, title: str, palette: Palette) -> str:
    spec = (chart.properties(title=title) if title else chart).to_dict()
    return json.dumps(spec | {"config": config(palette)})


def _steep(estimates: Sequence[Estimate], axis: LogAxis) -> bool:
    """True if all values are positive and they span more than a linear axis can show."""
    lowest = min((estimate.value for estimate in estimates), default=0.0)
    return lowest > 0 and axis.high / axis.low > STEEP


def _batch_size(batch_size: float) -> alt.Chart:
    return alt.Chart(
        alt.Data(values=[{"batch_size": batch_size, "label": f"B = {batch_size:,.0f}"}])
    )
