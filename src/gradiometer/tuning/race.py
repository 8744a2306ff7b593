"""Races between optimizers or batch sizes: each with the rates of its own bracket, in fewer and longer branches."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument
from gradiometer.jobs.job import Outcome
from gradiometer.loop.branch import Branch
from gradiometer.loop.branches import Fork
from gradiometer.loop.changes.alternative import Alternative, GoOn
from gradiometer.loop.changes.rates import BatchSize
from gradiometer.loop.recorded.plan import Plan
from gradiometer.loop.recorded.record import ForkRecord
from gradiometer.tuning.choice import Choice, below_best
from gradiometer.tuning.lane import Ended, Lane, loss_of
from gradiometer.tuning.stages import Rounds

FINALISTS = 2
"""Optimizers in the second part of a race."""


LEAN = 0.1
"""For the same time, the largest batch size whose loss is within this share of the lowest counts as the best after the
first round, and within half of it after the second: the longer a training, the better large batches do."""

Part = tuple[Ended, ...]
"""A part of a race: where each optimizer ended, the best first."""


def raced(lanes: Sequence[Lane], plan: Rounds) -> tuple[Lane, Choice, tuple[Part, ...]]:
    """The best of several lanes, the choice of its rate, and the parts of the race, none for one lane.

    All kinds of optimizers make a first round of branches, each at one weight decay, since short branches do not show
    it. The two best train longer ones just below their best rate and an octave below that. The other weight decays of
    the best then train one just below its best rate.

    Args:
        lanes: The optimizers.
        plan: What the budget pays for.

    Raises:
        BadArgument: The budget does not pay for a comparison of weight decays.
    """
    if len(lanes) == 1:
        return lanes[0], lanes[0].choice(plan.first, lambda on_plateau: plan.then(_spent(lanes), on_plateau)), ()
    first = plan.first
    heads = [lane for lane in lanes if lane.head is None]
    rounds = {id(lane): lane.choice(first, lambda _: ()).rounds[0] for lane in heads}
    ends = [lane.ended(first, lane.centre, rounds[id(lane)].best) for lane in heads]
    lean = LEAN if lanes[0].task.aim == "time" else 0.0
    short = _ordered(ends, lean)
    stage = plan.final(_spent(lanes))
    if stage is None and len(heads) == 1:
        raise BadArgument("`budget` pays for no long branches, which compare weight decays: give more, or one decay.")
    if stage is None:
        return short[0].lane, short[0].lane.choice(first, lambda _: ()), (tuple(short),)
    spacing = stage.spacing if len(heads) > 1 else 0
    long = []
    for end in short[:FINALISTS]:
        centre = below_best(rounds[id(end.lane)], *end.lane.limits)
        long.append(end.lane.duel(stage, centre, sorted({centre - spacing, centre})))
    best = min(long, key=loss_of).lane
    centre = below_best(rounds[id(best)], *best.limits)
    long += [lane.duel(stage, centre, [centre]) for lane in lanes if lane.head is best]
    long = _ordered(long, lean / 2)
    parts = ((tuple(short),) if len(heads) > 1 else ()) + (tuple(long),)
    return long[0].lane, long[0].lane.choice(first, lambda _: [stage]), parts


def _ordered(ends: Sequence[Ended], lean: float) -> list[Ended]:
    """The ends by loss; before them, from the largest batch size, those within a share of the lowest loss."""
    lowest = min(end.loss for end in ends)
    near = [end for end in ends if lean and end.loss <= lowest + lean * abs(lowest)]
    near.sort(key=lambda end: -end.lane.size)
    return near + sorted((end for end in ends if end not in near), key=loss_of)


def _spent(lanes: Sequence[Lane]) -> float:
    """Updates of all branches so far, for one data order."""
    return sum(lane.spent / lane.task.replicates for lane in lanes)


def as_fork(ends: Sequence[Ended], *, seed: int, left: Amount) -> tuple[Plan, Fork]:
    """A part of a race as a fork whose baseline is the best optimizer, and the alternatives are the others."""
    alternatives = tuple(_alternative(end, ends[0]) for end in ends[1:])
    best = ends[0].results[0]
    state = f"{ends[0].lane.words} at {ends[0].rate:.3g}"
    plan = Plan(
        0, alternatives, len(ends[0].results), best.horizon, ends[0].tail, seed=seed, left=int(left), state=state
    )
    names = [GoOn().name, *(one.name for one in alternatives)]
    results = [
        replace(result, alternative=name, horizon=best.horizon)
        for name, end in zip(names, ends, strict=True)
        for result in end.results
    ]
    return plan, plan.fork(results)


def finish(out: Path, lanes: Sequence[Lane], races: Sequence[tuple[Plan, Fork]]) -> None:
    """Note on disk that all branches are finished, and keep the parts of the race beside the forks of the rates."""
    for lane in lanes:
        lane.finish()
    for plan, fork in races:
        _keep(out, plan, fork)


def _keep(out: Path, plan: Plan, fork: Fork) -> None:
    record = ForkRecord.keep(out, plan)
    if record.finished:
        return
    ledger = record.ledger()
    known, alternatives = ledger.finished(), {one.name: one for one in (GoOn(), *plan.alternatives)}
    with ledger.opened() as write:
        for result in fork.results:
            name = Branch(alternatives[result.alternative], result.replicate, result.horizon, plan.tail).name
            if name not in known:
                write(Outcome(name, result, seconds=result.seconds))
    record.finish()


def _alternative(end: Ended, best: Ended) -> Alternative:
    """An optimizer or a batch size, as seen from the best one."""
    if not end.lane.task.of_batch:
        return end.lane.made.alternative(end.rate)
    return BatchSize(end.lane.size / best.lane.size, rate=float(f"{end.rate / best.rate:.3g}"))
