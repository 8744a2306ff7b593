"""Every file operation of a fork fails once: a sentence, no finished branch is lost, and the same
call continues."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from every_call import each_way
from faults import UNREADABLE

from gradiometer import BadArgument
from gradiometer.jobs import Job
from gradiometer.jobs.job import Outcome
from gradiometer.jobs.pool import Here, Ledger
from gradiometer.loop import Rate
from gradiometer.loop.branch import Branch, BranchResult, Readout
from gradiometer.loop.recorded import record
from gradiometer.loop.recorded.record import ForkRecord, Plan
from gradiometer.storage.disk import replace_file

PLAN = Plan(step=3, alternatives=(Rate(2),), replicates=2, horizon=64)


def branch(which: Branch) -> BranchResult:
    """A result as of a training, at once."""
    return BranchResult(
        which.alternative.name,
        which.replicate,
        which.horizon,
        updates=8,
        examples=64,
        seconds=0.0,
        curve=((8, 1.0),),
        readouts={"train_loss": Readout(1.0 + which.replicate)},
        diverged=None,
    )


def forked(parent: Path, seen: list[str]) -> ForkRecord:
    """The whole life of a fork on disk. Adds the names of the branches that were handed out."""
    kept = ForkRecord.keep(parent, PLAN)
    for outcome in branches_of(kept):
        outcome.value()
        seen.append(outcome.name)
    return kept.finish()


@each_way
def test_a_fork_is_safe_from_every_fault(
    fail_every_call: Callable[..., int], tmp_path: Path
) -> None:
    places: list[Path] = []
    seen: list[str] = []

    def prepare() -> Callable[[], object]:
        places.append(tmp_path / str(len(places)))
        places[-1].mkdir()
        seen.clear()
        return lambda: forked(places[-1], seen)

    def check(label: str, raised: bool) -> None:
        handed_out = set(seen)
        found = [ForkRecord.open(path.parent) for path in places[-1].glob("forks/*/fork.json")]
        kept = {name for each in found for name in each.ledger().finished()}
        assert handed_out <= kept, label
        assert len(handed_out) == len(PLAN.branches) or raised, label
        again = forked(places[-1], seen)
        assert again.finished and len(again.fork.results) == len(PLAN.branches), label
        assert len([*places[-1].glob("forks/*/fork.json")]) == 1, label

    assert fail_every_call(prepare, check, UNREADABLE, seen) > 15


@each_way
def test_putting_damaged_lines_aside_is_safe_from_every_fault(
    fail_every_call: Callable[..., int], tmp_path: Path
) -> None:
    records: list[ForkRecord] = []

    def prepare() -> Callable[[], object]:
        place = tmp_path / str(len(records))
        place.mkdir()
        records.append(forked(place, []))
        with records[-1].branches_path.open("ab") as file:
            file.write(b"torn\n")
        return ForkRecord.open(records[-1].path).ledger

    def check(label: str, raised: bool) -> None:
        assert len(ForkRecord.open(records[-1].path).fork.results) == len(PLAN.branches), label

    assert fail_every_call(prepare, check, UNREADABLE) > 5


@each_way
def test_a_ledger_is_safe_from_every_fault(
    fail_every_call: Callable[..., int], tmp_path: Path
) -> None:
    ledgers: list[Ledger] = []
    seen: list[int] = []

    def prepare() -> Callable[[], object]:
        ledgers.append(Ledger(tmp_path / f"{len(ledgers)}" / "finished.jsonl"))
        seen.clear()
        jobs = [Job(str(place), abs, (place,)) for place in range(3)]

        def act() -> None:
            seen.extend(outcome.value() for outcome in Here().run(jobs, ledger=ledgers[-1]))

        return act

    def check(label: str, raised: bool) -> None:
        finished = ledgers[-1].finished()
        assert {str(value) for value in seen} <= set(finished), label
        assert len(finished) == 3 or raised, label

    assert fail_every_call(prepare, check, UNREADABLE, seen) >= 8


def with_a_torn_line(parent: Path) -> Path:
    """A fork whose file of branches lost its last one and ends in a torn line."""
    kept = forked(parent, [])
    lines = kept.branches_path.read_bytes().splitlines(keepends=True)
    kept.branches_path.write_bytes(b"".join(lines[:-1]) + b'{"name":')
    return kept.path


def branches_of(record: ForkRecord) -> Iterator[Outcome]:
    jobs = [Job(each.name, branch, (each,)) for each in PLAN.branches]
    return Here().run(jobs, ledger=record.ledger())


def test_the_same_fork_twice_at_a_time_is_refused_and_loses_nothing(tmp_path: Path) -> None:
    first = branches_of(ForkRecord.keep(tmp_path, PLAN))
    next(first)
    with pytest.raises(
        BadArgument, match="is being written by another process: wait until it has finished"
    ):
        branches_of(ForkRecord.keep(tmp_path, PLAN))
    assert len([*first]) == len(PLAN.branches) - 1
    assert len(ForkRecord.keep(tmp_path, PLAN).fork.results) == len(PLAN.branches)


def test_a_fork_that_starts_while_another_process_puts_damaged_lines_aside_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_a_torn_line(tmp_path)
    slow, quick = ForkRecord.open(path), ForkRecord.open(path)
    assert slow.warnings and quick.warnings
    outcomes: list[Outcome] = []

    def meanwhile(*given: Any) -> None:
        monkeypatch.setattr(record, "replace_file", replace_file)
        with suppress(BadArgument):
            outcomes.extend(branches_of(quick))
        replace_file(*given)

    monkeypatch.setattr(record, "replace_file", meanwhile)
    with suppress(BadArgument):
        slow.ledger()
    assert {outcome.name for outcome in outcomes} <= set(ForkRecord.open(path).ledger().finished())
    assert len([*branches_of(ForkRecord.open(path))]) == len(PLAN.branches)
