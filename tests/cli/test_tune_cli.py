"""`gradiometer tune`: the file that it writes, and training with it in one command."""

import json
from pathlib import Path

import pytest

from command_line import called
from gradiometer import Run
from gradiometer.cli.tune import BUDGET, configuration_to_tune
from gradiometer.loop import forks_of
from gradiometer.run import Configuration
from gradiometer.tuning.tuning import BUDGET as DEFAULT

SMALL = ["quadratic", "--steps", "60", "-b", "10", "--out", "runs"]


def test_the_file_is_a_configuration_with_the_chosen_rate(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = called(capsys, "tune", *SMALL, "--json")
    told = json.loads(out)
    assert code == 0 and told["cost"] <= told["budget"] == DEFAULT == BUDGET
    assert {one["optimizer"] for one in told["tried"]} == {
        "AdamW",
        "SGD with Nesterov momentum 0.9",
    }
    written = Configuration.from_toml(told["file"])
    assert written.learning_rate == told["learning_rate"] and written.schedule == "trapezoid"
    momentum = (0.0, False) if written.optimizer == "adamw" else (0.9, True)
    assert (written.momentum, written.nesterov, written.steps, written.batch_size) == (
        *momentum,
        60,
        10,
    )
    code, out, _ = called(capsys, "tune", *SMALL, "--momentum", "0.5", "--budget", "1.2")
    assert code == 0 and "momentum=0.5" in out and "nesterov" not in out
    assert Configuration.from_toml(told["file"]).momentum == 0.5


def test_momentum_is_the_default_also_with_a_file_that_is_silent_about_it(tmp_path: Path) -> None:
    file = tmp_path / "silent.toml"
    file.write_text("batch_size = 10\n")
    chosen = configuration_to_tune(file, {"optimizer": None, "momentum": None})
    assert (chosen.batch_size, chosen.momentum, chosen.nesterov) == (10, 0.9, True)
    file.write_text('optimizer = "adamw"\n')
    assert configuration_to_tune(file, {"optimizer": None, "momentum": None}).momentum == 0
    file.write_text("momentum = 0.5\n")
    chosen = configuration_to_tune(file, {"optimizer": None, "momentum": None})
    assert (chosen.momentum, chosen.nesterov) == (0.5, False)


def test_train_with_tune_goes_on_from_the_winner_and_shows_what_was_tried(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = called(capsys, "train", *SMALL, "--tune", "--json", "--every", "5")
    run = Run.open(json.loads(out)["run"])
    assert code == 0 and run.configuration.schedule == "trapezoid" and run.status == "finished"
    chosen = Configuration.from_toml("runs/quadratic-position-tuning/tuned.toml")
    assert run.configuration == chosen and len(run.losses[1]) == 60
    series = run.series("noise")
    assert series is not None and series.steps[0] == 0  # it was measured from the first step on
    records = forks_of(run)
    assert len(records) >= 2 and all(record.finished for record in records)
    assert "What would have happened" in (run.path / "report.html").read_text(encoding="utf-8")
    code, out, _ = called(
        capsys,
        "train",
        "--config",
        "runs/quadratic-position-tuning/tuned.toml",
        "--json",
        "--out",
        "runs",
    )
    again = Run.open(json.loads(out)["run"])
    assert code == 0 and again.losses[1].tolist() == run.losses[1].tolist()


def test_train_with_tune_races_lists_and_trains_with_the_choice(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lists = ["--momentum", "0,0.9", "--set", "nesterov=yes", "--optimizer", "sgd"]
    code, out, _ = called(capsys, "train", *SMALL, "--tune", *lists, "--json", "--budget", "0")
    run = Run.open(json.loads(out)["run"])
    raced = [
        record.fork
        for record in forks_of(run)
        if any(name.startswith("SGD(") for name in record.fork.names)
    ]
    assert code == 0 and raced and run.configuration.nesterov == (run.configuration.momentum > 0)


def test_what_tuning_leaves_of_a_budget_pays_for_forks_on_the_way(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = called(
        capsys, "train", *SMALL, "--tune", "--tune-budget", "1.5", "--json", "--budget", "0"
    )
    run = Run.open(json.loads(out)["run"])
    assert code == 0 and run.configuration.fork_budget == 0.5


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["train", *SMALL, "--momentum", "0,0.9"], "`momentum` has 2 values: give --tune, too"),
        (
            ["train", *SMALL, "--optimizer", "sgd,adamw"],
            "`optimizer` has 2 values: give --tune, too",
        ),
        (
            ["train", *SMALL, "--tune", "-b", "10,20"],
            "`--tune` takes one batch size: choose it with `gradiometer tune",
        ),
        (
            ["tune", *SMALL, "-b", "10,20"],
            "`aim` must be 'loss', 'test' or 'time' for several batch sizes",
        ),
        (["train", *SMALL, "--weight-decay", "small"], "`weight_decay` must be a number"),
        (
            ["train", *SMALL, "--tune", "--lr", "0.1"],
            "`--tune` chooses the rate itself: leave out --learning-rate",
        ),
        (["tune", *SMALL, "--budget", "0.01"], "`budget` 0.01 does not pay for three trial runs"),
        (["tune", "nowhere"], "`problem` 'nowhere' is unknown"),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = called(capsys, *flags)
    assert code == 2 and sentence in err


@pytest.mark.parametrize("verb", [("tune",), ("train", "--tune")], ids=" ".join)
def test_nothing_is_chosen_if_all_rates_diverge(
    verb: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command, *flags = verb
    code, out, error = called(
        capsys, command, "quadratic", "--steps", "24", *flags, "--weight-decay", "1e308"
    )
    assert code == 4 and "optimizer =" not in out
    assert "error: training diverged at all rates, from " in error
    assert not [*tmp_path.rglob("tuned.toml")]
    assert not (tmp_path / "runs" / "quadratic-position-1").exists()
