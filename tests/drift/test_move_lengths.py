"""How far a path moves in each doubling of time: known lengths, and the coverage of their
intervals."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gradiometer import diagnose
from gradiometer.convergence.trajectory.path_facts import Trail
from gradiometer.convergence.trajectory.trajectory import MoveLength, lengths_of, sketch
from gradiometer.report.charts.charts import page_spec
from gradiometer.report.sections.convergence import convergence_section
from gradiometer.run import Run
from known_steps import kept_steps
from report_run import run_in

STEPS = 1_100


def of(points: np.ndarray) -> tuple[MoveLength, ...]:
    kept = np.array(kept_steps(len(points)))
    return lengths_of(Trail.of(kept, points[kept], np.full(len(kept), 0.1)))


def test_on_a_straight_path_steps_are_equal_and_each_doubling_goes_twice_as_far() -> None:
    found = of(np.arange(STEPS)[:, None] * np.array([[0.6, 0.8]]))
    assert [(each.first, each.last) for each in found[-2:]] == [(256, 512), (512, 1024)]
    for each in found:
        assert each.stepped.value == pytest.approx(1.0)
        assert each.moved.value == pytest.approx((each.last - each.first) / 5, rel=0.05)
        assert each.moved.low <= each.moved.value <= each.moved.high
    assert not of(np.zeros((30, 2)))


def test_a_path_at_rest_has_move_lengths_of_zero() -> None:
    assert {each.moved.value for each in of(np.ones((STEPS, 3)))} == {0.0}
    assert {each.stepped.high for each in of(np.ones((STEPS, 3)))} == {0.0}


@pytest.mark.parametrize(("dimension", "lowest", "highest"), [(1, 0.8, 0.95), (20, 0.84, 0.98)])
@pytest.mark.parametrize("walks", [False, True])
def test_the_intervals_cover_for_independent_places_and_for_walks(
    dimension: int, lowest: float, highest: float, walks: bool
) -> None:
    random = np.random.default_rng(0)
    within = []
    for _ in range(60):
        points = random.normal(size=(STEPS, dimension))
        points = points.cumsum(axis=0) if walks else points
        for each in of(points):
            # Of the centres (Φ₋ + 2Φ + Φ₊)/4 the variance is 3/8 each; a walk of n steps less what
            # the average takes.
            places = (each.last - each.first) / 5
            squared = places - 5 / 8 if walks else 2 * 3 / 8
            step = 1.0 if walks else 2.0
            within.append(each.moved.low <= math.sqrt(dimension * squared) <= each.moved.high)
            within.append(each.stepped.low <= math.sqrt(dimension * step) <= each.stepped.high)
    assert lowest < np.mean(within) < highest


def test_the_interval_of_a_sketched_path_covers_the_true_length() -> None:
    generator = torch.Generator().manual_seed(0)
    kept = np.array(kept_steps(80))
    within = []
    for _ in range(60):
        way = torch.randn(3_000, generator=generator)
        points = np.stack([sketch([step * way]).numpy() for step in range(80)])
        found = lengths_of(Trail.of(kept, points[kept], np.full(len(kept), 0.1)))
        within += [
            each.stepped.low <= float(way.norm()) <= each.stepped.high for each in found[-1:]
        ]
        assert found[-1].stepped.high / found[-1].stepped.low > 1.3
    assert np.mean(within) > 0.85


def with_path(folder: Path, steps: int = STEPS) -> Run:
    """A run that has kept its iterates: a walk that slows down."""
    run = run_in(folder, steps=steps)
    points = (
        np.random.default_rng(0).normal(size=(steps, 7)) / np.arange(1, steps + 1)[:, None]
    ).cumsum(axis=0)
    with run.readings_path().open("a") as file:
        for step in kept_steps(steps):
            moments = f'{{"point":{points[step].tolist()}}}'
            file.write(
                f'{{"kind":"reading","gauge":"trajectory","step":{step},"batch_size":32,"learning_rate":0.1,'
                f'"moments":{moments}}}\n'
            )
    return Run.open(run.path)


def test_the_page_shows_the_path_of_a_run(tmp_path: Path) -> None:
    run = with_path(tmp_path)
    diagnosis = diagnose(run)
    section = convergence_section(run, diagnosis)
    figure = next(figure for figure in section.figures if figure.name == "trajectory")
    series = run.series("trajectory")
    assert series is not None
    found = lengths_of(Trail.of(series.steps, series.moments["point"], series.learning_rate))
    assert len(figure.table.rows) == len(found) == 6
    assert figure.table.rows[-1][0] == f"{found[-1].first:,} – {found[-1].last:,}"
    for row in (figure.table.rows[0], figure.table.rows[-1]):
        assert row[1] in figure.summary and row[3] in figure.summary
    spec = page_spec(figure.chart, figure.summary)
    assert spec["description"] == figure.summary
    assert section.heading == "The schedule, and the path"
    assert section.table is not None
    rows = {row[0]: row[1:] for row in section.table.rows}
    assert rows["correlation of a step with the next"][2] == "90%"
    assert rows["cosine of the last doubling’s move with Φ"][3] == "exact"


def test_a_run_without_a_path_or_with_too_short_a_one_has_no_chart_of_it(tmp_path: Path) -> None:
    for run in (run_in(tmp_path, "none", steps=600), with_path(tmp_path / "short", steps=40)):
        section = convergence_section(run, diagnose(run))
        assert [figure.name for figure in section.figures] == ["learning-rate"]
        assert section.heading == "The schedule"
