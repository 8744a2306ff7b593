"""`gradiometer ensemble`: what it finds in a run, keeps there, says, and refuses."""

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

from gradiometer.cli import gradiometer
from gradiometer.diagnosis import diagnose
from gradiometer.errors import BadArgument
from gradiometer.exploration.ensembles.ensemble_report import EnsembleReport, Growth, Rival, Way
from gradiometer.exploration.ensembles.ensemble_size import validation_mask
from gradiometer.exploration.ensembles.snapshots import Snapshot
from gradiometer.measurement.estimate import Estimate
from gradiometer.problems.images.digits import load
from gradiometer.report.sections.ensemble import ensemble_section
from gradiometer.run.artifacts import load_artifacts
from gradiometer.run.configuration import Configuration
from gradiometer.run.reader import Run
from gradiometer.train import train
from gradiometer.train.ensemble import study


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


def asked(*arguments: str) -> dict:
    done = CliRunner().invoke(gradiometer, ["ensemble", *arguments, "--json"], catch_exceptions=False)
    return json.loads(done.stdout)


def test_the_verb_scores_the_snapshots_against_the_last_one_swa_and_other_runs(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "digits.pt2"
    against = [f"--against={runs[name]}" for name in ("single", "other")]
    said = asked(str(runs["snapshots"]), *against, "--points", "3", "--export", str(file))
    assert (said["snapshots"], said["scored"], said["validation"]) == (3, 270, 90)
    names = [rival["name"] for rival in said["against"]]
    assert names == ["the last snapshot", "SWA of the same snapshots", str(runs["single"]), str(runs["other"])]
    for rival in said["against"]:
        for name, difference in rival["difference"].items():
            gap = said["scores"][name]["value"] - rival["scores"][name]["value"]
            assert difference["value"] == pytest.approx(gap, abs=1e-9)
            assert difference["low"] <= difference["value"] <= difference["high"]
    assert [row["members"] for row in said["growing"]] == [1, 2, 3]
    assert [row["snapshot"] for row in said["barriers"]] == [1, 2]
    assert said["deep_ensemble_equivalent"]["value"] >= 1
    assert "A cheap ensemble, not a posterior" in said["sentences"][-1]
    problem = load("mlp")
    images, labels = problem.test.batch(torch.arange(len(problem.test)))
    program = torch.export.load(file).module()
    scored = ~validation_mask(len(labels))
    loss = F.nll_loss(program(images).log()[scored], labels[scored])
    assert float(loss) == pytest.approx(said["scores"]["calibrated_nll"]["value"], abs=1e-5)


def test_the_verb_says_in_words_what_each_member_adds(runs: dict[str, Path]) -> None:
    done = CliRunner().invoke(
        gradiometer, ["ensemble", str(runs["snapshots"]), "--points", "0"], catch_exceptions=False
    )
    words = " ".join(done.output.split())
    assert "snapshots, averaged, on 270 test examples (90 others chose how many" in words
    assert " member adds " in words
    assert "A cheap ensemble, not a posterior" in words
    assert "barrier" not in words


def test_the_run_keeps_what_was_found_and_its_page_answers_the_question(runs: dict[str, Path]) -> None:
    said = asked(str(runs["snapshots"]), "--points", "2")
    run = Run.open(runs["snapshots"])
    (kept,) = load_artifacts(run, EnsembleReport)
    assert kept.gain.value == pytest.approx(-said["against"][0]["difference"]["calibrated_nll"]["value"])
    page = Path(said["report"]).read_text(encoding="utf-8")
    for words in (
        "The ensemble as it grows",
        "Is its confidence deserved?",
        "less the last snapshot",
        "not a posterior",
    ):
        assert words in page
    (run.path / EnsembleReport.files).write_text("{}")
    assert load_artifacts(run, EnsembleReport) == ()
    assert "3 snapshots are kept" in ensemble_section(run, diagnose(run)).lead


def test_what_was_found_is_read_without_torch() -> None:
    code = "import sys, gradiometer.report.sections.ensemble; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def some_worth(gain: tuple[float, float, float], barrier: tuple[float, float], **changes: object) -> EnsembleReport:
    """Made-up numbers, to be put into words."""

    def estimate(value: float, low: float, high: float) -> Estimate:
        return Estimate.interval(value, low, high, level=0.9, method="made up", samples=7500)

    difference = {"calibrated_nll": estimate(-gain[1], -gain[2], -gain[0]), "error": estimate(-0.001, -0.003, 0.001)}
    scores = {"error": estimate(0.1, 0.09, 0.11), "calibrated_nll": estimate(0.3, 0.29, 0.31)}
    sizes = tuple(Growth(m, scores, difference if m > 1 else {}) for m in range(1, 6))
    way = Way(1, estimate(sum(barrier) / 2, *barrier), (0.0, 0.5, 1.0), (scores["error"],) * 3)
    rival = Rival("the last snapshot", scores, difference)
    worth = EnsembleReport(5, 5, 1.1, 7500, 2500, sizes, (rival,), scores["error"], (), (way,), ())
    return replace(worth, **changes)


def test_words_follow_the_intervals() -> None:
    better, unclear, worse = (
        some_worth(gain, barrier)
        for gain, barrier in (
            ((0.001, 0.002, 0.003), (-0.002, 0.006)),
            ((-0.001, 0.001, 0.003), (0.02, 0.3)),
            ((-0.003, -0.002, -0.001), (0.3, 0.4)),
        )
    )
    assert [worth.finding("runs/a").state for worth in (better, unclear, worse)] == ["ok", "cannot tell", "look"]
    assert "is better than the last of them alone: by 0.00200 [0.00100, 0.00300]" in better.sentences[0]
    assert "cannot be told from the last of them alone" in unclear.sentences[0]
    assert "is worse than the last of them alone: by 0.00200 [0.00100, 0.00300]" in worse.sentences[0]
    errs = "; its error is lower by 0.00100 [−0.00100, 0.00300], which cannot be told from nothing."
    assert all(worth.sentences[0].endswith(errs) for worth in (better, unclear, worse))
    added = "A fifth member adds 0.00100 [−0.00100, 0.00300] of calibrated log-loss, which cannot be told from nothing."
    assert unclear.sentences[1] == added
    assert "did not leave one basin" in better.sentences[2]
    assert "cannot be told: the highest barrier" in unclear.sentences[2]
    assert "lie in different basins" in worse.sentences[2]
    assert better.finding("runs/a").advice == "gradiometer ensemble runs/a --export ensemble.pt2"
    assert worse.finding("runs/a").advice == ""
    fewer = some_worth((0.001, 0.002, 0.003), (0.0, 0.001), chosen=3)
    assert "Of 5 snapshots the last 3 are taken, as 2,500 validation examples ask" in fewer.sentences[2]
    many = some_worth((0.001, 0.002, 0.003), (0.0, 0.001), deep_ensemble_equivalent=Estimate.exact(math.inf))
    assert "more than were given [more than were given, more than were given]" in many.sentences[3]


def test_the_study_leaves_the_run_as_it_was(runs: dict[str, Path]) -> None:
    before = {path: path.read_bytes() for path in sorted(runs["snapshots"].rglob("*")) if path.is_file()}
    torch.manual_seed(4711)
    state = torch.get_rng_state()
    study(runs["snapshots"], points=0)
    assert torch.equal(state, torch.get_rng_state())
    assert before == {path: path.read_bytes() for path in sorted(runs["snapshots"].rglob("*")) if path.is_file()}


def test_the_verb_refuses_what_it_cannot_judge(runs: dict[str, Path], tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        done = CliRunner().invoke(gradiometer, ["ensemble", *map(str, arguments)])
        assert isinstance(done.exception, BadArgument), done.exception
        return str(done.exception)

    assert "holds no snapshot" in refused(runs["single"])
    assert "`--level` must lie between 0 and 1, got nan" in refused(runs["snapshots"], "--level", "nan")
    assert "a file named .pt2" in refused(runs["snapshots"], "--export", tmp_path / "x.pth")
    wider = train(
        load("cnn"), Configuration(model="cnn", snapshots=2, epochs=2, budget=0.0, check_edge=False), tmp_path
    ).path
    for path in sorted((wider / "snapshots").iterdir()):
        stored = Snapshot.from_bytes(path.read_bytes(), "x")
        path.write_bytes(Snapshot.of(load("mlp").model(), stored.number, stored.step).to_bytes())
    assert "is of another architecture" in refused(wider)
    first = min((wider / "snapshots").iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    assert "is not a whole snapshot" in refused(wider)
    first.write_bytes(Snapshot.of(load("cnn").model(), 1, 45).to_bytes())
    max((wider / "snapshots").iterdir()).unlink()
    assert "at least 2 models, got 1" in refused(wider)


def test_a_problem_that_is_no_classification_is_refused(tmp_path: Path) -> None:
    from gradiometer.problems.registry import load as problem_named

    run = train(problem_named("one-dimensional"), Configuration(problem="one-dimensional", snapshots=2), tmp_path)
    with pytest.raises(BadArgument, match=r"batches of type Tensor: pairs \(inputs, labels\) are needed"):
        study(run.path)


@pytest.mark.slow
def test_the_example_runs_and_ends_in_a_sentence(tmp_path: Path) -> None:
    example = Path(__file__).parent.parent / "examples" / "ensemble.py"
    command = [sys.executable, str(example), "--export", str(tmp_path / "digits.pt2")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Five snapshots less the last of them: error" in done.stdout
    assert (tmp_path / "digits.pt2").is_file()
