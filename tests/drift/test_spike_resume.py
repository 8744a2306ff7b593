"""A training that was stopped examines the same steps as one that was not."""

from pathlib import Path

import pytest
import torch
from torch import nn

from gradiometer import Configuration, Run, supervised
from gradiometer.errors import Interrupted
from gradiometer.problems import Examples, Problem
from gradiometer.run import problem as recorded
from gradiometer.train import resume, train
from stopped_training import StopAt

ASKED = Configuration(
    problem="x:y",
    learning_rate=1e-5,
    steps=320,
    batch_size=8,
    every=50,
    check_edge=False,
    check_endpoint=False,
)


def outlying(*targets: float) -> Problem:
    """A regression whose first examples have these targets, so that the loss is high once in an
    epoch for each."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 4, generator=generator)
    labels = inputs.sum(1) + torch.randn(256, generator=generator)
    labels[: len(targets)] = torch.tensor(targets)
    made = lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))  # noqa: E731 (as a problem has it)
    return Problem(
        "line", made, supervised(nn.MSELoss(reduction="none")), Examples((inputs, labels))
    )


def examined(run: Run) -> list[int]:
    return [event["step"] for event in run.events if event["event"] == "loss_examined"]


@pytest.mark.slow
def test_a_resumed_training_examines_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = outlying(60.0)
    monkeypatch.setattr(recorded, "load", lambda *_, **__: problem)
    whole = train(problem, ASKED, tmp_path / "whole")
    assert len(examined(whole)) >= 2
    for stop in (40, 82, 120):
        with pytest.raises(Interrupted):
            train(problem, ASKED, tmp_path / f"{stop}", StopAt(stop))
        (folder,) = (tmp_path / f"{stop}").iterdir()
        assert examined(resume(folder)) == examined(whole)
