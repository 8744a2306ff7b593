"""The charts of a run, one function each, and how they are written: for the page, as PNG or as
SVG."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import altair as alt
import numpy as np
import vl_convert

from gradiometer.convergence.trajectory.trajectory import MoveLength
from gradiometer.drift.curvature_survey import SpectralDensity
from gradiometer.estimation.batch_table import BatchTable
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.report.charts.axes import Curve, LogAxis, plain_row
from gradiometer.report.charts.blocks import Block
from gradiometer.report.charts.marks import (
    PLAIN,
    Horizontal,
    Layer,
    Vertical,
    across,
    along_steps,
    band,
    bars,
    by_step,
    curves,
    in_usual_width,
    inline,
    level,
    linear_x,
    linear_y,
    log_x,
    log_y,
    named_series,
    own_step_x,
    points,
    side_of_zero,
    step_x,
    tooltip,
    upright,
)
from gradiometer.report.charts.theme import CHARTS, DASHES, HEIGHT, LIGHT, THEME, config
from gradiometer.storage.disk import replace_file

# Most series of a chart: each has its own colour, shape and dash.
MOST = len(DASHES)

GAINS = ("gain of a cut to zero", "possible gain without a cut")


def loss_chart(
    training: Sequence[Block],
    test: Curve,
    batches: Sequence[tuple[int, float]] = (),
    events: Sequence[tuple[int, str]] = (),
    readings: Sequence[int] = (),
    guess: float | None = None,
    place: tuple[int, str] | None = None,
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
        place: The step that the verdict is about, and what happened there, drawn as a labelled
            rule.
    """
    single = _exact(batches)
    # an interval without ends, as of a loss that is NaN, would be drawn over the whole height
    means = [(block.middle, block.mean) for block in training if np.isfinite(block.mean.value)]
    test = tuple((step, loss) for step, loss in test if np.isfinite(loss.value))
    names = []
    if training:
        names.append("training loss")
    if test:
        names.append("test loss")
    series = named_series(names)
    shown = [loss for curve in (means, single) for _, loss in curve]
    shown += [loss for _, loss in test]
    if guess is not None:
        shown.append(Estimate.exact(guess))
    axis = LogAxis.holding(shown)
    title = "loss, mean over examples"
    is_steep = _is_steep(shown, axis)
    y = log_y(axis, title) if is_steep else linear_y(title)
    row = axis.row if is_steep else plain_row

    def base(name: str, curve: Iterable[tuple[Any, Estimate]]) -> alt.Chart:
        return by_step([{"step": step, "series": name, **row(loss)} for step, loss in curve])

    layers: list[Layer] = []
    if batches:
        layers.append(band(base(names[0], single), y, **series))
    if training and not batches:
        layers.append(band(base(names[0], means), y, **series))
    elif training and all(block.mean.tells for block in training):
        layers.append(bars(base(names[0], means), y, **series))
    if test:
        layers.append(bars(base("test loss", test), y, **series))
    if guess is not None:
        layers += level(y, guess, "chance level", at_end=True)
    if events:
        marks = by_step([{"step": step, "interval": words} for step, words in events])
        layers.append(marks.mark_rule(style="event", clip=True))
    if place is not None:
        last = max([*(step for step, _ in (*means, *single, *test)), place[0]])
        share = place[0] / max(last, 1)
        # above the curve, unless the title of the axis is there
        beyond = "above-end" if share > CHARTS.late else "above-start"
        layers += upright(step_x, dict([place]), beyond if share > CHARTS.early else "right-of")
    if readings:
        ticks = by_step([{"step": step, "interval": "measured"} for step in readings])
        bottom = alt.YValue(alt.ExprRef("height"))
        layers.append(ticks.mark_tick(style="reading", clip=True).encode(y=bottom))
    return along_steps(*layers)


