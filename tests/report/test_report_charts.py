"""The charts: an open end is drawn as open, a long run in few blocks, and every chart
can be drawn."""

import json
import math
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pytest
import vl_convert

from gradiometer import BadArgument
from gradiometer.measurement import Estimate
from gradiometer.report.charts import save_png
from gradiometer.report.charts.axes import OPEN_ABOVE, OPEN_BELOW, UNKNOWN, LogAxis
from gradiometer.report.charts.blocks import MOST, blocks
from gradiometer.report.charts.charts import (
    layers_chart,
    loss_chart,
    noise_scale_chart,
    page_spec,
    vl_version,
)
from gradiometer.report.charts.interval_strip import interval, number, strip
from gradiometer.report.charts.theme import DARK, LIGHT, PAGE, Palette, config
from gradiometer.report.sections.estimation import estimation_section
from gradiometer.report.sections.loss import loss_section
from gradiometer.report.sections.section import change
from report_run import LAYERS, diagnosis_of, run_in


def svg_of(chart: alt.LayerChart, palette: Palette = LIGHT) -> str:
    spec = chart.to_dict() | {"config": config(palette)}
    return vl_convert.vegalite_to_svg(spec, vl_version())


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate.interval(value, low, high, level=0.9, method="Fieller", samples=200)


BOUNDED = estimate(100.0, 80.0, 130.0)
OPEN = estimate(200.0, 90.0, math.inf)
REACHING_ZERO = estimate(1.0, -1.0, 110.0)
NOTHING_KNOWN = Estimate.unknown(level=0.9, method="too few readings", samples=2)


def test_an_open_end_is_drawn_to_the_edge_and_marked() -> None:
    axis = LogAxis.holding([BOUNDED, OPEN, REACHING_ZERO, NOTHING_KNOWN])
    assert axis.row(BOUNDED)["open"] == ""
    assert axis.row(OPEN) | {"high": axis.high, "low": 90.0, "open": OPEN_ABOVE} == axis.row(OPEN)
    assert axis.row(REACHING_ZERO) | {
        "low": axis.low,
        "high": 110.0,
        "open": OPEN_BELOW,
    } == axis.row(REACHING_ZERO)
    unknown = axis.row(NOTHING_KNOWN)
    assert (unknown["low"], unknown["high"], unknown["value"]) == (axis.low, axis.high, None)
    assert unknown["open"] == UNKNOWN


def test_an_interval_wholly_below_zero_stays_at_the_lower_edge() -> None:
    axis = LogAxis.holding([BOUNDED])
    row = axis.row(estimate(-2.0, -3.0, -1.0))
    assert (row["value"], row["low"], row["high"], row["open"]) == (
        None,
        axis.low,
        axis.low,
        OPEN_BELOW,
    )


@pytest.mark.parametrize("span", [1.01, 1.5, 2.9, 30.0, 1e4, 1e11])
def test_a_logarithmic_axis_has_a_few_round_ticks(span: float) -> None:
    axis = LogAxis.holding([estimate(span, 1.0, span)])
    assert axis.low < 1 < span < axis.high
    assert 3 <= len(axis.ticks) <= 10
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks)


def test_points_without_an_upper_end_are_told_in_words_too(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=100)
    noise_scale, noise_and_gradient, _, by_layer = estimation_section(
        run, diagnosis_of(unbounded=3)
    ).figures
    assert "3 of 20 (▲) have no upper end" in noise_scale.summary
    assert "The interval of ‖g‖² reaches zero (▼) in 3 of 20 points." in noise_and_gradient.summary
    assert "1 of 5 (▶) has no upper end" in by_layer.summary
    assert noise_scale.table.rows[-1][2] == "[695, ∞)"
    first = {name: points[-1:] for name, points in diagnosis_of().history.items()}
    alone = estimation_section(run, replace(diagnosis_of(), history=first)).figures[0]
    assert "It (▲) has no upper end, because the gradient could be zero there." in alone.summary
    assert (
        "no upper end" not in estimation_section(run, diagnosis_of(unbounded=0)).figures[0].summary
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "windows",
    [
        [(10, BOUNDED)],
        [(10, OPEN)],
        [(10, NOTHING_KNOWN), (20, NOTHING_KNOWN)],
        [(10, BOUNDED), (20, REACHING_ZERO), (30, OPEN)],
    ],
)
def test_every_kind_of_window_can_be_drawn(
    windows: list[tuple[int, Estimate]],
) -> None:
    drawn = svg_of(noise_scale_chart(windows, 32.0))
    arrows = sum(math.isinf(each.high) and each.low > 0 for _, each in windows)
    assert drawn.count("B = 32<") == 1
    assert drawn.count(">?<") == sum(math.isnan(each.value) for _, each in windows)
    assert drawn.count('aria-roledescription="point"') >= arrows


