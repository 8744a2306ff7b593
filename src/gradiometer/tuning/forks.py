"""The rungs of a race as forks in a folder, which the page of the run shows."""

from dataclasses import replace
from pathlib import Path

from gradiometer.jobs.job import Outcome
from gradiometer.loop.branch import Branch
from gradiometer.loop.changes.alternative import Alternative, GoOn
from gradiometer.loop.changes.rates import BatchSize
from gradiometer.loop.recorded.growing import kept
from gradiometer.loop.recorded.plan import Plan
from gradiometer.tuning.lane import tail_of
from gradiometer.tuning.tuned import Tried, Tuned


def keep_forks(out: Path, tuned: Tuned) -> None:
    """Keep every rung of a race as a fork, whose baseline is the best lane of it."""
    for rung in tuned.rungs:
        best = rung[0]
        alternatives = [GoOn(), *(_alternative(one, best) for one in rung[1:])]
        horizon, tail = best.result.horizon, tail_of(best.lane.made)
        state = f"{best.lane.name} after {best.updates}"
        left = tuned.steps * tuned.batch_size
        record = kept(
            out,
            Plan(best.updates, tuple(alternatives[1:]), 1, horizon, tail, left=left, state=state),
        )
        if record.finished:
            continue
        with record.ledger().opened() as write:
            for alternative, one in zip(alternatives, rung, strict=True):
                result = replace(
                    one.result, alternative=alternative.name, replicate=0, horizon=horizon
                )
                write(
                    Outcome(
                        Branch(alternative, 0, horizon, tail).name, result, seconds=result.seconds
                    )
                )
        record.finish()


def _alternative(one: Tried, best: Tried) -> Alternative:
    """A lane as seen from the best one."""
    if one.lane.size != best.lane.size:
        return BatchSize(
            one.lane.size / best.lane.size, rate=float(f"{one.lane.rate / best.lane.rate:.3g}")
        )
    return one.lane.made.alternative(one.lane.rate)