def tested_chart(
    before: Curve,
    branches: Mapping[str, Curve],
    start: int,
    ends: Mapping[str, float],
    span: tuple[int, int],
) -> alt.LayerChart:
    """The loss of a run, and of two copies of it that go on in different ways. The chart of their
    difference stands below it and has the numbers of the steps.

    Args:
        before: The training loss of the run up to the copies; may be empty.
        branches: The training loss of each copy.
        start: The step at which the copies begin, drawn as a labelled rule.
        ends: By the name of the copy, another loss at its end, drawn as a single point; may be
            empty.
        span: The first and the last step of the axis.
    """
    named: dict[str, Curve] = {"this run": before, **branches} if before else dict(branches)
    shown = [loss for curve in named.values() for _, loss in curve]
    last = {
        name: (span[1], Estimate.exact(loss)) for name, loss in ends.items() if np.isfinite(loss)
    }
    shown += [loss for _, loss in last.values()]
    axis = LogAxis.holding(shown)
    is_steep = _is_steep(shown, axis)
    y = _with_room(log_y(axis, "training loss") if is_steep else linear_y("training loss"))
    row = axis.row if is_steep else plain_row
    x = _steps_in(span, is_numbered=False)
    layers = curves(named, y, row, x=x)
    series = named_series(list(named))
    for name, (step, loss) in last.items():
        rows = [{"step": step, "series": name, **row(loss)}]
        layers.append(points(by_step(rows, x), y, **series))
    if before:
        is_late = start - span[0] > CHARTS.late * (span[1] - span[0])
        side = "above-end" if is_late else "above-start"
        layers += upright(x, {start: f"copies from step {start:,}"}, side)
    return in_usual_width(*layers)


def branch_difference_chart(
    difference: Curve, end: Estimate | None, span: tuple[int, int]
) -> alt.LayerChart:
    """The paired difference of two branches, with its band and a rule at zero.

    Args:
        difference: The difference along the branches.
        end: The effect at their end, drawn as a point with its bar; None to leave it out.
        span: The first and the last step of the axis: that of the chart above it.
    """
    x = _steps_in(span)
    y = _with_room(linear_y("difference", scale=alt.Scale(zero=True, nice=False)))
    rows = [{"step": step, **plain_row(estimate)} for step, estimate in difference]
    layers: list[Layer] = [band(by_step(rows, x), y)]
    if end is not None:
        layers.append(bars(by_step([{"step": span[1], **plain_row(end)}], x), y))
    zero = alt.Chart(alt.Data(values=[{"step": step, "at": 0} for step in span]))
    rule = zero.mark_line(style="reference", strokeWidth=1).encode(x=x("step"), y=y("at"))
    return in_usual_width(rule, *layers, height=CHARTS.difference_height)


def _steps_in(span: tuple[int, int], *, is_numbered: bool = True) -> Horizontal:
    """The axis of these steps, with or without its numbers."""
    axis = alt.Axis(title="step", format=",d", tickMinStep=1, tickCount=CHARTS.ticks)
    scale = alt.Scale(domain=list(span), nice=False, padding=CHARTS.step_padding)
    return lambda field: alt.X(
        field, type="quantitative", scale=scale, axis=axis if is_numbered else None
    )


def _with_room(y: Vertical) -> Vertical:
    """An axis whose numbers take the same width whatever they are, so that charts below each other
    share their steps."""

    def channel(field: str) -> alt.Y:
        made = y(field)
        for end in ("minExtent", "maxExtent"):
            made["axis"][end] = CHARTS.axis_room
        return made

    return channel


def accuracy_chart(test: Curve) -> alt.LayerChart:
    """Test accuracy as points with the bars of their intervals."""
    base = by_step([{"step": step, **plain_row(estimate)} for step, estimate in test])
    return along_steps(bars(base, linear_y("share of test examples classified correctly", "~%")))


def curves_chart(
    named: Mapping[str, Curve],
    title: str,
    scale: Literal["log", "linear", "by range"] = "log",
    format: str = PLAIN,
    at: tuple[float, str] | None = None,
) -> alt.LayerChart:
    """Up to six curves along the run on one axis, each with the band of its intervals.

    Args:
        named: Estimates along the run, by the name of the curve.
        title: Title of the vertical axis.
        scale: That of the vertical axis; "by range" is logarithmic for steep curves.
        format: Number format of a linear axis.
        at: A level, and its label.
    """
    estimates = [estimate for curve in named.values() for _, estimate in curve]
    axis = LogAxis.holding(estimates, also=() if at is None else at[:1])
    if scale == "log" or (scale == "by range" and _is_steep(estimates, axis)):
        y, row = log_y(axis, title), axis.row
    else:
        y, row = linear_y(title, format), plain_row
    rule = [] if at is None else level(y, *at)
    return along_steps(*curves(named, y, row), *rule)


def noise_scale_chart(curve: Curve, batch_size: float) -> alt.LayerChart:
    """The gradient noise scale along the run, with a labelled rule at the batch size B.

    A point whose interval has no upper end is drawn as open at the top.
    """
    at = batch_size, f"B = {batch_size:,.0f}"
    return curves_chart({"noise scale": curve}, "examples", at=at)