def test_a_lone_window_shows_its_interval() -> None:
    marks = json.dumps(noise_scale_chart([(10, BOUNDED)], 32.0).to_dict())
    assert '"type": "rule", "clip": true' in marks or '"clip": true, "type": "rule"' in marks


def test_a_million_losses_are_drawn_in_few_blocks_that_forget_none() -> None:
    steps = np.arange(1_000_000)
    losses = np.random.default_rng(0).gamma(2.0, 0.5, len(steps))
    cut = blocks(steps, losses)
    assert len(cut) == MOST
    assert sum(block.count for block in cut) == len(steps)
    assert all(after.first == before.last + 1 for before, after in pairwise(cut))
    assert np.average(
        [block.mean.value for block in cut], weights=[block.count for block in cut]
    ) == pytest.approx(losses.mean(), rel=1e-12)
    assert max(block.highest for block in cut) == losses.max()
    covered = sum(block.mean.low <= 1.0 <= block.mean.high for block in cut)
    assert covered >= 0.9 * MOST - 3 * math.sqrt(MOST * 0.09)


def test_losses_that_are_not_finite_are_counted_and_in_no_mean() -> None:
    losses = np.ones(100)
    losses[60:] = [math.nan, math.inf] * 20
    cut = blocks(np.arange(100), losses)
    assert [block.spoiled for block in cut] == [0, 0, 0, 20, 20]
    assert [block.mean.value for block in cut[:3]] == [1.0, 1.0, 1.0]
    assert math.isnan(cut[4].mean.value)
    assert not cut[4].mean.tells
    loss_chart(cut, []).to_dict()


def test_losses_that_are_not_finite_are_told_of(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=100)
    _, losses = run.losses
    losses[-5:] = math.nan
    figure = loss_section(run, diagnosis_of()).figures[0]
    assert "5 losses from step 80 on are not finite; the means exclude them." in figure.summary


def test_a_few_losses_have_a_mean_before_they_have_an_interval() -> None:
    (block,) = blocks(np.arange(3), np.array([1.0, 2.0, 6.0]))
    assert block.mean.value == 3.0
    assert not block.mean.tells
    assert blocks(np.arange(0), np.zeros(0)) == ()
    with pytest.raises(BadArgument, match="`most` must be at least 1, got 0"):
        blocks(np.arange(3), np.ones(3), most=0)


def test_a_short_run_shows_the_loss_of_every_batch(tmp_path: Path) -> None:
    for steps, drawn in ((2, 2), (30, 30), (100, 0)):
        run = run_in(tmp_path, name=f"short-{steps}", steps=steps)
        figure = loss_section(run, diagnosis_of()).figures[0]
        assert sum(row[1] == "training, one batch" for row in figure.table.rows) == drawn
        assert ("the line is the loss of every batch" in figure.note) == bool(drawn)
        lines = svg_of(figure.chart).count('aria-roledescription="line mark container"')
        assert lines == 1


def test_what_is_not_known_is_told_as_such_along_the_run() -> None:
    assert change([(3, NOTHING_KNOWN)]) == "is not known yet at step 3"
    assert change([(3, NOTHING_KNOWN), (9, BOUNDED)]) == (
        "is not known yet at step 3, and is 100 [80.0, 130] at step 9"
    )
    assert (
        change([(3, BOUNDED), (9, OPEN)])
        == "goes from 100 [80.0, 130] at step 3 to at least 90.0 (90%) at step 9"
    )


def test_what_another_batch_buys_is_not_drawn_before_anything_is_known(tmp_path: Path) -> None:
    history = dict.fromkeys(
        ("noise_scale", "gradient_variance", "gradient_norm_squared"), ((10, NOTHING_KNOWN),)
    )
    estimates = {**diagnosis_of().estimates, "noise_scale": NOTHING_KNOWN}
    found = replace(diagnosis_of(), history=history, estimates=estimates)
    names = [
        figure.name for figure in estimation_section(run_in(tmp_path, steps=100), found).figures
    ]
    assert names == ["noise-scale", "noise-and-gradient", "noise-by-layer"]


def test_the_one_layer_with_both_ends_is_not_the_smallest_and_the_largest(tmp_path: Path) -> None:
    found = diagnosis_of(layers=("hidden", "0"))
    figure = estimation_section(run_in(tmp_path, steps=100), found).figures[-1]
    assert (
        " In layer hidden it is 90.0 [64.3, 153] examples." in figure.summary
        and "smallest" not in figure.summary
    )


def test_the_noisiest_of_many_layers_are_drawn_and_all_are_listed(tmp_path: Path) -> None:
    layers = tuple(f"layer{number}" for number in range(70))
    figure = estimation_section(run_in(tmp_path, steps=100), diagnosis_of(layers=layers)).figures[
        -1
    ]
    assert len(figure.table.rows) == 70
    assert figure.note == "The 40 noisiest layers are drawn; the table has all."


