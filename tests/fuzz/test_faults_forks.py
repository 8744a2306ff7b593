"""Every file operation of a fork fails once: a sentence, no finished branch is lost, and the same call continues."""

from collections.abc import Callable
from pathlib import Path

from test_faults import UNREADABLE, fail_every_call

from gradiometer.forks import ForkRecord, Plan, Rate
from gradiometer.forks.branch import Branch, BranchResult, Readout
from gradiometer.jobs import Here, Job, Ledger

PLAN = Plan(step=3, alternatives=(Rate(2),), replicates=2, horizon=64)


def branch(which: Branch) -> BranchResult:
    """A result as of a training, at once."""
    return BranchResult(
        which.alternative.name, which.replicate, which.horizon, updates=8, examples=64, seconds=0.0,
        curve=((8, 1.0),), readouts={"train_loss": Readout(1.0 + which.replicate)}, diverged=None,
    )  # fmt: skip


def forked(parent: Path, seen: list[str]) -> ForkRecord:
    """The whole life of a fork on disk. Adds the names of the branches that were handed out."""
    record = ForkRecord.keep(parent, PLAN)
    jobs = [Job(each.name, branch, (each,)) for each in PLAN.branches]
    for outcome in Here().run(jobs, ledger=record.ledger()):
        outcome.value()
        seen.append(outcome.name)
    return record.finish()


def test_a_fork_is_safe_from_every_fault(tmp_path: Path) -> None:
    places: list[Path] = []
    seen: list[str] = []

    def prepare() -> Callable[[], object]:
        places.append(tmp_path / str(len(places)))
        places[-1].mkdir()
        seen.clear()
        return lambda: forked(places[-1], seen)

    def check(label: str, raised: bool) -> None:
        handed_out = set(seen)
        records = [ForkRecord.open(path.parent) for path in places[-1].glob("forks/*/fork.json")]
        kept = {name for record in records for name in record.ledger().finished()}
        assert handed_out <= kept, label
        assert len(handed_out) == len(PLAN.branches) or raised, label
        again = forked(places[-1], seen)
        assert again.finished and len(again.fork.results) == len(PLAN.branches), label
        assert len([*places[-1].glob("forks/*/fork.json")]) == 1, label

    assert fail_every_call(prepare, check, UNREADABLE) > 15


def test_putting_damaged_lines_aside_is_safe_from_every_fault(tmp_path: Path) -> None:
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


def test_a_ledger_is_safe_from_every_fault(tmp_path: Path) -> None:
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

    assert fail_every_call(prepare, check, UNREADABLE) >= 8
