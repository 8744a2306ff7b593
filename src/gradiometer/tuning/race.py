"""Races between optimizers or batch sizes: each with the rates of its own bracket, in fewer and longer branches."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument
from gradiometer.forks.alternatives.alternative import Alternative, GoOn
from gradiometer.forks.alternatives.rates import BatchSize
from gradiometer.forks.branch import Branch, BranchResult, Tail
from gradiometer.forks.branches import Fork
from gradiometer.forks.recorded.plan import Plan
from gradiometer.forks.recorded.record import ForkRecord
from gradiometer.jobs.job import Outcome
from gradiometer.tuning.choice import LOWER, STEP, Choice, Stage, below_best, choose, rate_of
from gradiometer.tuning.optimizers import Made
from gradiometer.tuning.probe import Bracket
from gradiometer.tuning.stages import Plan as Stages
from gradiometer.tuning.trials import Trials, end_loss

FINALISTS = 2
"""Optimizers in the second part of a race."""


@dataclass(frozen=True)
class Lane:
    """An optimizer or a batch size in a race.

    Args:
        made: The optimizer.
        bracket: Its bracket of rates.
        trials: Its branches.
        short: Its branches of the first round, which it shares with other weight decays.
        start: Exponent of the first centre.
        before: The loss at the start.
        pace: Its updates that count as one of the first batch size.
        of_batch: True if batch sizes are raced.
        lean: Share of the loss within which a larger batch size counts as better after the first round.
    """

    made: Made
    bracket: Bracket
    trials: Trials
    short: Trials
    start: int
    before: float
    pace: float = 1.0
    of_batch: bool = False
    lean: float = 0.0

    @property
    def words(self) -> str:
        """What is raced, in a few words."""
        return f"batch {self.trials.size:,}" if self.of_batch else self.made.words

    @property
    def spent(self) -> float:
        """What its branches have cost, in updates at the first batch size."""
        return self.trials.updates / self.pace

    def paced(self, stage: Stage) -> Stage:
        """A stage at its pace."""
        return replace(stage, updates=max(int(stage.updates * self.pace), 1))

    @property
    def limits(self) -> tuple[int, int]:
        """The exponents between which rates are tried."""
        low, high = (math.log2(end / self.bracket.rate) / STEP for end in (self.bracket.low, self.bracket.high))
        return math.floor(low), math.ceil(high)

    def choice(self, first: Stage, then: Callable[[bool], Sequence[Stage]]) -> Choice:
        """The choice of the rate. Branches that are finished are not trained again."""
        first, (lowest, highest) = self.paced(first), self.limits

        def train(stage: Stage, centre: int, exponents: Sequence[int]) -> Mapping[int, float]:
            return (self.short if stage == first else self.trials)(stage, centre, exponents)

        return choose(
            train, first, lambda on_plateau: list(map(self.paced, then(on_plateau))),
            start=self.start, lowest=lowest, highest=highest, before=self.before,
            lower=0 if self.trials.keeps_rate else LOWER,
        )  # fmt: skip

    def duel(self, stage: Stage, centre: int, exponents: Sequence[int]) -> "Ended":
        """Train at some rates. Returns where the best of them ended."""
        self.trials(self.paced(stage), centre, exponents)
        return min((self.ended(self.trials, stage, centre, one) for one in exponents), key=_loss)

    def ended(self, trials: Trials, stage: Stage, centre: int, exponent: int) -> "Ended":
        """Where the branches at a rate have ended."""
        results = trials.ended(self.paced(stage).updates, centre, exponent)
        return Ended(self, rate_of(self.bracket.rate, exponent), results, trials.tail_of(stage))


@dataclass(frozen=True, eq=False)
class Ended:
    """Where the branches of an optimizer at its best rate have ended.

    Args:
        lane: The optimizer.
        rate: Its rate.
        results: Its branches, one for each data order.
        tail: How their rate ended.
    """

    lane: Lane
    rate: float
    results: tuple[BranchResult, ...]
    tail: Tail

    @property
    def loss(self) -> float:
        """The mean loss of the same training examples for all optimizers; inf if a branch diverged."""
        return sum(map(end_loss, self.results)) / len(self.results)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON types."""
        return {
            "name": self.lane.words,
            "learning_rate": self.rate,
            "loss": self.loss,
            "updates": max(result.updates for result in self.results),
        }


LEAN = 0.1
"""For the same time, the largest batch size whose loss is within this share of the lowest counts as the best after the
first round, and within half of it after the second: the longer a training, the better large batches do."""

Part = tuple[Ended, ...]
"""A part of a race: where each optimizer ended, the best first."""


def raced(lanes: Sequence[Lane], plan: Stages) -> tuple[Lane, Choice, tuple[Part, ...]]:
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
    heads = [lane for lane in lanes if lane.trials is lane.short]
    rounds = {id(lane): lane.choice(first, lambda _: ()).rounds[0] for lane in heads}
    ends = [lane.ended(lane.short, first, lane.start, rounds[id(lane)].best) for lane in heads]
    short = _ordered(ends, lanes[0].lean)
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
    best = min(long, key=_loss).lane
    centre = below_best(rounds[id(best)], *best.limits)
    long += [lane.duel(stage, centre, [centre]) for lane in lanes if lane.short is best.short and lane is not best]
    long = _ordered(long, lanes[0].lean / 2)
    parts = ((tuple(short),) if len(heads) > 1 else ()) + (tuple(long),)
    return long[0].lane, long[0].lane.choice(first, lambda _: [stage]), parts


def _ordered(ends: Sequence[Ended], lean: float) -> list[Ended]:
    """The ends by loss; before them, from the largest batch size, those within a share of the lowest loss."""
    lowest = min(end.loss for end in ends)
    near = [end for end in ends if lean and end.loss <= lowest + lean * abs(lowest)]
    near.sort(key=lambda end: -end.lane.trials.size)
    return near + sorted((end for end in ends if end not in near), key=_loss)


def _spent(lanes: Sequence[Lane]) -> float:
    """Updates of all branches so far, for one data order."""
    return sum(lane.spent / lane.trials.replicates for lane in lanes)


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
        lane.trials.finish()
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
    if not end.lane.of_batch:
        return end.lane.made.alternative(end.rate)
    return BatchSize(end.lane.trials.size / best.lane.trials.size, rate=float(f"{end.rate / best.rate:.3g}"))


def _loss(end: Ended) -> float:
    return end.loss
