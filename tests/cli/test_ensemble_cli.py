"""`gradiometer ensemble`: its results, the report that it keeps, its sentences and its errors."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional as F  # noqa: N812

from gradiometer import (
    BadArgument,
    GradiometerError,
    RunDamaged,
    RunNotFound,
    Unsupported,
    diagnose,
)
from gradiometer.cli import gradiometer
from gradiometer.exploration.ensembles import Snapshot, validation_mask
from gradiometer.exploration.ensembles.ensemble_report import (
    Baseline,
    EnsembleReport,
    EnsembleSize,
    LinearPath,
)
from gradiometer.measurement import Estimate
from gradiometer.problems.images.digits import load
from gradiometer.run import Configuration, Run
from gradiometer.run.artifacts import load_artifacts
from gradiometer.run.ensemble import evaluate_ensemble
from gradiometer.train import train
from gradiometer.verdict.words.exploration import ensemble_in_words
from gradiometer.verdict.words.say import say
from gradiometer_lab.sections.ensemble import ensemble_section


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with snapshots, a single one of the same length, and one of another architecture."""
    out = tmp_path_factory.mktemp("runs")
    given = {"epochs": 6, "learning_rate": 0.2, "momentum": 0.9, "budget": 0.0, "check_edge": False}
    return {
        "snapshots": train(load("mlp"), Configuration(snapshots=3, **given), out).path,
        "single": train(load("mlp"), Configuration(schedule="cosine", **given), out).path,
        "other": train(load("mlp"), Configuration(schedule="cosine", seed=1, **given), out).path,
    }


