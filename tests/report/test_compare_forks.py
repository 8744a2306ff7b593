"""Forks in a comparison: the effects of the same alternative in several runs, side by side."""

import json
from pathlib import Path

import pytest

from finished_forks import kept
from gradiometer.cli import main
from gradiometer.cli.runs import _as_object
from gradiometer.report.compare import compare
from gradiometer.report.compare.page import forks_figures, forks_table, render, tried_by
from gradiometer.run import Run
from report_run import run_in


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    first, second = (
        run_in(tmp_path / "1", steps=200),
        run_in(tmp_path / "2", steps=200, learning_rate=0.2),
    )
    kept(
        first,
        {
            "go on": [0.5, 0.51, 0.52],
            "rate 2x": [0.9, 0.91, 0.93],
            "batch 2x, rate 1.29x": [0.4, 0.41, 0.43],
        },
    )
    kept(first, {"go on": [0.5, 0.51, 0.52], "rate 2x": [0.4, 0.42, 0.41]})
    kept(
        second,
        {
            "go on": [0.3, 0.31, 0.32],
            "cool now": [0.3, 0.3, 0.31],
            "batch 2x, rate 1.31x": [0.4, 0.41, 0.43],
        },
    )
    return [first, second]


def test_the_newest_forks_of_both_runs_stand_side_by_side(runs: list[Run]) -> None:
    groups, _ = compare(runs)
    tried = tried_by(groups)
    assert [(each.alternative.name, each.runs, each.record.name) for each in tried] == [
        ("rate 2x", "A", "0002"),
        ("batch 2x, rate 1.29x", "A", "0001"),
        ("batch 2x, rate 1.31x", "B", "0001"),
        ("cool now", "B", "0001"),
    ]
    assert [each.named for each in tried[1:3]] == 2 * ["batch 2x, rate 1.29x"]
    rows = forks_table(tried).rows
    assert rows[0][4].startswith("−0.10 [−0.1") and rows[1][6] == "better" and rows[2][6] == "worse"
    (figure,) = forks_figures(tried, most=6)
    assert "batch 2x, rate 1.29x, B: +0.10 [" in figure.summary
    assert forks_figures(tried, most=1)[0].summary.count(", B:") == 0


def test_the_page_and_the_command_show_them(
    runs: list[Run], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["runs", "compare", *(str(run.path) for run in runs), "--no-open", "--out", str(path)])
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "fork: batch 2x, rate 1.29x, against going on as it is A after 20 updates from step 100: is 0.097 ["
        in said
    )
    assert "B after 20 updates from step 100: is 0.10 [" in said and "higher in test loss" in said
    page = path.read_text(encoding="utf-8")
    assert 'id="row-forks"' in page and 'data-chart="forks-test-loss"' in page
    forks = json.loads(json.dumps(_as_object(*compare(runs))["forks"]))
    assert [(fork["letter"], fork["alternative"], fork["verdict"]) for fork in forks][:2] == [
        ("A", "rate 2x", "better"),
        ("A", "batch 2x, rate 1.29x", "better"),
    ]


def test_runs_without_forks_have_no_such_section(tmp_path: Path) -> None:
    groups, contrasts = compare(
        [run_in(tmp_path / "1", steps=40), run_in(tmp_path / "2", steps=40, seed=1)]
    )
    assert tried_by(groups) == () and 'id="row-forks"' not in render(groups, contrasts)
