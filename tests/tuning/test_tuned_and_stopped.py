"""A training that was tuned has its record from its first step on, also if it or the race was
stopped."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import called
from gradiometer import Run
from gradiometer.cli import main
from gradiometer.run.checkpoints import load_latest
from gradiometer.run.reader import HISTORY
from gradiometer.train.loop import Trainer

TRAIN = (
    "train",
    "quadratic",
    "--tune",
    "--tune-budget",
    "2",
    "--steps",
    "400",
    "--every",
    "20",
    "--no-open",
)


def forks_of(run: Run) -> dict[str, Any]:
    """The plan of every fork in the folder of a run, by its number."""
    plans = {
        path.parent.name: json.loads(path.read_text())
        for path in (run.path / "forks").glob("*/fork.json")
    }
    for plan in plans.values():
        plan.pop("created", None)
    return dict(sorted(plans.items()))


def record_of(run: Run) -> dict[str, Any]:
    """What the run says of itself, without times and what a stop leaves."""
    events = [
        {name: value for name, value in event.items() if name != "time"}
        for event in run.events
        if event["event"] not in HISTORY
    ]
    readings = {
        gauge: {
            name: values.tolist() for name, values in run.series(gauge).at_newest().moments.items()
        }
        for gauge in run.gauges
    }
    return {"events": events, "readings": readings}


def run_below(folder: Path) -> Path:
    (path,) = (path for path in folder.iterdir() if (path / "run.toml").exists())
    return path


def stop(patch: pytest.MonkeyPatch, after: int) -> None:
    """Ask the process to stop, as SIGTERM does, at this step of all trainings in it, those of the
    lanes included."""
    step, made = Trainer._step, 0

    def stopping(loop: Trainer) -> None:
        nonlocal made
        if made == after:
            os.kill(os.getpid(), signal.SIGTERM)
        made += 1
        step(loop)

    patch.setattr(Trainer, "_step", stopping)


def trained(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
) -> tuple[Run, bool]:
    """The run of the command after a stop, and whether it was stopped in the race."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        stop(patch, stop_after)
        code, _, error = called(capsys, *TRAIN)
    assert code == 5, error
    in_race = not any((path / "run.toml").exists() for path in Path("runs").iterdir())
    if in_race:
        code, _, error = called(capsys, *TRAIN)
    else:
        code, _, error = called(capsys, "resume", str(run_below(Path("runs"))), "--no-open")
    assert code == 0, error
    return Run.open(run_below(Path("runs"))), in_race


def steps_of(run: Run) -> int:
    """The steps of all lanes of the race, that of the winner included."""
    lanes = (run.path.parent / "quadratic-position-tuning" / "lanes").glob("*/lane-1")
    return sum(Run.open(path).steps for path in lanes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with pytest.raises(SystemExit) as ended:
            main(list(TRAIN))
        assert ended.value.code == 0
    return Run.open(run_below(folder / "runs"))


@pytest.mark.parametrize(
    "share",
    [0.3, 1.2, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.0, 0.7, 0.95))],
)
def test_a_tuned_training_that_is_stopped_is_the_same(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    whole: Run,
    share: float,
) -> None:
    """It is stopped at a share of the steps of the race; above 1 in the training."""
    resumed, in_race = trained(
        tmp_path / "resumed", capsys, monkeypatch, round(share * steps_of(whole))
    )
    assert in_race == (share < 1)
    assert forks_of(resumed) == forks_of(whole)
    assert record_of(resumed) == record_of(whole)
    assert resumed.configuration == whole.configuration and whole.configuration.fork_budget == 1
    assert resumed.losses[1].tolist() == whole.losses[1].tolist()
    ends = [load_latest(run)[0] for run in (whole, resumed)]
    assert ends[0] is not None and ends[1] is not None
    # the shape checker draws from it
    names = [name for name in ends[0].tensors if not name.startswith("random.python")]
    for name in names:
        tensor = ends[0].tensors[name]
        assert torch.equal(tensor, ends[1].tensors[name]), name


def test_a_rung_whose_record_was_stopped_has_every_lane_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lanes are finished, and the record of the first rung ends in its third line."""
    monkeypatch.chdir(tmp_path)
    command = ("tune", "quadratic", "--steps", "24", "--budget", "2")
    assert called(capsys, *command)[0] == 0
    folder = tmp_path / "runs" / "quadratic-position-tuning"
    path = folder / "forks" / "0001" / "branches.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    plan = json.loads(path.with_name("fork.json").read_text())
    path.with_name("fork.json").write_text(json.dumps(plan | {"stops": None}))
    path.write_text("".join(whole[:2]) + whole[2][:20])
    assert called(capsys, *command)[0] == 0
    names = [json.loads(line)["name"] for line in path.read_text().splitlines()]
    assert names == [json.loads(line)["name"] for line in whole]
