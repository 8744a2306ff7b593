"""The runs of a folder: one line each, in the order that was asked for, and a page with links."""

import importlib
import json
import os
import shutil
from pathlib import Path

import pytest

from command_line import called
from gradiometer import BadArgument, Diagnosis, Run
from gradiometer.report.overview import ORDERS, listing, write_overview
from gradiometer.verdict.claims import Claim
from gradiometer.verdict.words.triage import WORDS
from report_run import run_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, (name, steps) in enumerate((("mlp", 40), ("cnn", 120), ("mlp", 80))):
        run = run_in(tmp_path, name=name, steps=steps)
        for file in run.path.glob("*.*"):
            os.utime(file, (1e9 + number, 1e9 + number))
    return tmp_path


def test_a_run_that_is_deleted_while_it_is_read_is_left_out_with_a_word(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = importlib.import_module("gradiometer.report.overview")
    diagnose = listed.diagnose

    def and_gone(run: Run) -> Diagnosis:
        found = diagnose(run)
        if run.path.name == "cnn-1":
            shutil.rmtree(run.path)
        return found

    monkeypatch.setattr(listed, "diagnose", and_gone)
    runs, warnings = listing(folder)
    assert [run.path.name for run in runs] == ["mlp-2", "mlp-1"]
    assert warnings == ("cnn-1 is left out: it cannot be read: no such file or directory.",)


def names(folder: Path, **asked: str) -> list[str]:
    return [run.path.name for run in listing(folder, **asked)[0]]


def test_runs_come_newest_first_or_as_asked(folder: Path):
    assert names(folder) == ["mlp-2", "cnn-1", "mlp-1"]
    assert names(folder, sort="name") == ["cnn-1", "mlp-1", "mlp-2"]
    assert names(folder, sort="steps") == ["cnn-1", "mlp-2", "mlp-1"]
    losses = {run.path.name: run.loss.value for run in listing(folder)[0]}
    assert names(folder, sort="loss") == sorted(losses, key=losses.__getitem__)
    assert len(set(losses.values())) == 3


def test_a_pattern_chooses_runs(folder: Path):
    assert names(folder, match="mlp-*") == ["mlp-2", "mlp-1"]


def test_a_line_holds_what_the_run_has(folder: Path):
    run = listing(folder, match="cnn-1")[0][0]
    assert (run.steps, run.problem, run.batch_size, run.seed) == (120, "digits", 32, 0)
    assert run.optimizer.startswith("SGD")
    assert run.loss.low < run.loss.value < run.loss.high
    assert "120 steps" in run.verdict or "step 120" in run.verdict
    assert run.age_words.endswith(" d")


def test_a_damaged_run_is_named_and_the_others_are_listed(folder: Path):
    (folder / "mlp-1" / "run.toml").write_text("format = 1\nconfiguration = 3\n")
    found, warnings = listing(folder)
    assert [run.path.name for run in found] == ["mlp-2", "cnn-1"]
    assert len(warnings) == 1 and warnings[0].startswith("mlp-1 is left out:")


def test_what_cannot_be_listed_is_refused_by_name(tmp_path: Path):
    with pytest.raises(BadArgument, match=r"`folder` is .*nowhere.*, which is not a folder"):
        listing(tmp_path / "nowhere")


def test_every_claim_is_said_in_at_most_four_words(folder: Path):
    words = {claim: WORDS[claim].brief for claim in Claim}
    assert len(set(words.values())) == len(words)
    assert all(1 < len(said.split()) <= 4 or said == "dead units" for said in words.values())


def test_runs_are_sorted_by_what_limits_them(folder: Path):
    found = listing(folder, sort="limits")[0]
    assert [run.state.rank for run in found] == sorted(run.state.rank for run in found)
    assert all(1 < len(run.brief.split()) <= 4 for run in found)


def test_the_page_has_a_verdict_and_a_small_curve_for_each_run(folder: Path):
    found = listing(folder, sort="limits")[0]
    page = write_overview(found, folder / "index.html").read_text()
    assert page.count("<polyline") == sum(run.curve is not None for run in found) >= 2
    for run in found:
        assert f"</span> {run.brief}</td>" in page


def test_the_page_links_to_the_page_of_each_run_that_has_one(folder: Path):
    (folder / "cnn-1" / "report.html").write_text("a page")
    page = write_overview(listing(folder)[0], folder / "index.html").read_text()
    assert 'href="cnn-1/report.html"' in page and "mlp-1</th>" in page
    assert 'id="library"' not in page and len(page) < 100_000  # without charts there is no library


def test_the_command_prints_a_table_that_fits_the_terminal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    code, printed, _ = called(capsys, "runs", str(folder), "--sort", "name")
    lines = printed.splitlines()
    assert code == 0 and lines[0].split() == ["run", "steps", "loss", "test", "age"]
    # each number has its interval
    assert any("[" in line and "%" in line for line in lines if "cnn-1" in line)
    assert [line.split()[1] for line in lines if "-1 " in line or "-2 " in line] == [
        "cnn-1",
        "mlp-1",
        "mlp-2",
    ]
    assert max(map(len, lines)) <= 80


def test_long_names_and_schedules_fit_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    run_in(
        tmp_path,
        name="a-name-that-is-rather-long-for-a-run",
        steps=40,
        schedule="cosine",
        momentum=0.9,
    )
    _, printed, _ = called(capsys, "runs", str(tmp_path))
    assert max(map(len, printed.splitlines())) <= 60 and "cosine" in printed


def test_the_orders_of_the_command_are_those_of_the_listing() -> None:
    # the package has the command under this name
    command = importlib.import_module("gradiometer.cli.runs")
    assert set(command.ORDERS) == set(ORDERS)


def test_the_command_prints_json(folder: Path, capsys: pytest.CaptureFixture[str]):
    code, printed, _ = called(
        capsys, "runs", str(folder), "--json", "--page", str(folder / "all.html")
    )
    answer = json.loads(printed)
    assert code == 0 and answer["page"] == str(folder / "all.html")
    assert {Path(run["run"]).name for run in answer["runs"]} == {"cnn-1", "mlp-1", "mlp-2"}
    assert all(run["loss"]["low"] < run["loss"]["high"] for run in answer["runs"])


def test_an_empty_folder_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, printed, _ = called(capsys, "runs", str(tmp_path))
    assert code == 0 and printed == f"No such runs in `{tmp_path}`.\n"
