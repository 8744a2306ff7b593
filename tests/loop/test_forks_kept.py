"""Forks of an own loop that are kept in a folder, raced on a budget, or made by a watch."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from forked_loop import BATCHES, CRITERION, OwnLoop
from gradiometer import BadArgument, StorageFailed, watch
from gradiometer.loop import Rate, forks_of
from gradiometer.loop.recorded.record import ForkRecord, Plan
from unseen import unseen

LISTED = list(BATCHES)


def test_a_fork_that_was_stopped_continues_from_its_finished_branches(tmp_path: Path) -> None:
    trained: list[str] = []

    def stop(result: Any, done: int, total: int) -> None:
        trained.append(result.alternative)
        if done == 4 and len(trained) == 4:
            raise KeyboardInterrupt

    settings: dict[str, Any] = {"out": tmp_path / "kept", "batches": LISTED, "replicates": 2}
    with pytest.raises(KeyboardInterrupt):
        OwnLoop().fork(progress=stop, **settings)
    calls = unseen(0)

    def counted(model: nn.Module, batch: Any) -> torch.Tensor:
        calls.value += model.training
        return CRITERION(model, batch)

    again = OwnLoop().fork(loss=counted, **settings)
    whole = OwnLoop().fork(batches=LISTED, replicates=2)
    # the first update as a check, "rate 2x" and "batch 2x" of the last replicate
    assert calls.value == 1 + 4 + 2
    assert [{**result.to_dict(), "seconds": 0} for result in again.results] == [
        {**result.to_dict(), "seconds": 0} for result in whole.results
    ]
    (record,) = (ForkRecord.open(path) for path in (tmp_path / "kept" / "forks").iterdir())
    assert record.finished and len(record.fork.results) == 6


def test_a_fork_is_finished_with_the_branches_that_it_has_when_progress_says_that_it_is_enough(
    tmp_path: Path,
) -> None:
    seen: list[int] = []

    def is_to_go_on(result: Any, done: int, total: int) -> bool:
        seen.append(done)
        return done < 6

    settings: dict[str, Any] = {"out": tmp_path / "kept", "batches": LISTED, "replicates": 4}
    found = OwnLoop().fork(progress=is_to_go_on, **settings)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert found.replicates == 2 and len(found.results) == 6
    (record,) = (ForkRecord.open(path) for path in (tmp_path / "kept" / "forks").iterdir())
    assert record.finished
    whole = OwnLoop().fork(batches=LISTED, replicates=2)
    assert found.effects() == whole.effects()
    again = OwnLoop().fork(progress=is_to_go_on, **settings)
    assert len(seen) == 6 and again.effects() == found.effects()


def test_another_state_is_another_fork(tmp_path: Path) -> None:
    loop = OwnLoop()
    loop.fork(out=tmp_path)
    loop.update()
    loop.fork(out=tmp_path)
    assert sorted(path.name for path in (tmp_path / "forks").iterdir()) == ["0001", "0002"]


@pytest.mark.parametrize("operation", ["write_new", "replace", "rename"])
def test_a_kill_while_a_plan_is_written_leaves_nothing_behind(
    tmp_path: Path, operation: str, monkeypatch
) -> None:
    plan = Plan(step=100, alternatives=(Rate(2),), replicates=2, horizon=6_400)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(
            "gradiometer.storage.disk.write_new", killed
        ) if operation == "write_new" else patched.setattr(Path, operation, killed)
        ForkRecord.keep(tmp_path, plan)
    assert ForkRecord.find(tmp_path, plan) is None, "a record without its number"
    record = ForkRecord.keep(tmp_path, plan)
    assert record.name == "0001" and ForkRecord.open(record.path).plan == plan
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["0001", "fork.json", "forks"]


def test_each_of_several_plans_that_are_written_at_the_same_time_has_one_number(
    tmp_path: Path,
) -> None:
    plans = [
        Plan(step=step, alternatives=(Rate(2),), replicates=2, horizon=6_400) for step in range(8)
    ] * 2
    with ThreadPoolExecutor(16) as threads:
        records = list(threads.map(lambda plan: ForkRecord.keep(tmp_path, plan), plans))
    assert all(
        ForkRecord.open(record.path).plan == plan
        for record, plan in zip(records, plans, strict=True)
    )
    assert sorted(path.name for path in (tmp_path / "forks").iterdir()) == [
        f"{number:04d}" for number in range(1, 9)
    ]


def test_a_new_fork_gets_a_number_that_no_fork_has_had(tmp_path: Path) -> None:
    plans = [
        Plan(step=step, alternatives=(Rate(2),), replicates=2, horizon=6_400) for step in range(4)
    ]
    first, second, third = (ForkRecord.keep(tmp_path, plan) for plan in plans[:3])
    shutil.rmtree(first.path)
    (second.path / "fork.json").write_text("not a plan")
    assert ForkRecord.keep(tmp_path, plans[3]).name == "0004"
    assert ForkRecord.keep(tmp_path, plans[2]).path == third.path
    assert (second.path / "fork.json").read_text() == "not a plan"


def test_a_branch_that_diverged_is_read_back_and_not_trained_again(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"out": tmp_path, "alternatives": ["rate 1e30x"], "replicates": 1}
    found = OwnLoop().fork(**asked)
    (record,) = (ForkRecord.open(path) for path in (tmp_path / "forks").iterdir())
    assert [result.diverged is None for result in record.fork.results] == [True, False]
    read = record.fork.results[1]
    assert (
        read.diverged == found.results[1].diverged
        and read.updates == found.results[1].updates
        and not read.readouts
    )
    before = record.branches_path.read_bytes()
    OwnLoop().fork(**asked)
    assert (
        record.branches_path.read_bytes() == before
        and not record.path.joinpath("branches.damaged.jsonl").exists()
    )


def test_a_fork_with_an_infinite_setting_is_kept_and_read_back(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"out": tmp_path, "replicates": 1}
    found = OwnLoop().fork(alternatives=["AdamW(lr=1e400)"], **asked)
    assert [result.diverged is None for result in found.results] == [True, False]
    (record,) = (ForkRecord.open(path) for path in (tmp_path / "forks").iterdir())
    assert record.finished and record.fork.results[1].diverged == found.results[1].diverged
    assert OwnLoop().fork(alternatives=["AdamW(lr=1e400)"], **asked).path == record.path


def test_a_folder_whose_name_the_system_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="name too long"):
        OwnLoop().fork(out=tmp_path / ("a" * 300))


def test_a_budget_races_over_growing_horizons() -> None:
    found = OwnLoop().fork(
        batches=LISTED,
        horizon=None,
        replicates=None,
        budget=3.0,
        left="64 updates",
        alternatives=["rate 1e-6x"],
    )
    horizons = {result.horizon for result in found.results}
    assert (
        horizons == {found.horizon} and found.horizon % 8 == 0 and 16 * 8 <= found.horizon <= 64 * 8
    )
    for given, message in (
        ({"budget": 1.0, "left": "10 updates"}, "`horizon` is given together with `budget`"),
        (
            {"budget": 1.0, "horizon": None, "replicates": None},
            "`budget` is in units of the whole training: give `left`",
        ),
        (
            {"budget": float("nan"), "horizon": None, "replicates": None, "left": "10 updates"},
            "`budget` must be positive and finite",
        ),
        ({"horizon": None}, "`horizon` is missing"),
    ):
        with pytest.raises(BadArgument, match=message):
            OwnLoop().fork(**given)


def test_a_watch_forks_its_loop_and_keeps_the_fork_in_its_run(tmp_path: Path) -> None:
    loop = OwnLoop(accumulation=2, scaled=True)
    plain = OwnLoop(accumulation=2, scaled=True)
    with watch(
        loop.model,
        loop.optimizer,
        loss=loop.loss,
        accumulation=2,
        scaler=loop.scaler,
        out=tmp_path,
        page=False,
    ) as w:
        for step in range(6):
            loop.update(w)
            if step == 2:
                asked: dict[str, Any] = {"horizon": "4 updates", "replicates": 2}
                found = w.fork(batches=LISTED, alternatives=["rate 2x", "skip 4:5"], **asked)
        run = w.run
    for _ in range(6):
        plain.update()
    assert loop.losses == plain.losses and loop.state()["model"] == plain.state()["model"]
    assert found is not None and run is not None
    assert [(result.examples, result.updates) for result in found.results[:3]] == [
        (64, 4),
        (64, 4),
        (64, 3),
    ]
    (record,) = forks_of(run)
    assert record.plan.step == 3 and record.fork.horizon == found.horizon == 64
    assert w.budget.spent_on["forks on request"] > 0 and w.overhead["outside"] == [
        "forks on request"
    ]


def test_a_watch_forks_with_the_decorators_of_its_loss(tmp_path: Path) -> None:
    @wraps(CRITERION)
    def doubled(model: nn.Module, batch: Any) -> torch.Tensor:
        return 2 * CRITERION(model, batch)

    loop, asked = (
        OwnLoop(),
        {"horizon": "1 update", "replicates": 1, "alternatives": ["rate 2x"], "batches": LISTED},
    )
    with watch(
        loop.model, loop.optimizer, loss=doubled, out=tmp_path, budget=0.0, page=False, quiet=True
    ) as w:
        loop.update(w)
        found = w.fork(**asked)
    again = loop.fork(loss=doubled, evaluate=None, index=1, **asked)
    assert found is not None
    assert [one.readouts["train_loss"].mean for one in found.results] == [
        one.readouts["train_loss"].mean for one in again.results
    ]


def test_a_watch_that_cannot_fork_says_why(tmp_path: Path) -> None:
    loop = OwnLoop()
    with watch(loop.model, loop.optimizer, out=tmp_path, budget=0.0, page=False) as w:
        with pytest.raises(BadArgument, match="`step` was not called yet"):
            w.fork(batches=LISTED, alternatives=["rate 2x"], horizon="1 update")
        loop.update(w)
        with pytest.raises(
            BadArgument, match="`loss` is missing, and it cannot be seen in your loop"
        ):
            w.fork(batches=LISTED, alternatives=["rate 2x"], horizon="1 update")
        given: dict[str, Any] = {"horizon": "1 update", "loss": CRITERION, "replicates": 1}
        assert w.fork(batches=LISTED, alternatives=["rate 2x"], **given) is not None
