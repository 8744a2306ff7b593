"""The judgement of tuning: its problems load, its stacked trainings are torch's, and its table can
be made."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gradiometer.jobs.pool import Here, Ledger
from gradiometer.run import Configuration
from gradiometer.run.planned import planned

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from tuning_problems import DEVELOPMENT, PROBLEMS, SCALES, Cell
from tuning_runs import SHAPES, End, losses_of, sgd, stacked, trained, trapezoid

from tuning import Grid, Place, Study, grid_of, main, table


def cell_of(name: str, steps: int, scale: float = 1.0) -> Cell:
    return replace(DEVELOPMENT[name].cell(name, scale), steps=steps)


def test_all_lists_are_of_the_same_kinds() -> None:
    assert (
        all(list(each) == list(DEVELOPMENT) for each in PROBLEMS.values()) and len(DEVELOPMENT) == 8
    )


@pytest.mark.nightly
@pytest.mark.parametrize("problems", PROBLEMS)
@pytest.mark.parametrize("name", DEVELOPMENT)
def test_every_problem_loads_at_every_scale(problems: str, name: str) -> None:
    for scale in SCALES:
        cell = PROBLEMS[problems][name].cell(name, scale)
        batch = next(cell.batches(0))
        assert cell.loss(cell.model(0), batch).shape == (cell.batch,)
        assert all(0 < loss < 1e4 for loss in losses_of(cell, cell.model(0)))


@pytest.mark.nightly
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_stacked_trainings_end_where_those_of_torch_end(optimizer: str) -> None:
    cell = cell_of("autoencoder", steps=8)
    ends = stacked(cell, 3, [0.3, 0.02], ["linear", "cosine"], optimizer)
    of_torch = {
        "sgd": sgd(0.02),
        "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.02),
    }[optimizer]
    for end, shape in zip(ends[1::2], SHAPES.values(), strict=True):
        assert (end.train, end.test) == pytest.approx(
            losses_of(cell, trained(cell, 3, of_torch, shape)), rel=1e-4
        )


@pytest.mark.nightly
def test_running_statistics_are_kept_in_every_lane() -> None:
    cell = cell_of("CNN, BatchNorm", steps=3)
    alone = trained(cell, 0, sgd(0.1), SHAPES["linear"])
    assert stacked(cell, 0, [0.1, 10.0], ["linear"])[0].train == pytest.approx(
        losses_of(cell, alone)[0], rel=1e-4
    )


def test_the_command_prints_one_row_a_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "tuning.rates_at",
        lambda place, seed, each, shapes, optimizer: [
            [k, "linear", 2.0 + abs(k), 1.0] for k in each
        ],
    )
    monkeypatch.setattr("tuning.tuned", lambda cell, seed, optimizer: End(2.2 + seed, 1.0))
    arguments = [
        "--only",
        "quadratic",
        "--scale",
        "1",
        "--method",
        "tune",
        "--seeds",
        "4",
        "--out",
        str(tmp_path / "kept.jsonl"),
    ]
    monkeypatch.setattr("sys.argv", ["tuning.py", *arguments])
    main()
    printed = capsys.readouterr().out
    assert printed.count("| quadratic | × 1 | 2 | 2^0 linear | +50.0, +50.0 | +0.0 | +60.0 |") == 1
    assert "| quadratic | × 1 | 4 | +10.0, +85.0, +160.0 | 4 |" in printed


def test_a_grid_is_extended_until_its_best_rate_lies_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def far_off(
        place: Place, seed: int, exponents: list[int], shapes: list[str], optimizer: str
    ) -> list[list[object]]:
        """The coarse search misses: the best rate is 2^9."""
        return [[each, shape, 1 + abs(each - 9), 1.0] for shape in shapes for each in exponents]

    monkeypatch.setattr("tuning.rates_at", far_off)
    monkeypatch.setattr("tuning.COARSE", range(-4, 1))
    place = Place("development", "quadratic", 1.0)
    with Here() as pool:
        grid = Study(pool, Ledger(tmp_path / "kept.jsonl"), "sgd").grids([place])[place]
    assert grid.best[0] == 9 and {exponent for exponent, _ in grid.train} == set(range(-6, 13))


def test_the_table_is_in_percent_of_means_over_seeds() -> None:
    place = Place("fresh", "MLP", 16.0)
    rows = [
        [each, "linear", loss + shift, 1.0, shift]
        for shift in (-1, 1)
        for each, loss in ((0, 3), (1, 2), (2, 4))
    ]
    rows += [[3, "cosine", 0.5, 0.5, -1], [3, "cosine", 4.5, 0.5, 1]]  # the best of one seed
    grid: Grid = grid_of(rows)
    assert grid.best == (1, "linear") and grid.train[grid.best] == 2
    shown = table(
        {place: grid},
        {(place, "ours"): [End(1.9, 1.0, 2.0), End(2.2, 1.0, 2.4)]},
        ["ours"],
        "train",
    )
    assert "| MLP | × 16 | 2 | 2^1 linear | +50.0, +100.0 | +37.5 | +2.5 |" in shown
    assert "| 0 of 1 | 0 of 1 |" in shown and "| 52 | 2.20 (at most 2.40) |" in shown
    assert "| 2^1 linear | +50.0, +100.0 | -25.0 | +0.0 |" in table(
        {place: grid}, {(place, "ours"): [End(1.9, 1.0)]}, ["ours"], "test"
    )


def test_the_benchmarks_train_with_the_schedule_of_tune() -> None:
    schedule = planned(Configuration(schedule="trapezoid", learning_rate=0.2, steps=40), 40)
    assert [0.2 * trapezoid(step / 40) for step in range(41)] == pytest.approx(
        [schedule(step) for step in range(41)]
    )
