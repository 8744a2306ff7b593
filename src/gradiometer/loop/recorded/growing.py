"""The branches of a plan, trained in a pool and kept in a folder."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gradiometer.jobs.job import Job
from gradiometer.jobs.ledger import Ledger
from gradiometer.jobs.pool import Pool
from gradiometer.loop.branch import Branch, BranchResult
from gradiometer.loop.branches import Fork
from gradiometer.loop.changes.alternative import Alternative
from gradiometer.loop.comparison.racing import Stop, race
from gradiometer.loop.engine import changed, train_branch
from gradiometer.loop.loop import Loop
from gradiometer.loop.recorded.plan import Plan
from gradiometer.loop.recorded.record import ForkRecord
from gradiometer.randomness import untouched_randomness
from gradiometer.storage.disk import writing

# Called with a result, and the numbers of finished branches and of all planned branches.
Progress = Callable[[BranchResult, int, int], None]


def check_fits(loop: Loop, alternatives: Sequence[Alternative]) -> None:
    """Make each change once, without an update. Random states are afterwards as before.

    Raises:
        BadArgument: An alternative does not fit the training.
    """
    for alternative in alternatives:
        with untouched_randomness(0, loop.devices), changed(loop, alternative, 0, seed=0):
            pass


def train_branches(
    pool: Pool,
    loop: Loop,
    branches: Sequence[Branch],
    *,
    ledger: Ledger | None = None,
    threads: int = 1,
) -> Iterator[BranchResult]:
    """Train branches in a pool; their results as they finish.

    Args:
        pool: Where the branches are trained.
        loop: The training.
        branches: The branches.
        ledger: Where finished branches are kept; those that are in it are not trained again.
        threads: Threads of torch in every branch.

    Raises:
        GradiometerError: A branch failed; the others are finished and in the ledger.
    """
    jobs = [Job(branch.name, train_branch, (branch,), cpus=float(threads)) for branch in branches]
    failed = []
    for outcome in pool.run(jobs, shared=loop, ledger=ledger):
        if outcome.error is not None:
            failed.append(outcome)
        else:
            yield outcome.result
    for outcome in failed:
        outcome.value()


def train_plan(
    loop: Loop,
    plan: Plan,
    pool: Pool,
    *,
    out: Path | None = None,
    begin: Callable[[Plan], object] | None = None,
    progress: Progress | None = None,
    threads: int = 1,
) -> Fork:
    """Train the branches of a plan, all of them or as in a race.

    Args:
        loop: The training.
        plan: What to do.
        pool: Where the branches are trained.
        out: A folder. Finished branches are kept below it, and are not trained again by the same
            plan.
        begin: Called with the plan before the first branch.
        progress: Called after every branch.
        threads: Threads of torch in every branch.

    Raises:
        GradiometerError: A branch failed; the others are kept.
    """
    record = None if out is None else kept(out, plan)
    if record is not None and record.finished:
        return replace(record.fork, path=record.path)
    if begin is not None:
        begin(plan)
    ledger = None if record is None else record.ledger()
    total, done = len(plan.branches), 0

    def train(branches: Sequence[Branch]) -> Iterator[BranchResult]:
        nonlocal done
        for result in train_branches(pool, loop, branches, ledger=ledger, threads=threads):
            done += 1
            if progress is not None:
                progress(result, done, max(total, done))
            yield result

    stops: tuple[Stop, ...] = ()
    if plan.rungs:
        found = race(train, plan.alternatives, plan.rungs, tail=plan.tail)
        results, stops = found.results, found.stops
    else:
        results = tuple(train(plan.branches))
    if record is not None:
        record.finish(stops)
    return replace(
        plan.fork(results), path=None if record is None else record.path, notes=loop.warnings
    )


def kept(out: Path, plan: Plan) -> ForkRecord:
    """The record of a plan below a folder, which is made if there is none."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    return ForkRecord.keep(out, plan)
