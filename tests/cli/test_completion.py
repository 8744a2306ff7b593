"""What the shell completes."""

from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from gradiometer.cli import gradiometer
from gradiometer.problems.registry import NAMES


def completed(*words: str) -> list[str]:
    """What is offered for the last word of a command line."""
    complete = ShellComplete(gradiometer, {}, "gradiometer", "_GRADIOMETER_COMPLETE")
    return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs, and a folder that is none."""
    monkeypatch.chdir(tmp_path)
    for name in ("runs/digits-1", "runs/digits-2", "runs/notes", "other/loop-1"):
        Path(name).mkdir(parents=True)
    for name in ("runs/digits-1", "runs/digits-2", "other/loop-1"):
        Path(name, "run.toml").touch()


def test_commands_and_those_of_a_group_are_completed() -> None:
    assert completed("me") == ["measure"] and completed("measure", "") == [
        "batch",
        "certificate",
        "sharpness",
    ]


@pytest.mark.parametrize("command", ["train", "tune"])
def test_problems_and_the_models_of_a_problem_are_completed(command: str) -> None:
    assert completed(command, "l") == ["linear-regression", "logistic-regression"]
    assert completed(command, "digits", "--model", "") == ["mlp", "cnn"]


@pytest.mark.parametrize(
    "command", [["resume"], ["fork"], ["show"], ["measure", "certificate"], ["runs", "compare"]]
)
def test_runs_are_completed(command: list[str]) -> None:
    assert completed(*command, "") == ["runs/digits-1", "runs/digits-2"]
    assert completed(*command, "other/") == ["other/loop-1"]
    assert completed(*command, "nowhere/x") == ["nowhere/x"], (
        "the shell completes folders by itself"
    )


def test_what_measures_a_run_or_a_problem_is_offered_both() -> None:
    assert completed("measure", "batch", "") == [*NAMES, "runs/digits-1", "runs/digits-2"]
