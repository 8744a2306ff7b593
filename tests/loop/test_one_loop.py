"""One loop: what it promises by itself, the same numbers behind every door, and runs of version
0.3.0."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forked_loop import BATCHES, CRITERION, OwnLoop, pickled
from gradiometer import BadArgument, Run
from gradiometer.loop import Fork, Loop, alternative_of, fork, forks_of
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.forking import check_loop
from gradiometer.run.checkpoints import load_latest
from gradiometer.train import loop_at, resume, train
from stopped_training import problem, settings

KINDS: dict[str, dict[str, Any]] = {
    "SGD": {},
    "AdamW": {"optimizer": "AdamW", "scheduler": "cosine"},
    "RMSprop": {"optimizer": "RMSprop", "scheduler": "sequence"},
    "LBFGS": {"optimizer": "LBFGS"},
    "accumulation": {"accumulation": 2, "scheduler": "one cycle"},
    "scaler": {"scaled": True},
    "dropout": {"dropout": 0.3},
}
OLD = Path(__file__).parent / "old_runs" / "interrupted_0_3.tar.gz"
"""A run of 100 steps that version 0.3.0 stopped at step 70, with a fork at step 50 that was stopped
after 4 of 6 branches."""


def loop_of(own: OwnLoop) -> Loop:
    by_itself = isinstance(own.optimizer, torch.optim.LBFGS)
    return Loop(
        own.model,
        own.optimizer,
        loss=None if by_itself else own.loss,
        step=own.closure if by_itself else None,
        batches=lambda seed: BATCHES,
        evaluate=lambda model: 0.0,
        scheduler=own.scheduler,
        scaler=own.scaler,
        accumulation=own.accumulation,
        index=own.steps,
    )


def parts(loop: Loop | OwnLoop) -> list[Any]:
    return [pickled(loop.model.state_dict()), pickled(loop.optimizer.state_dict())]


def advance(loop: Loop, own: OwnLoop, updates: int) -> None:
    """Updates on the batches that a loop of one's own has from where it is."""
    for step in range(own.steps, own.steps + updates):
        loop.update(
            *(BATCHES[(step * own.accumulation + place) % 40] for place in range(own.accumulation))
        )


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_copy_makes_the_updates_of_the_training_and_leaves_it_as_it_is(
    kind: dict[str, Any],
) -> None:
    own = OwnLoop(**kind)
    for _ in range(3):
        own.update()
    loop, before = loop_of(own), own.state()
    copy, draws = loop.copy(), torch.get_rng_state()
    advance(copy, own, 4)
    torch.set_rng_state(draws)
    assert own.state() == before and (loop.index, copy.index) == (3, 7)
    for _ in range(4):
        own.update()
    assert parts(copy) == parts(own)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_state_that_is_restored_continues_with_the_same_bits(kind: dict[str, Any]) -> None:
    own = OwnLoop(**kind)
    loop = loop_of(own).copy()
    advance(loop, own, 3)
    kept, draws = loop.copy().state(), torch.get_rng_state()
    advance(loop, own, 3)
    expected, index = parts(loop), loop.index
    loop.restore(kept)
    torch.set_rng_state(draws)
    advance(loop, own, 3)
    assert parts(loop) == expected and loop.index == index


def test_a_copy_of_a_changed_loop_is_changed_and_the_original_is_not() -> None:
    own = OwnLoop("SGD", "cosine")
    loop = loop_of(own)
    changed = loop.copy()
    alternative_of("rate 2x & momentum 0.5 & SGD(lr=0.1)")(changed)
    again = changed.copy()
    assert (loop.factor, changed.factor, again.factor) == (1.0, 2.0, 2.0)
    assert again.optimizer is not changed.optimizer and again.optimizer.param_groups[0]["lr"] == 0.1
    assert again.schedulers[0].optimizer is not changed.schedulers[0].optimizer is not own.optimizer


def results(found: Fork) -> list[dict[str, Any]]:
    return [{**one.to_dict(), "seconds": 0} for one in found.results]


RUNS: dict[str, dict[str, Any]] = {
    "momentum": {},
    "AdamW": {"optimizer": "adamw", "momentum": 0.0, "learning_rate": 0.01, "schedule": "cosine"},
    "accumulation": {"accumulation": 3, "momentum": 0.0, "batch_size": 12},
}


@pytest.mark.parametrize("asked", RUNS.values(), ids=RUNS)
def test_a_run_and_a_loop_of_ones_own_in_the_same_state_have_the_same_forks(
    tmp_path: Path, asked: dict[str, Any]
) -> None:
    run = train(problem(), settings(epochs=3, **asked), tmp_path)
    ours = loop_at(run, 13, problem=problem())
    state = ours.copy()
    own = Loop(
        state.model,
        state.optimizer,
        loss=state.loss,
        batches=ours.data,
        evaluate=state.evaluate,
        scheduler=state.schedulers[0],
        index=13,
    )
    own.gradient = state.gradient
    alternatives = [
        "rate 2x",
        "batch 2x, rate sqrt",
        "momentum 0.5" if "momentum" not in asked else "clip 0.1",
    ]
    asked_of_fork: dict[str, Any] = {"horizon": "8 updates", "replicates": 2, "seed": 4}
    ends = [results(fork(loop, alternatives, **asked_of_fork)) for loop in (ours, own)]
    assert ends[0] == ends[1]


def test_who_gives_a_model_is_told_to_give_a_loop() -> None:
    with pytest.raises(
        BadArgument, match=r"`loop` must be a Loop, got Linear: give Loop\(model, optimizer"
    ):
        check_loop(torch.nn.Linear(1, 1))


def test_a_length_that_is_none_is_refused_by_its_name() -> None:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(BadArgument, match="`left` must be a length with its unit"):
        Loop(model, optimizer, loss=CRITERION, batches=BATCHES, left="soon")


@pytest.fixture
def old(tmp_path: Path) -> Run:
    with tarfile.open(OLD) as archive:
        archive.extractall(tmp_path, filter="data")
    return Run.open(tmp_path / "quadratic-position-1")


def test_a_fork_that_version_0_3_began_is_continued_from_its_branches(old: Run) -> None:
    (half,) = forks_of(old)
    assert len(half.fork.results) == 4 and not half.finished and old.status == "interrupted"
    trained: list[BranchResult] = []
    found = fork(
        loop_at(old, 50),
        ["rate 2x", "batch 2x, rate sqrt"],
        horizon="10 updates",
        replicates=2,
        out=old.path,
        progress=lambda result, done, total: trained.append(result),
    )
    (record,) = forks_of(old)
    assert record.path == half.path == found.path and record.finished and record.plan == half.plan
    # What version 0.3.0 found for them.
    ends = [
        10.118105614287554,
        10.111804855782005,
        10.119328661399718,
        10.115893631277547,
        10.108762035326697,
        10.118293934504498,
    ]
    assert [one.readouts["train_loss"].mean for one in found.results] == pytest.approx(
        ends, rel=1e-9
    )


def test_a_run_that_version_0_3_stopped_is_resumed(old: Run) -> None:
    run = resume(old.path)
    checkpoint, warnings = load_latest(run)
    assert run.status == "finished" and run.steps == 100 and not warnings and checkpoint is not None
    first = checkpoint.tensors["model.position"][:3].tolist()
    assert first == pytest.approx(
        [-2.1180257412669077, -0.3160180199107804, -0.9493285593887425], rel=1e-9
    )
    assert np.isfinite(run.losses[1]).all()
