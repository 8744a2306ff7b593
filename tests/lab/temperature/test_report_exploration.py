"""The page's section on exploration: what it draws, what it says where there is little, and its
numbers."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gradiometer import Diagnosis
from gradiometer.exploration.temperature import Temperature
from gradiometer.measurement import Draw, Sampling, Series
from gradiometer.report.charts import save_png
from gradiometer.report.charts.charts import page_spec
from gradiometer.report.page.page import render
from gradiometer_lab.sections.temperature import exploration_section
from report_run import diagnosis_of, run_in

LAYERS = ("hidden", "head")


def series(steps: int, sampling: Sampling, start: int = 0) -> Series:
    """Readings of two layers of 30 and 10 parameters whose noise falls along the run."""
    draw = np.random.default_rng(start)
    falling = np.exp(-np.arange(start, start + steps) / 300)[:, None]
    noise = falling * draw.gamma(8.0, [[3.0, 2.0]], (steps, 2))
    moments = {
        "configurational": falling * draw.standard_normal((steps, 2)),
        "kick": 0.05 / 16 * noise + 1e-4 * falling,
        "noise": noise,
        "distance": np.cumsum(falling * draw.standard_normal((steps, 2)) * 0.01, axis=0) + 5,
        "parameters": np.tile([30.0, 10.0], (steps, 1)),
        "origin": np.zeros(steps),
    }
    many = np.arange(start, start + steps)
    return Series(
        "temperature", many, np.full(steps, 16), np.full(steps, 0.1), moments, sampling, LAYERS
    )


def diagnosed(
    draw: Draw = Draw.RESHUFFLED, examples: int | None = 1437, steps: int = 800
) -> Diagnosis:
    sampling, gauge = Sampling(draw, examples), Temperature()
    history: dict = {}
    windows = [
        gauge.estimate(series(min(100, steps), sampling, start)) for start in range(0, steps, 100)
    ]
    for place, window in enumerate(windows):
        for name, estimate in window.items():
            history.setdefault(name, []).append((100 * (place + 1), estimate))
    finding = gauge.judge(windows[-1])
    assert finding is not None
    return replace(
        diagnosis_of(),
        gauges=(gauge,),
        findings=(finding,),
        estimates=windows[-1],
        history={name: tuple(points) for name, points in history.items()},
    )


@pytest.mark.slow
def test_the_section_shows_temperature_drift_and_layers_in_posterior_units(tmp_path: Path) -> None:
    diagnosis = diagnosed()
    section = exploration_section(run_in(tmp_path), diagnosis)
    assert [figure.name for figure in section.figures] == [
        "temperature",
        "heat-balance",
        "temperature-by-layer",
    ]
    heat, share, layers = section.figures
    assert "posterior units" in heat.summary and "noise of an epoch sums to zero" in heat.note
    assert len(heat.table.rows) == len(share.table.rows) == 8 and [
        row[0] for row in layers.table.rows
    ] == list(LAYERS)
    expected = 1437 * diagnosis.history["temperature"][0][1].value
    assert float(heat.table.rows[0][1]) == pytest.approx(expected, rel=0.01)
    assert section.table is not None and len(section.table.rows) == 6
    for figure in section.figures:
        assert page_spec(figure.chart, figure.summary)["layer"]
        assert save_png(figure.chart, tmp_path / f"{figure.name}.png").stat().st_size > 5_000


def test_without_a_training_set_temperatures_are_those_of_the_loss(tmp_path: Path) -> None:
    diagnosis = diagnosed(Draw.FRESH, None)
    heat = exploration_section(run_in(tmp_path, sampling="replacement"), diagnosis).figures[0]
    assert heat.summary.startswith("In loss, the temperature goes from")
    assert float(heat.table.rows[0][1]) == pytest.approx(
        diagnosis.history["temperature"][0][1].value, rel=0.01
    )


def test_a_run_without_a_thermometer_names_the_flag_that_gives_it_one(tmp_path: Path) -> None:
    section = exploration_section(run_in(tmp_path), diagnosis_of())
    assert not section.figures and "--gauges noise,temperature" in section.lead


def test_a_run_of_few_readings_is_drawn_as_unknown(tmp_path: Path) -> None:
    diagnosis = diagnosed(steps=3)
    page = render(run_in(tmp_path), diagnosis)
    assert "The temperature SGD runs at is not known yet" in page
    assert math.isnan(diagnosis.estimates["temperature"].value)


def test_the_page_holds_the_section_its_formulas_and_the_sentence(tmp_path: Path) -> None:
    page = render(run_in(tmp_path), diagnosed())
    assert "T = η tr Σ/(2 d B)" in page and "The temperature SGD runs at is" in page
    assert page.count('id="chart-temperature"') == 1 and "docs/explanation/exploration.md" in page
