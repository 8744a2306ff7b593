"""Units of time, progress, pools and processes of a fork of a loop."""

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from forked_loop import (
    INPUTS,
    LABELS,
    OwnLoop,
)
from gradiometer.jobs.pool import Here
from gradiometer.loop import Custom
from several_ranks import run_all

SUPPORT = Path(__file__).parents[1] / "support"


def test_epochs_seconds_and_percent_are_counted() -> None:
    loader = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=8, shuffle=True)
    loop = OwnLoop(scheduler="lambda")
    found = loop.fork(
        batches=loader, horizon="25%", left="8 epochs", scheduler_each="epoch", tail="none"
    )
    assert found.horizon == 192 and found.left == 768
    found = OwnLoop().fork(batches=loader, horizon="0.05 s")
    assert 8 < found.horizon < 8_000


def test_a_scheduler_stepped_every_epoch_is_stepped_every_epoch() -> None:
    rates: list[float] = []

    def look(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any) -> None:
        optimizer.register_step_pre_hook(lambda one, *_: rates.append(one.param_groups[0]["lr"]))

    loop = OwnLoop(scheduler="lambda")
    loader = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=32, shuffle=True)
    loop.fork(
        batches=loader,
        horizon="2 epochs",
        scheduler_each="epoch",
        tail="none",
        alternatives=[Custom("look", look)],
    )
    assert rates == [0.05] * 3 + [0.025] * 3


def test_progress_is_told_after_every_branch() -> None:
    told: list[tuple[str, int, int]] = []
    OwnLoop().fork(
        replicates=2,
        progress=lambda result, done, total: told.append((result.alternative, done, total)),
    )
    assert [done for _, done, _ in told] == [1, 2, 3, 4, 5, 6] and {
        total for *_, total in told
    } == {6}


def test_a_pool_that_is_given_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    monkeypatch.setattr(Here, "close", lambda _: closed.append("closed"))
    OwnLoop().fork(pool=Here())
    assert not closed
    OwnLoop().fork(pool="here")
    assert len(closed) == 1


@pytest.mark.slow
def test_processes_give_the_same_bits() -> None:
    found = {
        pool: OwnLoop("AdamW", dropout=0.3).fork(
            batches=(INPUTS, LABELS), batch_size=8, replicates=2, pool=pool
        )
        for pool in ("here", "processes:2")
    }
    here, there = (
        [{**result.to_dict(), "seconds": 0} for result in each.results] for each in found.values()
    )
    assert here == there


@pytest.mark.slow
def test_under_ddp_the_first_process_forks_and_the_training_keeps_its_bits(tmp_path: Path) -> None:
    run_all(2, sys.executable, str(SUPPORT / "rank_fork.py"), str(tmp_path))
    sizes = ast.literal_eval((tmp_path / "sizes").read_text())
    assert sizes == [4] * 2 * 24  # both processes' share of each of 12 updates, in 2 replicates


@pytest.mark.slow
def test_under_ddp_updates_are_compared_and_clipping_is_found(tmp_path: Path) -> None:
    run_all(2, sys.executable, str(SUPPORT / "rank_replay.py"), str(tmp_path))
    notes, refusal = ast.literal_eval((tmp_path / "said").read_text())
    # without clipping the parameters would differ; BatchNorm is that of each process
    (note,) = notes
    assert "its parameters have the same bits" in note
    assert len(refusal) == 1 and "does not make the updates of your loop" in refusal[0]


@pytest.mark.slow
def test_what_is_kept_under_ddp_is_bounded_and_serves_earlier_steps(tmp_path: Path) -> None:
    """Also batches of a class of one's own, whose name is in no store."""
    run_all(2, sys.executable, str(SUPPORT / "rank_kept.py"), str(tmp_path))
    first, other = (ast.literal_eval((tmp_path / f"said {rank}").read_text()) for rank in (0, 1))
    assert first["fork at"].startswith("After 4 of 77 updates from step 64, ")
    assert "its parameters have the same bits" in first["fork"]
    assert "it needs a training in one process" in first["incident"]
    assert first["back"] == other["back"] and "needs a training in one process" in first["back"]
    most, left = ast.literal_eval(first["keys"])
    # two stretches of four updates, and those of the two barriers
    assert most <= 12 and left <= 3
