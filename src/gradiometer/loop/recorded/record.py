"""Forks in a folder: `forks/0001/fork.json` is the plan, what a fork is asked to do;
`branches.jsonl` has a line for each finished branch."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from jaxtyping import Float

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument, RunDamaged
from gradiometer.loop.branch import HELD, Branch, BranchResult, Count, Tail
from gradiometer.loop.branches import Fork
from gradiometer.loop.changes.alternative import Alternative, GoOn
from gradiometer.loop.changes.text import alternative_of
from gradiometer.loop.comparison.racing import Rung, Stop
from gradiometer.loop.readout import Readout
from gradiometer.measurement.uncertainty.differences import MOST_PAIRS
from gradiometer.run.reader import Run, check_run
from gradiometer.storage.disk import (
    check_inside,
    one_at_a_time,
    read_file,
    reason_of,
    replace_file,
    sync_folder,
    writing,
)
from gradiometer.storage.journal import JournalWriter, being_written, plain, read_journal, restored

if TYPE_CHECKING:  # a run is read on a machine without torch
    from gradiometer.jobs.pool import Ledger


@dataclass(frozen=True)
class Plan:
    """What a fork is asked to do. The same plan from the same state gives the same numbers.

    Args:
        step: Index of the first update of the branches.
        alternatives: What is compared with going on as it is.
        replicates: Number of data orders, each common to all alternatives; at most 10,000.
        horizon: Length of a branch in examples.
        tail: How the rate of every branch ends.
        seed: Seed of the data orders and random draws.
        left: Examples that are left in the training; None if that is not known.
        own_until: Step up to which all branches see the batches of the run itself.
        rungs: The stages of a race, whose last horizon is `horizon`; empty if all branches are
            trained.
        state: Digits that identify the state, if it is not that of a run at `step`.
        averaged: True if branches are read out at the mean of their last parameters.
        budget: Examples that all branches of a race together may train on; 0 for those of its
            stages.

    Raises:
        BadArgument: A number or the tail cannot be used, or an alternative is given twice.

    >>> from gradiometer.loop import Rate
    >>> from gradiometer.loop.recorded.record import Plan
    >>> plan = Plan(step=100, alternatives=(Rate(2),), replicates=2, horizon=6_400)
    >>> [branch.alternative.name for branch in plan.branches]
    ['go on', 'rate 2x', 'go on', 'rate 2x']
    """

    step: Count
    alternatives: tuple[Alternative, ...]
    replicates: Count
    horizon: Count
    tail: Tail = "linear"
    seed: int = 0
    left: Count | None = None
    own_until: Count = 0
    rungs: tuple[Rung, ...] = ()
    state: str = ""
    averaged: bool = False
    budget: Count = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("step", 0),
            ("replicates", 1),
            ("horizon", 1),
            ("seed", 0),
            ("own_until", 0),
        ):
            check_whole(name, getattr(self, name), least)
        if not self.replicates <= MOST_PAIRS:
            raise BadArgument(
                f"`replicates` must be at most {MOST_PAIRS:,}, got {self.replicates:,}."
            )
        if self.tail not in tuple(HELD):
            raise BadArgument(f"`tail` must be one of {', '.join(HELD)}, got {self.tail!r}.")
        if not self.alternatives:
            raise BadArgument(
                "`alternatives` must be a list of at least one alternative, such as ['rate 2x']."
            )
        for name in self.names:
            if self.names.count(name) != 1:
                raise BadArgument(
                    f"`alternatives` has {name!r} twice; the baseline, 'go on', is always included."
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the baseline and of the alternatives."""
        return (GoOn().name, *(one.name for one in self.alternatives))

    @property
    def horizons(self) -> tuple[int, ...]:
        """The lengths of branches in examples; several in a race."""
        return tuple(rung.horizon for rung in self.rungs) or (self.horizon,)

    @property
    def branches(self) -> tuple[Branch, ...]:
        """All branches, one replicate after another. In a race, those that are trained if nothing
        is stopped."""
        stages = [(rung.horizon, rung.replicates) for rung in self.rungs] or [
            (self.horizon, self.replicates)
        ]
        return tuple(
            Branch(alternative, replicate, horizon, self.tail)
            for horizon, replicates in stages
            for replicate in range(replicates)
            for alternative in (GoOn(), *self.alternatives)
        )

    def fork(self, results: Sequence[BranchResult]) -> Fork:
        """The fork with the longest of these branches, and with the alternatives that have any of
        them."""
        longest = max((result.horizon for result in results), default=self.horizon)
        chosen = [result for result in results if result.horizon == longest]
        others = tuple(result for result in results if result.horizon != longest)
        chosen.sort(key=lambda result: (result.replicate, self.names.index(result.alternative)))
        tried = {result.alternative for result in chosen}
        return Fork(
            step=self.step,
            alternatives=tuple(one for one in self.alternatives if one.name in tried),
            replicates=len({result.replicate for result in chosen}),
            horizon=longest,
            results=tuple(chosen),
            tail=self.tail,
            seed=self.seed,
            left=self.left,
            shorter=others,
            averaged=self.averaged,
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON types."""
        return {
            **vars(self),
            "alternatives": [one.to_dict() for one in self.alternatives],
            "rungs": msgspec.to_builtins(self.rungs),
        }


# Version of the two files. It is raised if readers of the previous version cannot read the new one.
FORMAT = 1

FOLDER, PLAN, BRANCHES, DAMAGED = "forks", "fork.json", "branches.jsonl", "branches.damaged.jsonl"


class _Format(msgspec.Struct):
    format: Annotated[int, msgspec.Meta(ge=1)]


class _StoredFork(_Format):
    """The types of `fork.json`."""

    plan: Plan
    stops: tuple[Stop, ...] | None


@dataclass(frozen=True)
class ForkRecord:
    """A fork on disk: finished, under way, or stopped. Make it by `open`, `keep` or `forks_of`.

    Args:
        path: Its folder.
        plan: What it was asked to do.
        stops: The alternatives that a race has stopped; None until a fork is finished.

    >>> from pathlib import Path
    >>> from gradiometer.loop import Rate
    >>> from gradiometer.loop.recorded.record import Plan
    >>> from gradiometer.loop.recorded.record import ForkRecord
    >>> record = ForkRecord.keep(Path("."), Plan(step=100, alternatives=(Rate(2),), replicates=2, horizon=6_400))
    >>> record.name, record.finished, ForkRecord.open(record.path).plan == record.plan
    ('0001', False, True)
    """

    path: Path
    plan: Plan
    stops: tuple[Stop, ...] | None = None

    @classmethod
    def keep(cls, parent: Path, plan: Plan) -> "ForkRecord":
        """The record of this plan below a run's folder: the one that has it already, or a new one.

        Raises:
            StorageFailed: It cannot be written.
        """
        folder = parent / FOLDER
        with writing(folder):
            check_inside(folder / PLAN)
            folder.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(folder):
                known = cls.find(parent, plan)
                if known is not None:
                    return known
                aside = folder / ".new"  # if this process is killed, the next one uses it again
                aside.mkdir(exist_ok=True)
                cls(aside, plan)._write()
                numbers = [int(one.name) for one in folder.iterdir() if one.name.isdecimal()]
                path = folder / f"{max(numbers, default=0) + 1:04d}"
                aside.rename(path)
                sync_folder(folder)
                return cls(path, plan)

    @classmethod
    def find(cls, parent: Path, plan: Plan) -> "ForkRecord | None":
        """The record of this plan below a run's folder, or None."""
        return next((found for found in _records(parent, {}) if found.plan == plan), None)

    @classmethod
    def open(cls, path: Path) -> "ForkRecord":
        """The record in this folder.

        Raises:
            RunDamaged: Its plan cannot be read.
        """
        try:
            written = restored(msgspec.json.decode(read_file(path / PLAN)))
            if msgspec.convert(written, _Format).format > FORMAT:
                raise RunDamaged(f"`{path}` was written by a newer gradiometer: install that one.")
            content = msgspec.convert(
                written, _StoredFork, dec_hook=lambda _, stored: alternative_of(stored)
            )
        except OSError as error:
            raise RunDamaged(f"`{path / PLAN}` cannot be read: {reason_of(error)}.") from error
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise RunDamaged(f"`{path / PLAN}` is not the plan of a fork: {error}") from error
        return cls(path, content.plan, content.stops)

    @classmethod
    def of(cls, fork: Fork) -> "ForkRecord":
        """The record of a fork that is kept.

        Raises:
            BadArgument: It is in memory only.
        """
        if fork.path is None:
            raise BadArgument("`fork` is not kept in a folder: give `out` when it is made.")
        return cls.open(fork.path)

    def keep_own(self, losses: Float[np.ndarray, " updates"]) -> None:
        """Keep the updates that the training has made itself as the branch without a change, which
        then is not trained.

        Args:
            losses: The loss of each of its updates from the step of the branches on, as many as a
                branch has.

        Raises:
            StorageFailed: The file cannot be written.
        """
        from gradiometer.jobs.job import Outcome  # noqa: PLC0415 (imports torch)

        branch, number = self.plan.branches[0], len(losses)
        # a curve has at most 48 points
        ends = sorted({-(-place * number // 48) for place in range(1, 49)})
        curve = tuple(
            (stop * branch.horizon // number, float(np.mean(losses[start:stop])))
            for start, stop in pairwise([0, *ends])
        )
        is_finite = bool(np.isfinite(losses).all())
        late = Readout(float(np.mean(losses[number // 2 :])))
        result = BranchResult(
            branch.alternative.name,
            branch.replicate,
            branch.horizon,
            number,
            branch.horizon,
            0.0,
            curve,
            {"train_loss": late} if is_finite else {},
            diverged=None if is_finite else "the loss is not finite",
            highest=float(np.max(losses)),
        )
        with self.ledger().opened() as keep:
            keep(Outcome(branch.name, result))

    @property
    def name(self) -> str:
        """Number of the fork, such as 0001."""
        return self.path.name

    @property
    def branches_path(self) -> Path:
        """File of the finished branches."""
        return self.path / BRANCHES

    def ledger(self) -> "Ledger":
        """The finished branches, for a pool. If lines do not fit, `branches.damaged.jsonl` keeps
        the file first.

        Raises:
            BadArgument: Another process is working on this fork.
            StorageFailed: The file cannot be written.
        """
        from gradiometer.jobs.pool import Ledger  # noqa: PLC0415 (imports torch)

        if being_written(self.branches_path):
            raise BadArgument(
                f"`{self.path}` is being written by another process: wait until it has finished."
            )
        if self._read[1]:
            # Keep the file of the branches, and write it anew without the lines that do not fit.
            # Nobody else appends.
            locked = JournalWriter(self.branches_path, self.path, "start the same fork again")
            with closing(locked), writing(self.branches_path):
                lines = ForkRecord(self.path, self.plan, self.stops)._read[2]
                replace_file(self.path / DAMAGED, read_file(self.branches_path))
                replace_file(
                    self.branches_path,
                    b"".join(json.dumps(plain(line)).encode() + b"\n" for line in lines),
                )
        return Ledger(self.branches_path, encode=BranchResult.to_dict, decode=self._result_of)

    @cached_property
    def fork(self) -> Fork:
        """The fork with the branches that are finished."""
        return self.plan.fork(self._read[0])

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence about each line that could not be used, and about what could make the
        comparison wrong."""
        return (*self._read[1], *self.fork.warnings)

    @property
    def finished(self) -> bool:
        """True if every branch is finished that is wanted."""
        return self.stops is not None

    def finish(self, stops: Sequence[Stop] = ()) -> "ForkRecord":
        """Note that every branch is finished.

        Raises:
            StorageFailed: It cannot be written.
        """
        made = ForkRecord(self.path, self.plan, tuple(stops))
        with writing(self.path):
            made._write()
        return made

    def _write(self) -> None:
        stops = None if self.stops is None else plain(self.stops)
        content = {"format": FORMAT, "plan": self.plan.to_dict(), "stops": stops}
        # a setting of an optimizer may be infinite
        replace_file(self.path / PLAN, json.dumps(plain(content), indent=1).encode())

    @property
    def running(self) -> bool:
        """True if a process is working on it."""
        return not self.finished and being_written(self.branches_path)

    @cached_property
    def _read(self) -> tuple[tuple[BranchResult, ...], list[str], list[dict[str, Any]]]:
        """The results, a warning for each line that does not fit, and the other lines."""
        lines, warnings = read_journal(self.branches_path)
        results: dict[str, BranchResult] = {}
        kept: dict[str, dict[str, Any]] = {}
        for number, record in lines:
            try:
                result, name = self._result_of(record["result"]), str(record["name"])
            except (ValueError, KeyError, msgspec.ValidationError) as error:
                warnings.append(
                    f"{self.name}/{BRANCHES}:{number}: not a branch of this fork ({error}): "
                    "skipped."
                )
                continue
            results[name], kept[name] = result, record
        return tuple(results.values()), warnings, list(kept.values())

    def _result_of(self, stored: Mapping[str, Any]) -> BranchResult:
        """The result of a branch of this plan.

        Raises:
            ValueError: It belongs to no branch, or a number is missing.
        """
        result = BranchResult.from_dict(stored)
        known = result.alternative in self.plan.names and result.horizon in self.plan.horizons
        # a race may add replicates
        if not (known and (self.plan.rungs or result.replicate < self.plan.replicates)):
            raise ValueError(
                f"the plan has no {result.alternative!r} of replicate {result.replicate!r} and "
                f"{result.horizon!r} examples"
            )
        if result.diverged is None and not (
            result.readouts
            and all(math.isfinite(readout.mean) for readout in result.readouts.values())
        ):
            raise ValueError("it has no finite readout, and did not diverge")
        return result


def forks_of(run: Run) -> tuple[ForkRecord, ...]:
    """The forks of a run, in the order in which they were started.

    One whose plan cannot be read is left out, and `run.warnings` names it.

    >>> from gradiometer.loop import forks_of
    >>> from gradiometer.run import Run
    >>> from gradiometer.run.folder import RunFolder
    >>> forks_of(Run.open(RunFolder.create("runs", "alone", {}).path))
    ()
    """
    check_run(run)
    return tuple(_records(run.path, run.unread))


def _records(parent: Path, unread: dict[str, str]) -> Iterator[ForkRecord]:
    try:
        paths = sorted(parent.glob(f"{FOLDER}/[0-9]*/{PLAN}"))
    except OSError:
        # such as a name that is too long; up to Python 3.12, later ones find nothing
        return
    for path in paths:
        try:
            yield ForkRecord.open(path.parent)
        except RunDamaged as error:
            unread[path.relative_to(parent).as_posix()] = str(error).removesuffix(".")
