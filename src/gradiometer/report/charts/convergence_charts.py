"""The charts of issue 3: the learning rate along the run, the gain of a cut, and the lengths of the
moves."""

from collections.abc import Sequence

import altair as alt

from gradiometer.convergence.trajectory.trajectory import MoveLength
from gradiometer.measurement.estimate import significant
from gradiometer.report.charts.axes import LogAxis
from gradiometer.report.charts.marks import (
    HEIGHT,
    PLAIN,
    WIDTH,
    Curve,
    Vertical,
    along_steps,
    bars,
    by_step,
    inline,
    layered,
    log_x,
    log_y,
    named_series,
    off_the_axis,
    tooltip,
)

MOVES = ("between groups", "in one step")
GAINS = ("gain of a cut to zero", "possible gain without a cut")

STEEP = 50
"""Learning rates that span more than this factor, and do not end at zero, are drawn on a
logarithmic axis."""


def learning_rate_chart(
    rates: Sequence[tuple[int, float]], now: int | None = None, *, to_zero: bool = False
) -> alt.LayerChart:
    """The learning rate η at every step of the run.

    Args:
        rates: Steps in order, with η at each. η is constant from one step to the next.
        now: The current step, drawn as a rule; None if the run is complete.
        to_zero: True if η ends at zero. The axis is then linear, so that the zero is visible.
    """
    values = [rate for _, rate in rates]
    y = _rate_axis(values, to_zero)
    rows = [
        {"step": step, "rate": rate, "interval": f"η = {significant(rate)}"} for step, rate in rates
    ]
    layers: list[alt.Chart] = [
        by_step(rows).mark_line(interpolate="step-after", clip=True).encode(y=y("rate"))
    ]
    if now is not None:
        here = by_step([{"step": now, "label": f"step {now:,}"}])
        label = here.mark_text(style="reference-label", align="left", baseline="top", dx=4)
        layers += [here.mark_rule(style="reference"), label.encode(y=alt.value(0), text="label:N")]
    return along_steps(*layers)


def _rate_axis(values: Sequence[float], to_zero: bool) -> Vertical:
    least, most = min(values), max(values)
    if least > 0 and most / least > STEEP and not to_zero:
        return log_y(LogAxis.holding([], also=(least, most)), "learning rate η")
    scale = alt.Scale(domain=[0, 1.08 * most], nice=False)
    axis = alt.Axis(title="learning rate η", format=PLAIN, tickCount=5)
    return lambda field: alt.Y(field, type="quantitative", scale=scale, axis=axis)


def plateau_chart(cut: Curve, on: Curve, begun: Sequence[int]) -> alt.LayerChart:
    """The gain of a cut of the rate to zero, and the possible gain without a cut, at every test.

    Args:
        cut: Gain of a cut at each test.
        on: Gain without a cut at each test.
        begun: Steps from which the rate goes to zero, drawn as rules.
    """
    axis = LogAxis.holding(estimate for _, estimate in (*cut, *on))
    y, series = log_y(axis, "gain in the loss"), named_series(GAINS)
    layers: list[alt.Chart | alt.LayerChart] = []
    for name, curve in zip(GAINS, (cut, on), strict=True):
        rows = [{**row, "series": name} for row in axis.rows(curve)]
        base = by_step(rows)
        layers.append(bars(base, y, **series))
        layers += [layer.encode(color=series["color"]) for layer in off_the_axis(base, rows, y)]
    if begun:
        rules = by_step([{"step": step, "label": "to zero"} for step in begun])
        label = rules.mark_text(style="reference-label", align="left", baseline="top", dx=4)
        layers += [rules.mark_rule(style="reference"), label.encode(y=alt.value(0), text="label:N")]
    return along_steps(*layers)


def move_lengths_chart(moves: Sequence[MoveLength]) -> alt.LayerChart:
    """How far the parameters move in each doubling of the steps, and in one step, against the last
    step of each."""
    axis = LogAxis.holding(estimate for move in moves for estimate in (move.moved, move.stepped))
    ends = [move.last for move in moves]
    x, y = (
        log_x(LogAxis(min(ends) / 1.3, max(ends) * 1.3), "step"),
        log_y(axis, "length of a move, in units of Φ"),
    )
    series = named_series(MOVES)
    layers: list[alt.Chart | alt.LayerChart] = []
    for name, lengths in (
        (MOVES[0], [move.moved for move in moves]),
        (MOVES[1], [move.stepped for move in moves]),
    ):
        rows = [{**row, "series": name} for row in axis.rows(list(zip(ends, lengths, strict=True)))]
        base = alt.Chart(inline(rows)).encode(x=x("step"), tooltip=tooltip("step:Q"))
        layers += [
            base.mark_line(clip=True).encode(y=y("value"), color=series["color"]),
            bars(base, y, **series),
        ]
    return layered(*layers).properties(width=WIDTH, height=HEIGHT)
