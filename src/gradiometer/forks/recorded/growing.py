"""The branches of a plan, trained in a pool."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from gradiometer.forks.alternatives.alternative import Alternative
from gradiometer.forks.branch import Branch, BranchResult
from gradiometer.forks.comparison.racing import Stop, race
from gradiometer.forks.engine import Source, changed, grown
from gradiometer.forks.recorded.plan import Plan
from gradiometer.jobs.job import Job
from gradiometer.jobs.ledger import Ledger
from gradiometer.jobs.pool import Pool
from gradiometer.randomness import untouched_randomness

Progress = Callable[[BranchResult, int, int], None]
"""Called with a result, and the numbers of finished branches and of all planned branches."""


def check_fits(source: Source, alternatives: Sequence[Alternative]) -> None:
    """Make each change once, without an update. Random states are afterwards as before.

    Raises:
        BadArgument: An alternative does not fit the training.
    """
    for alternative in alternatives:
        with untouched_randomness(0, source.devices), changed(source, alternative, 0, seed=0):
            pass


def grown_in(
    pool: Pool, source: Source, branches: Sequence[Branch], *, ledger: Ledger | None = None, threads: int = 1
) -> Iterator[BranchResult]:
    """Train branches in a pool; their results as they finish.

    Args:
        pool: Where the branches are trained.
        source: The state.
        branches: The branches.
        ledger: Where finished branches are kept; those that are in it are not trained again.
        threads: Threads of torch in every branch.

    Raises:
        GradiometerError: A branch failed; the others are finished and in the ledger.
    """
    jobs = [Job(branch.name, grown, (branch,), cpus=float(threads)) for branch in branches]
    failed = []
    for outcome in pool.run(jobs, shared=source, ledger=ledger):
        if outcome.error is not None:
            failed.append(outcome)
        else:
            yield outcome.result
    for outcome in failed:
        outcome.value()


def grow(
    source: Source,
    plan: Plan,
    pool: Pool,
    *,
    ledger: Ledger | None = None,
    progress: Progress | None = None,
    threads: int = 1,
) -> tuple[tuple[BranchResult, ...], tuple[Stop, ...]]:
    """Train the branches of a plan, all of them or as in a race.

    Args:
        source: The state.
        plan: What to do.
        pool: Where the branches are trained.
        ledger: Where finished branches are kept; those that are in it are not trained again.
        progress: Called after every branch.
        threads: Threads of torch in every branch.

    Returns:
        The results, and the alternatives that a race has stopped.

    Raises:
        GradiometerError: A branch failed; the others are in the ledger.
    """
    total, done = len(plan.branches), 0

    def train(branches: Sequence[Branch]) -> Iterator[BranchResult]:
        nonlocal done
        for result in grown_in(pool, source, branches, ledger=ledger, threads=threads):
            done += 1
            if progress is not None:
                progress(result, done, max(total, done))
            yield result

    if not plan.rungs:
        return tuple(train(plan.branches)), ()
    return _raced(train, plan)


def _raced(
    train: Callable[[Sequence[Branch]], Iterable[BranchResult]], plan: Plan
) -> tuple[tuple[BranchResult, ...], tuple[Stop, ...]]:
    found = race(train, plan.alternatives, plan.rungs, tail=plan.tail)
    return found.results, found.stops
