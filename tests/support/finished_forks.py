"""Forks whose branches ended at given losses."""

from typing import Any

from gradiometer.loop import alternative_of
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.readout import Readout
from gradiometer.loop.recorded.record import ForkRecord, Plan
from gradiometer.run import Run


def kept(
    run: Run,
    ends: dict[str, list[float]],
    *,
    step: int = 100,
    curves: dict[str, tuple[float, ...]] | None = None,
    **settings: Any,
) -> ForkRecord:
    """A finished fork of a step whose branches ended at these losses; with curves in training
    loss."""
    name_of = "test_loss" if curves is None else "train_loss"
    alternatives = tuple(alternative_of(name) for name in ends if name != "go on")
    record = ForkRecord.keep(
        run.path, Plan(step, alternatives, len(next(iter(ends.values()))), 640, **settings)
    )
    from gradiometer.jobs import Job
    from gradiometer.jobs.pool import Here

    def result(name: str, replicate: int, loss: float) -> BranchResult:
        losses = (1.0,) if curves is None else curves[name]
        curve = tuple((640 * (one + 1) // len(losses), each) for one, each in enumerate(losses))
        return BranchResult(name, replicate, 640, 20, 640, 1.0, curve, {name_of: Readout(loss)})

    jobs = [
        Job(f"{name} {replicate}", result, (name, replicate, loss))
        for name, losses in ends.items()
        for replicate, loss in enumerate(losses)
    ]
    assert all(outcome.error is None for outcome in Here().run(jobs, ledger=record.ledger()))
    return record.finish()
