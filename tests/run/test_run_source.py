"""Branches from the state of a run: without a change, the bits of the run's own continuation."""

import pickle
from pathlib import Path

import pytest
import torch

from gradiometer import Draw
from gradiometer.loop import Loop
from gradiometer.loop.branch import Branch
from gradiometer.loop.changes.alternative import GoOn
from gradiometer.loop.engine import train_branch
from gradiometer.measurement import Order
from gradiometer.run.checkpoints import load_latest
from gradiometer.train import loop_at, train
from gradiometer.train.forking.own_loop import positions
from stopped_training import problem, settings

EVER = 10**6
WAYS = {
    "momentum and a schedule": ("mlp", {"schedule": "cosine"}),
    "nesterov and weight decay": (
        "mlp",
        {"nesterov": True, "weight_decay": 1e-3, "sampling": "replacement"},
    ),
    "accumulation": ("mlp", {"accumulation": 3, "momentum": 0.0, "batch_size": 12}),
    "snapshots": ("mlp", {"snapshots": 2}),
    "dropout and batch norm": ("cnn_with_batch_norm_and_dropout", {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_branch_without_a_change_has_the_bits_of_the_run(
    tmp_path: Path, way: str, monkeypatch
) -> None:
    name, asked = WAYS[way]
    run = train(problem(name), settings(epochs=3, **asked), tmp_path)
    loop = loop_at(run, 13, problem=problem(name))
    loop.data.see_own(EVER)
    ends = []
    monkeypatch.setattr(Loop, "readouts", lambda self, model: ends.append(model.state_dict()) or {})
    left = (
        300 - 13 * run.configuration.batch_size
        if run.configuration.batch_size == 10
        else 300 - 100 - 4 * 12
    )
    result = train_branch(loop, Branch(GoOn(), replicate=0, horizon=left, tail="none"))
    assert (result.updates, result.diverged) == (run.steps - 13, None)
    checkpoint, _ = load_latest(run)
    assert all(
        torch.equal(value, checkpoint.tensors[f"model.{key}"]) for key, value in ends[0].items()
    )


def test_the_state_is_the_same_after_a_branch_and_replicates_differ(tmp_path: Path) -> None:
    run = train(problem(), settings(epochs=2), tmp_path)
    loop = loop_at(run, 13, problem=problem())
    before = loop.copy().digest()
    branches = [Branch(GoOn(), replicate, horizon=50) for replicate in (0, 1, 0)]
    first, other, again = (train_branch(loop, branch) for branch in branches)
    assert loop.digest() == before
    assert first.curve == again.curve != other.curve
    assert first.readouts["test_loss"].mean == again.readouts["test_loss"].mean
    assert set(first.readouts) == {"train_loss", "test_loss", "test_accuracy"}


def test_a_source_can_be_sent_to_another_process(tmp_path: Path) -> None:
    from gradiometer.problems import load

    configuration = settings(epochs=1, batch_size=256, problem="digits", momentum=0.5)
    run = train(load("digits"), configuration, tmp_path)
    loop = loop_at(run, 3)
    branch = Branch(GoOn(), 0, horizon=512)
    sent = train_branch(pickle.loads(pickle.dumps(loop)), branch)
    here = train_branch(loop, branch)
    assert (sent.curve, sent.readouts["test_accuracy"].mean) == (
        here.curve,
        here.readouts["test_accuracy"].mean,
    )


@pytest.mark.parametrize("draw", [Draw.RESHUFFLED, Draw.REPLACEMENT])
def test_a_new_order_keeps_what_the_epoch_still_has(draw: Draw) -> None:
    order = Order(draw, examples=10, batch_size=3, seed=1)
    own = [order.batch(step).tolist() for step in range(9)]
    found = positions(order, step=5, seed=3, own_until=6)
    new = [next(found).tolist() for _ in range(4)]
    assert new[0] == own[5] and new[1:3] != own[6:8]
    assert [len(each) for each in new] == [len(each) for each in own[5:9]]
    if draw is Draw.RESHUFFLED:
        assert sorted(new[1] + new[2]) == sorted(own[6] + own[7])