def batch_chart(table: BatchTable, proposed: int | None = None) -> alt.LayerChart:
    """The trade-off of the batch size: updates against examples, both relative to the current batch
    size, with a point for each batch size.

    Args:
        table: The forecast.
        proposed: A batch size of the table that is advised, marked beside that of now; None for
            none.
    """
    axis = LogAxis.holding(row.updates for row in table.rows)
    across_axis = LogAxis.holding([], also=[row.examples.value for row in table.rows])
    x, y = log_x(across_axis, "examples, times those of now"), log_y(axis, "updates, times now")
    marked = {table.present: "now", proposed: "proposed"}
    rows = [
        {
            "updates": row.updates.value,
            "examples": row.examples.value,
            "low": axis.row(row.updates)["low"],
            "high": axis.row(row.updates)["high"],
            "interval": f"{row.updates} times the updates, {row.examples} times the examples",
            "batch": f"B = {row.batch_size:,}",
            "label": f"B = {row.batch_size:,}, {marked[row.batch_size]}"
            if row.batch_size in marked
            else f"{row.batch_size:,}",
            "is_marked": row.batch_size in marked,
        }
        for row in table.rows
        if np.isfinite(row.updates.value) and np.isfinite(row.examples.value)
    ]
    base = alt.Chart(inline(rows)).encode(x=x("examples"), tooltip=tooltip("batch:N"))
    curve, here = base.encode(y=y("updates")), alt.datum.is_marked
    return in_usual_width(
        base.mark_area(clip=True).encode(y=y("low"), y2="high:Q"),
        curve.mark_line(),
        curve.mark_point(),
        curve.transform_filter(here).mark_point(size=THEME["marked_size"]),
        curve.transform_filter(here)
        .mark_text(style=["reference-label", "beside"])
        .encode(text="label:N"),
        curve.transform_filter(~here).mark_text(style=["beside"]).encode(text="label:N"),
    )


def layers_chart(
    estimates: Mapping[str, Estimate],
    reference: Estimate,
    label: str,
    unit: str = "examples",
) -> alt.LayerChart:
    """A quantity of each layer, as horizontal intervals, in the order given.

    Args:
        estimates: The quantity by layer.
        reference: What all are compared with, drawn as a rule if it is positive.
        label: Its label.
        unit: The unit of the quantity.
    """
    axis = LogAxis.holding([*estimates.values(), reference])
    rows = [{"layer": layer, **axis.row(estimate)} for layer, estimate in estimates.items()]
    x = log_x(axis, unit)
    layers = across(rows, "layer", x)
    if reference.value > 0:
        layers += upright(x, {reference.value: label}, "above-start")
    return in_usual_width(*layers, height=THEME["row_height"] * len(rows))


def effects_chart(
    effects: Mapping[str, Estimate], in_general: Mapping[str, Estimate], title: list[str]
) -> alt.LayerChart:
    """The effects of alternatives as horizontal intervals against zero, those that are not known as
    a question mark, and the wider intervals, if they are known.

    `title` is that of the horizontal axis, in lines.
    """
    x = linear_x(title, alt.Scale(zero=True, padding=CHARTS.across_padding), tickCount=CHARTS.ticks)
    known, wide = (
        [{"alternative": name, **plain_row(estimate)} for name, estimate in found.items()]
        for found in (effects, in_general)
    )
    interval, point = across(known, "alternative", x)
    unknown = alt.Chart(inline(known)).transform_filter("datum.value === null")
    mark = unknown.mark_text(style="unknown", text="?")
    return in_usual_width(
        across(wide, "alternative", x)[0].mark_rule(strokeWidth=THEME["wide_interval_width"]),
        interval,
        point,
        mark.encode(y=alt.Y("alternative:N", sort=None), x=alt.datum(0)),
        *upright(x, {0.0: "going on as it is"}, side_of_zero([*known, *wide])),
        height=THEME["row_height"] * max(len(known), 1),
    )


def branches_chart(
    branches: Mapping[str, Sequence[tuple[float, float, float, float]]],
) -> alt.LayerChart:
    """The mini-batch loss of the branches, as the mean over replicates with the band from the
    lowest to the highest.

    Args:
        branches: By alternative: step, mean, lowest and highest loss. At most six alternatives.
    """
    named = {
        name: [
            (step, {"value": mean, "low": low, "high": high, "interval": f"{name}: {mean:.3g}"})
            for step, mean, low, high in curve
        ]
        for name, curve in branches.items()
    }
    return in_usual_width(*curves(named, linear_y("mini-batch loss"), dict, x=own_step_x))