def json_of(*arguments: str) -> dict:
    done = CliRunner().invoke(
        gradiometer, ["ensemble", *arguments, "--json"], catch_exceptions=False
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_verb_compares_the_ensemble_with_the_last_snapshot_swa_and_other_runs(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "digits.pt2"
    against = [f"--against={runs[name]}" for name in ("single", "other")]
    found = json_of(str(runs["snapshots"]), *against, "--points", "3", "--export", str(file))
    assert (found["snapshots"], found["scored"], found["validation"]) == (3, 270, 90)
    names = [baseline["name"] for baseline in found["baselines"]]
    assert names == [
        "the last snapshot",
        "SWA of the same snapshots",
        str(runs["single"]),
        str(runs["other"]),
    ]
    for baseline in found["baselines"]:
        for name, difference in baseline["difference"].items():
            gap = found["scores"][name]["value"] - baseline["scores"][name]["value"]
            assert difference["value"] == pytest.approx(gap, abs=1e-9)
            assert difference["low"] <= difference["value"] <= difference["high"]
    assert [row["members"] for row in found["sizes"]] == [1, 2, 3]
    assert [len(row["shares"]) for row in found["paths"]] == [5, 5]
    assert list(found["correlations"]) == ["1-2", "1-3", "2-3"]
    assert found["deep_ensemble_equivalent"]["value"] >= 1
    assert "a cheap ensemble, not a posterior" in found["sentences"][-1]
    problem = load("mlp")
    images, labels = problem.test.batch(torch.arange(len(problem.test)))
    program = torch.export.load(file).module()
    scored = ~validation_mask(len(labels))
    loss = F.nll_loss(program(images).log()[scored], labels[scored])
    assert float(loss) == pytest.approx(found["scores"]["calibrated_nll"]["value"], abs=1e-5)


def test_the_verb_prints_the_gain_from_each_member(runs: dict[str, Path]) -> None:
    done = CliRunner().invoke(
        gradiometer, ["ensemble", str(runs["snapshots"]), "--points", "0"], catch_exceptions=False
    )
    words = " ".join(done.output.split())
    assert "of 3 snapshots, on 270 test examples (90 others chose this number" in words
    assert " member the calibrated log-loss is " in words
    assert "a cheap ensemble, not a posterior" in words
    assert "barrier" not in words


def test_the_run_keeps_the_report_and_its_page_shows_it(runs: dict[str, Path]) -> None:
    found = json_of(str(runs["snapshots"]), "--points", "2")
    run = Run.open(runs["snapshots"])
    (kept,) = load_artifacts(run, EnsembleReport)
    assert kept.gain.value == pytest.approx(
        -found["baselines"][0]["difference"]["calibrated_nll"]["value"]
    )
    page = Path(found["report"]).read_text(encoding="utf-8")
    for words in (
        "Size of the ensemble",
        "Calibration of the ensemble",
        "minus the last snapshot",
        "not a posterior",
    ):
        assert words in page
    whole = json.loads((run.path / EnsembleReport.files).read_text())
    for spoiled in (
        {},
        whole | {"chosen": 2**70},
        whole | {"chosen": 4},
        whole | {"sizes": []},
        whole | {"baselines": []},
    ):
        (run.path / EnsembleReport.files).write_text(json.dumps(spoiled))
        assert load_artifacts(run, EnsembleReport) == ()
        assert EnsembleReport.files in run.unread
    assert "The run has 3 snapshots" in ensemble_section(run, diagnose(run)).lead


@pytest.mark.slow
def test_the_report_is_read_without_torch() -> None:
    code = "import sys, gradiometer_lab.sections.ensemble; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def some_report(
    gain: tuple[float, float, float], barrier: tuple[float, float], **changes: object
) -> EnsembleReport:
    """A report with made-up numbers."""

    def estimate(value: float, low: float, high: float) -> Estimate:
        return Estimate.interval(value, low, high, level=0.9, method="made up", samples=7500)

    difference = {
        "calibrated_nll": estimate(-gain[1], -gain[2], -gain[0]),
        "error": estimate(-0.001, -0.003, 0.001),
    }
    scores = {"error": estimate(0.1, 0.09, 0.11), "calibrated_nll": estimate(0.3, 0.29, 0.31)}
    sizes = tuple(EnsembleSize(m, scores, difference if m > 1 else {}) for m in range(1, 6))
    path = LinearPath((0.0, 0.5, 1.0), (scores["error"],) * 3, estimate(sum(barrier) / 2, *barrier))
    baseline = Baseline("the last snapshot", scores, difference)
    report = EnsembleReport(
        5, 5, 1.1, 7500, 2500, sizes, (baseline,), scores["error"], {}, (path,), ()
    )
    return replace(report, **changes)


def in_words(report: EnsembleReport) -> list[str]:
    return ensemble_in_words(report.finding("runs/a"))


def test_sentences_follow_the_intervals() -> None:
    better, unclear, worse = (
        some_report(gain, barrier)
        for gain, barrier in (
            ((0.001, 0.002, 0.003), (-0.002, 0.006)),
            ((-0.001, 0.001, 0.003), (0.02, 0.3)),
            ((-0.003, -0.002, -0.001), (0.3, 0.4)),
        )
    )
    assert [report.finding("runs/a").state for report in (better, unclear, worse)] == [
        "ok",
        "cannot tell",
        "look",
    ]
    for report, verdict in (
        (
            better,
            "predicts better than the last snapshot alone: its calibrated log-loss is lower by "
            "0.00200 [0.00100, ",
        ),
        (
            unclear,
            "shows no clear difference from the last snapshot alone: its calibrated log-loss is "
            "lower by 0.00100",
        ),
        (
            worse,
            "predicts worse than the last snapshot alone: its calibrated log-loss is higher by "
            "0.00200 [0.00100, ",
        ),
    ):
        assert verdict in in_words(report)[0]
        assert in_words(report)[0].endswith(
            "its error is lower by 0.00100 [−0.00100, 0.00300] (no clear difference)."
        )
    added = (
        "With a fifth member the calibrated log-loss is lower by 0.00100 [−0.00100, 0.00300] (no "
        "clear difference)."
    )
    assert in_words(unclear)[1] == added
    assert "The snapshots lie in one basin: the highest error barrier" in in_words(better)[2]
    assert (
        "It is unclear if the snapshots lie in one basin: the highest error barrier"
        in in_words(unclear)[2]
    )
    assert "The snapshots lie in different basins" in in_words(worse)[2]
    assert (
        say(better.finding("runs/a")).advice == "gradiometer ensemble runs/a --export ensemble.pt2"
    )
    assert say(worse.finding("runs/a")).advice == ""
    fewer = some_report((0.001, 0.002, 0.003), (0.0, 0.001), chosen=3)
    assert (
        "Only the last 3 of 5 snapshots are averaged: on 2,500 validation examples the earlier "
        "ones did not help" in in_words(fewer)[2]
    )
    many = some_report(
        (0.001, 0.002, 0.003), (0.0, 0.001), deep_ensemble_equivalent=Estimate.exact(math.inf)
    )
    assert "more than were given [more than were given, more than were given]" in in_words(many)[3]


def test_the_evaluation_does_not_change_the_run(runs: dict[str, Path]) -> None:
    before = {
        path: path.read_bytes() for path in sorted(runs["snapshots"].rglob("*")) if path.is_file()
    }
    torch.manual_seed(4711)
    state = torch.get_rng_state()
    evaluate_ensemble(runs["snapshots"], points=0)
    assert torch.equal(state, torch.get_rng_state())
    assert before == {
        path: path.read_bytes() for path in sorted(runs["snapshots"].rglob("*")) if path.is_file()
    }


def test_the_verb_refuses_bad_input(runs: dict[str, Path], tmp_path: Path) -> None:
    def refused(*arguments: object, error: type[GradiometerError] = BadArgument) -> str:
        done = CliRunner().invoke(gradiometer, ["ensemble", *map(str, arguments)])
        assert type(done.exception) is error, done.exception
        return str(done.exception)

    assert "has no snapshots" in refused(runs["single"], error=RunNotFound)
    assert "a file named .pt2" in refused(runs["snapshots"], "--export", tmp_path / "x.pth")
    wider = train(
        load("cnn"),
        Configuration(model="cnn", snapshots=2, epochs=2, budget=0.0, check_edge=False),
        tmp_path,
    ).path
    for path in sorted((wider / "snapshots").iterdir()):
        stored = Snapshot.from_bytes(path.read_bytes(), "x")
        path.write_bytes(Snapshot.of(load("mlp").model(), stored.number, stored.step).to_bytes())
    assert "must have the architecture of snapshot 1" in refused(wider)
    first = min((wider / "snapshots").iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    assert "is not a complete snapshot" in refused(wider, error=RunDamaged)
    first.write_bytes(Snapshot.of(load("cnn").model(), 1, 45).to_bytes())
    max((wider / "snapshots").iterdir()).unlink()
    assert "at least 2 models, got 1" in refused(wider)


def test_a_problem_without_classes_is_refused(tmp_path: Path) -> None:
    from gradiometer.problems import load as problem_named

    run = train(
        problem_named("one-dimensional"),
        Configuration(problem="one-dimensional", snapshots=2),
        tmp_path,
    )
    with pytest.raises(
        Unsupported, match=r"batches of type Tensor: pairs \(inputs, labels\) are needed"
    ):
        evaluate_ensemble(run.path)


@pytest.mark.slow
def test_the_example_runs_and_ends_in_a_sentence(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "ensemble.py"
    command = [sys.executable, str(example), "--export", str(tmp_path / "digits.pt2")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Five snapshots less the last of them: error" in done.stdout
    assert (tmp_path / "digits.pt2").is_file()
