"""Forks of a run, kept in its folder as `gradiometer fork` keeps them."""

from collections.abc import Sequence
from typing import Any

from gradiometer import Run
from gradiometer.loop import Alternative, fork
from gradiometer.loop.recorded.record import ForkRecord
from gradiometer.problems import Problem
from gradiometer.train import loop_at


def fork_of(
    run: Run,
    alternatives: Sequence[Alternative | str],
    at: int | None = None,
    problem: Problem | None = None,
    **settings: Any,
) -> ForkRecord:
    """A fork at a step of a run."""
    return ForkRecord.of(
        fork(loop_at(run, at, problem=problem), alternatives, out=run.path, **settings)
    )


def was_finished(run: Run, alternatives: Sequence[Alternative | str], **settings: Any) -> bool:
    """True if a fork has no branch left to train."""
    began: list[object] = []
    fork_of(run, alternatives, begin=began.append, **settings)
    return not began