def test_nothing_in_a_picture_of_the_page_names_a_colour_of_its_own() -> None:
    chart = noise_scale_chart([(10, BOUNDED), (20, OPEN)], 32.0)
    spec = json.dumps(page_spec(chart, "words"))
    assert not any(colour in spec for palette in (LIGHT, DARK) for colour in palette.values())
    assert "config" not in json.loads(spec), "the page has it once"
    assert all(
        colour in json.dumps(config(PAGE)) for role, colour in PAGE.items() if role != "paper"
    )
    assert json.loads(spec)["description"] == "words"


def test_a_page_has_no_digits_that_no_screen_shows() -> None:
    chart = noise_scale_chart(
        [(1_234_567, Estimate.interval(1 / 3, 0.25, 0.5, level=0.9, method="t", samples=9))], 32.0
    )
    spec = json.dumps(page_spec(chart, "words"))
    assert (
        "0.33333333," in spec
        and "1234567" in spec
        and not re.search(r"\d{9,}", re.sub(r"data-[0-9a-f]+", "", spec))
    )


def test_a_chart_is_written_in_the_light_and_in_the_dark(tmp_path: Path) -> None:
    chart = layers_chart(dict.fromkeys(LAYERS, BOUNDED), Estimate.exact(32.0), "B = 32")
    light, dark = (svg_of(chart, palette) for palette in (LIGHT, DARK))
    assert LIGHT["first"] in light
    assert DARK["first"] in dark
    assert DARK["paper"] in dark
    assert save_png(chart, tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_series_differ_in_shape_and_dash_not_by_colour_alone(tmp_path: Path) -> None:
    chart = estimation_section(run_in(tmp_path, steps=100), diagnosis_of()).figures[1].chart
    drawn = json.dumps(chart.to_dict())
    assert '["circle", "diamond"]' in drawn
    assert '"strokeDash": [6, 3]' in drawn


def test_a_line_of_many_values_has_few_points_and_one_at_a_value_that_stands_alone() -> None:
    curve = [(step, BOUNDED if step < 50 or step == 99 else NOTHING_KNOWN) for step in range(100)]
    spec = page_spec(noise_scale_chart(curve, 32.0), "words")
    (shown,) = [layer["data"]["name"] for layer in spec["layer"] if _mark(layer) == "point"]
    steps = [row["step"] for row in spec["datasets"][shown]]
    assert len(steps) <= 31
    assert 99 in steps


def _mark(layer: dict[str, Any]) -> str:
    return layer["mark"] if isinstance(layer["mark"], str) else layer["mark"]["type"]


def test_a_chart_holds_its_numbers_once_however_many_marks_it_has() -> None:
    spec = page_spec(noise_scale_chart([(10, BOUNDED), (20, BOUNDED), (30, OPEN)], 32.0), "words")
    assert [len(rows) for rows in spec["datasets"].values()] == [3]
    named = [layer["data"] for layer in spec["layer"] if "name" in layer["data"]]
    assert len(named) >= 3
    assert all(data == named[0] for data in named)


def test_charts_along_the_run_share_the_span_of_steps(tmp_path: Path) -> None:
    run = run_in(tmp_path, steps=100)
    figures = [
        *loss_section(run, diagnosis_of()).figures,
        *estimation_section(run, diagnosis_of()).figures,
    ]
    spans = [
        parameter["name"]
        for figure in figures
        for parameter in figure.chart.to_dict().get("params", [])
    ]
    assert spans == ["span"] * 4
    assert all(isinstance(figure.chart, alt.LayerChart) for figure in figures)


def test_a_strip_places_an_interval_among_what_it_is_held_against() -> None:
    batch_size = Estimate.exact(32.0)
    drawn = strip(BOUNDED, {"B": batch_size})
    assert drawn is not None
    assert 0 < drawn.ticks[0].place < drawn.left < (drawn.point or 0) < drawn.right < 100
    assert drawn.ticks[0].label == "B = 32"
    opened = strip(OPEN, {"B": batch_size})
    assert opened is not None
    assert (opened.right, opened.open_right, opened.open_left) == (100.0, True, False)
    assert strip(NOTHING_KNOWN, {"B": batch_size}) is None
    below = strip(estimate(-2.0, -3.0, -1.0), {"B": batch_size})
    assert below is not None
    assert below.right < below.ticks[0].place


def test_an_end_that_is_not_there_is_written_as_open() -> None:
    assert interval(OPEN) == "[90.0, ∞)"
    assert interval(NOTHING_KNOWN) == "(−∞, ∞)"
    assert interval(Estimate.exact(32.0)) == "exact"
    assert [number(value) for value in (32.0, 0.0123, math.inf)] == ["32", "0.0123", "∞"]


def test_a_short_axis_has_ticks_where_a_logarithm_rounds_up() -> None:
    assert LogAxis(0.5333333333333333, 0.8333333333333333).ticks == [0.6, 0.7, 0.8]
