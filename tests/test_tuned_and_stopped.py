"""A training that was tuned first has the record of its tuning from its first step on, also if it is stopped."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from command_line import called
from gradiometer import Run
from gradiometer.run.checkpoints import load_latest
from gradiometer.train.loop import Trainer

TRAIN = ("train", "quadratic", "--tune", "--tune-budget", "3", "--steps", "400", "--every", "20", "--no-open")


def forks_of(run: Run) -> dict[str, Any]:
    """The plan of every fork in the folder of a run, by its number."""
    plans = {path.parent.name: json.loads(path.read_text()) for path in (run.path / "forks").glob("*/fork.json")}
    for plan in plans.values():
        plan.pop("created", None)
    return dict(sorted(plans.items()))


def trained(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stop_at: int | None
) -> Run:
    folder.mkdir()
    monkeypatch.chdir(folder)
    if stop_at is None:
        code, _, error = called(capsys, *TRAIN)
        assert code == 0, error
    else:
        with pytest.MonkeyPatch.context() as patch:
            step = Trainer._step

            def stopping(loop: Trainer) -> None:
                if loop.training.step == stop_at:
                    os.kill(os.getpid(), signal.SIGTERM)
                step(loop)

            patch.setattr(Trainer, "_step", stopping)
            code, _, error = called(capsys, *TRAIN)
        assert code == 5, error
        (path,) = (path for path in Path("runs").iterdir() if (path / "run.toml").exists())
        assert len(forks_of(Run.open(path))) >= 2  # before it was resumed
        code, _, error = called(capsys, "resume", str(path), "--no-open")
        assert code == 0, error
    (path,) = (path for path in Path("runs").iterdir() if (path / "run.toml").exists())
    return Run.open(path)


@pytest.mark.parametrize("stop_at", [0, 100, 399])
def test_a_tuned_training_that_is_stopped_and_resumed_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    whole = trained(tmp_path / "whole", capsys, monkeypatch, None)
    resumed = trained(tmp_path / "resumed", capsys, monkeypatch, stop_at)
    assert forks_of(resumed) == forks_of(whole)
    assert resumed.configuration == whole.configuration and whole.configuration.fork_budget > 0
    decisions = [
        [e for e in run.events if e["event"] not in ("started", "interrupted", "resumed")] for run in (whole, resumed)
    ]
    assert [e["event"] for e in decisions[0]] == [e["event"] for e in decisions[1]]
    ends = [load_latest(run.folder)[0] for run in (whole, resumed)]
    assert ends[0] is not None and ends[1] is not None
    for name, tensor in ends[0].tensors.items():
        assert torch.equal(tensor, ends[1].tensors[name]), name