def learning_rate_chart(
    rates: Sequence[tuple[int, float]], now: int | None = None, *, to_zero: bool = False
) -> alt.LayerChart:
    """The learning rate η at every step of the run.

    Args:
        rates: Steps in order, with η at each. η is constant from one step to the next.
        now: The current step, drawn as a rule; None if the run is complete.
        to_zero: True if η ends at zero. The axis is then linear, so that the zero is visible.
    """
    rows = [
        {"step": step, "rate": rate, "interval": f"η = {significant(rate)}"} for step, rate in rates
    ]
    title = "learning rate η"
    values = [rate for _, rate in rates]
    lowest, highest = min(values), max(values)
    if not to_zero and lowest > 0 and highest / lowest > CHARTS.steep:
        y = log_y(LogAxis.holding([], also=values), title)
    else:
        # with a little room, so that the line is not at the edge
        domain = [0, (1 + CHARTS.rate_room) * highest]
        y = linear_y(title, scale=alt.Scale(domain=domain, nice=False))
    line = by_step(rows).mark_line(interpolate="step-after", clip=True).encode(y=y("rate"))
    here = [] if now is None else upright(step_x, {now: f"step {now:,}"})
    return along_steps(line, *here)


def plateau_chart(cut: Curve, on: Curve, begun: Sequence[int]) -> alt.LayerChart:
    """The gain of a cut of the rate to zero, and the possible gain without a cut, at every test.

    Args:
        cut: Gain of a cut at each test.
        on: Gain without a cut at each test.
        begun: Steps from which the rate goes to zero, drawn as rules.
    """
    axis = LogAxis.holding(estimate for _, estimate in (*cut, *on))
    named = dict(zip(GAINS, (cut, on), strict=True))
    layers = curves(named, log_y(axis, "gain in the loss"), axis.row, apart=GAINS)
    rules = upright(step_x, dict.fromkeys(begun, "to zero")) if begun else []
    return along_steps(*layers, *rules)


def move_lengths_chart(moves: Sequence[MoveLength]) -> alt.LayerChart:
    """How far the parameters move in each doubling of the steps, and in one step, against the last
    step of each."""
    axis = LogAxis.holding(estimate for move in moves for estimate in (move.moved, move.stepped))
    ends = LogAxis.holding([], also=[float(move.last) for move in moves])
    named = {
        "between groups": [(move.last, move.moved) for move in moves],
        "in one step": [(move.last, move.stepped) for move in moves],
    }
    y = log_y(axis, "length of a move, in units of Φ")
    return in_usual_width(*curves(named, y, axis.row, x=log_x(ends, "step")))


def sharpness_chart(batch: Curve, full: Curve, edge: Curve, edge_words: str) -> alt.LayerChart:
    """Batch sharpness along the run as a band, full-batch sharpness at each survey, and the edge of
    stability.

    Args:
        batch: The batch sharpness along the run; may be empty.
        full: λ_max at each survey; may be empty.
        edge: The edge, which moves with the learning rate; may be empty.
        edge_words: Label of the edge, such as 2/η.
    """
    # room for the label below the lowest edge
    room = [min(estimate.value for _, estimate in edge) / CHARTS.edge_room] if edge else []
    axis = LogAxis.holding((estimate for _, estimate in (*batch, *full, *edge)), also=room)
    y = log_y(axis, "loss / parameter²")
    named = {"batch sharpness": batch, "sharpness λ_max": full}
    drawn = {name: curve for name, curve in named.items() if curve}
    layers = curves(drawn, y, axis.row, apart=["sharpness λ_max"])
    return along_steps(*layers, *_edge_line(edge, y, edge_words))


def _edge_line(edge: Curve, y: Vertical, words: str) -> list[alt.Chart]:
    """The edge as steps, with a label at its beginning."""
    rows = [
        {"step": step, "edge": plain_row(estimate)["value"], "interval": str(estimate)}
        for step, estimate in edge
    ]
    drawn = [row for row in rows if row["edge"] is not None]
    if not drawn:
        return []
    # the label is where the line is not
    rises = max(row["edge"] for row in drawn) > drawn[0]["edge"]
    base = by_step(rows)
    line = base.mark_line(style="reference", interpolate="step-before")
    line = base.mark_rule(style="reference") if len(rows) == 1 else line
    label = by_step([drawn[0] | {"label": words}]).mark_text(
        style=["reference-label", "below-start" if rises else "above-start"]
    )
    return [line.encode(y=y("edge")), label.encode(y=y("edge"), text="label:N")]


def spike_chart(losses: Sequence[tuple[int, float]], first: int, last: int) -> alt.LayerChart:
    """The losses of single batches around a spike, whose steps are shaded. It does not follow the
    zoom of the page.

    Args:
        losses: Steps with their losses, in order.
        first: The first step of the spike.
        last: Its last step.
    """
    rows = [{"step": step, "loss": loss, "interval": significant(loss)} for step, loss in losses]
    base = by_step(rows, own_step_x).encode(y=linear_y("loss, one batch")("loss"))
    shade = alt.Chart(inline([{"step": first - 0.5, "end": last + 0.5}]))
    return in_usual_width(
        shade.mark_rect(style="shade").encode(x=own_step_x("step"), x2="end:Q"),
        base.mark_line(strokeWidth=THEME["thin_line_width"]),
        base.mark_point(style="small-point"),
    )


