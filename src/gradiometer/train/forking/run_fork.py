"""`fork_run`: what would have happened in a run of `gradiometer train`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gradiometer.forks.alternatives.alternative import Alternative
from gradiometer.forks.forking import fork
from gradiometer.forks.recorded.plan import Plan
from gradiometer.forks.recorded.record import ForkRecord
from gradiometer.problems.problem import Problem
from gradiometer.run.reader import Run
from gradiometer.train.forking.run_state import loop_at


@dataclass(frozen=True)
class RunFork:
    """A fork of a run: its record, and what was noticed while the state was made.

    Args:
        record: The fork on disk.
        was_finished: True if nothing had to be trained.
        warnings: Sentences about the state that the branches start from.
    """

    record: ForkRecord
    was_finished: bool
    warnings: tuple[str, ...] = ()


def fork_run(
    run: Run,
    alternatives: Sequence[Alternative | str],
    *,
    at: int | None = None,
    problem: Problem | None = None,
    begin: Callable[[Plan], object] | None = None,
    **settings: Any,
) -> RunFork:
    """`gradiometer.forks.fork` of the loop at a step of a run, kept in its folder."""
    began = []

    def note(plan: Plan) -> None:
        began.append(plan)
        if begin is not None:
            begin(plan)

    found = fork(
        loop_at(run, at, problem=problem),
        alternatives,
        out=run.path,
        threads=run.configuration.threads,
        begin=note,
        **settings,
    )
    assert found.path is not None
    return RunFork(ForkRecord.open(found.path), was_finished=not began, warnings=found.notes)