def density_chart(density: SpectralDensity, marked: Mapping[str, float]) -> alt.LayerChart:
    """The spectral density with its band on a logarithmic axis.

    Args:
        density: The density of the Hessian's eigenvalues.
        marked: Curvatures to draw as rules, by label: λ_max, the edge.
    """
    value, low, high = density.at(density.grid)
    peak = float(high.max())
    floor = CHARTS.density_floor * peak
    middle = [each if each > floor else None for each in value.tolist()]
    ends = (np.maximum(end, floor).tolist() for end in (low, high))
    names = ("curvature", "value", "low", "high")
    rows = [
        dict(zip(names, numbers, strict=True))
        for numbers in zip(density.grid.tolist(), middle, *ends, strict=True)
    ]
    y = log_y(LogAxis(floor, 2 * peak), "share of directions per loss / parameter²", "~e")
    x = linear_x("curvature, loss / parameter²", alt.Scale(nice=False))
    numbers = [alt.Tooltip(f"{name}:Q", format=",.3~g") for name in names]
    base = alt.Chart(inline(rows)).encode(x=x("curvature"), tooltip=numbers)
    rules = upright(x, {at: label for label, at in marked.items()}, "left-of") if marked else []
    return in_usual_width(band(base, y), *rules)


def reliability_chart(curve: Sequence[tuple[float, Estimate]]) -> alt.LayerChart:
    """The accuracy of a predictor against its confidence, with the diagonal on which they are
    equal."""
    x = alt.X(
        "confidence:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title="confidence", format="~%")
    )
    rows = [{"confidence": at, **plain_row(accuracy)} for at, accuracy in curve]
    shown = [alt.Tooltip("confidence:Q", format=".1%"), alt.Tooltip("interval:N")]
    ends = [{"confidence": at, "value": at} for at in (curve[0][0], curve[-1][0])]
    # so that a point at 100 % is not cut off
    y = linear_y("accuracy", "~%", alt.Scale(zero=False, domainMax=CHARTS.share_room))
    line = alt.Chart(inline(ends)).mark_line(style="diagonal")
    return in_usual_width(
        line.encode(x=x, y=y("value")),
        bars(alt.Chart(inline(rows)).encode(x=x, tooltip=shown), y),
    )


def members_chart(sizes: Sequence[tuple[int, Estimate]]) -> alt.LayerChart:
    """The calibrated log-loss of the last m snapshots averaged, by m."""
    rows = [{"m": m, **plain_row(estimate)} for m, estimate in sizes]
    x = alt.X("m:O", axis=alt.Axis(title="m, number of last snapshots", labelAngle=0))
    base = alt.Chart(inline(rows)).encode(x=x, tooltip=tooltip("m:O"))
    return in_usual_width(bars(base, linear_y("log-loss, calibrated, nats")))


def save_png(chart: alt.LayerChart, path: Path, title: str = "") -> Path:
    """Write a chart as PNG, at twice the usual resolution."""
    spec = (chart.properties(title=title) if title else chart).to_dict() | {"config": config(LIGHT)}
    replace_file(path, vl_convert.vegalite_to_png(spec, vl_version(), scale=2))
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
    shortened: dict[str, Any] = _shorten(spec)
    return shortened | {
        "width": "container",
        "height": min(spec["height"], highest),
        "autosize": {"type": "fit-x", "contains": "padding"},
        "description": description,
    }


def _shorten(value: Any) -> Any:
    """The same with eight digits in every float, which no screen shows the end of."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {name: _shorten(part) for name, part in value.items()}
    return [_shorten(part) for part in value] if isinstance(value, list | tuple) else value


@cache
def vl_version() -> str:
    """Version of Vega-Lite in which the charts are written, in the format of vl-convert: 6.4."""
    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def _is_steep(estimates: Sequence[Estimate], axis: LogAxis) -> bool:
    """True if all values are positive and they span more than a linear axis can show."""
    lowest = min((estimate.value for estimate in estimates), default=0.0)
    return lowest > 0 and axis.high / axis.low > CHARTS.steep


def _exact(curve: Iterable[tuple[Any, float]]) -> list[tuple[Any, Estimate]]:
    return [(step, Estimate.exact(loss)) for step, loss in curve]
