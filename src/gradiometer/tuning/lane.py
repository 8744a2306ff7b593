"""`Lane`: an optimizer at a batch size in a tuning, whose branches are trained from the start and kept as forks."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gradiometer.jobs.pool import Pool
from gradiometer.loop.branch import Branch, BranchResult, Tail
from gradiometer.loop.branches import Fork
from gradiometer.loop.changes.alternative import GoOn
from gradiometer.loop.changes.rates import Rate
from gradiometer.loop.loop import Loop
from gradiometer.loop.recorded.growing import kept, train_branches
from gradiometer.loop.recorded.plan import Plan
from gradiometer.loop.recorded.record import ForkRecord
from gradiometer.loop.untouched import guarded_copy
from gradiometer.tuning.choice import LOWER, STEP, Choice, Stage, choose, rate_of
from gradiometer.tuning.optimizers import Made
from gradiometer.tuning.probe import Bracket
from gradiometer.tuning.task import ADAPTIVE, FORWARD, Measured, Task

READOUT = "train_loss"

LATE = 8
"""The last part of a branch whose mini-batches a guard is told of: one in so many."""

REACH = 24
"""Steps of the grid around the centre of a round whose rates belong to its plan."""

ABOVE = 5
"""The first round is centred this many steps of the grid above the rate of the probe."""

ADAPTIVE_STEPS, LEAST_ADAPTIVE, MOST_ADAPTIVE = 10_000, -3, 7
"""The first round of optimizers without a probe is centred at the rate of their bracket in a training of so many
updates. Each of their updates moves a weight by about the rate, and so the rates of shorter trainings are higher, here
as 1/√updates; by at most so many steps of the grid down and up."""


@dataclass(eq=False)
class Lane:
    """An optimizer at a batch size: trains branches from the start, at rates of its bracket.

    Args:
        task: What the tuning is asked to do.
        before: What was measured before the first branch.
        made: The optimizer.
        batch_size: Its batch size, as the task names it.
        pool: Where branches are trained.
        head: The lane that trains its first round, which differs in the weight decay; None if it does so itself.
    """

    task: Task
    before: Measured
    made: Made
    batch_size: int
    pool: Pool
    head: "Lane | None" = None
    results: dict[tuple[int, int], list[BranchResult]] = field(default_factory=dict)
    plans: dict[tuple[int, int], Plan] = field(default_factory=dict)
    records: dict[tuple[int, int], ForkRecord] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What is raced, in a few words."""
        return f"batch {self.size:,}" if self.task.of_batch else self.made.words

    @property
    def bracket(self) -> Bracket:
        """Its bracket of rates. The rate of the bracket is at exponent 0."""
        return self.before.brackets[self.made.family][1]

    @property
    def pace(self) -> float:
        """Its updates that count as one of the first batch size."""
        return self.before.paces.updates[self.batch_size]

    @property
    def size(self) -> int:
        """Examples of an update."""
        return self.batch_size if self.task.of_batch else self.before.size

    @property
    def steps(self) -> int:
        """Updates of the whole training."""
        return max(round(self.task.steps * self.pace), 1)

    @property
    def centre(self) -> int:
        """Exponent of the first centre. A step of the grid is a factor of √2."""
        if self.bracket is not ADAPTIVE:
            return ABOVE
        return max(LEAST_ADAPTIVE, min(round(math.log2(ADAPTIVE_STEPS / self.task.steps)), MOST_ADAPTIVE))

    @property
    def limits(self) -> tuple[int, int]:
        """The exponents between which rates are tried."""
        low, high = (math.log2(end / self.bracket.rate) / STEP for end in (self.bracket.low, self.bracket.high))
        return math.floor(low), math.ceil(high)

    @property
    def count(self) -> int:
        """Number of branches so far."""
        return sum(map(len, self.results.values()))

    @property
    def updates(self) -> float:
        """What all branches cost, in updates of training, with their readouts."""
        made = sum(result.updates for results in self.results.values() for result in results)
        return made + self.count * self.before.readout / self.size / FORWARD

    @property
    def spent(self) -> float:
        """The same in updates at the first batch size."""
        return self.updates / self.pace

    @property
    def forks(self) -> tuple[Fork, ...]:
        """The rounds as forks, in the order in which they were trained."""
        own = tuple(plan.fork(self.results[key]) for key, plan in self.plans.items())
        return own if self.head is None else (*self.head.forks[:1], *own)

    def paced(self, stage: Stage) -> Stage:
        """A stage at its pace."""
        return replace(stage, updates=max(int(stage.updates * self.pace), 1))

    def tail_of(self, stage: Stage) -> Tail:
        """How the rate of a branch of this round ends. An optimizer that averages its iterates keeps its rate."""
        return "none" if self.made.is_schedule_free else stage.tail

    def choice(self, first: Stage, then: Callable[[bool], Sequence[Stage]]) -> Choice:
        """The choice of the rate. Branches that are finished are not trained again."""
        first, (lowest, highest) = self.paced(first), self.limits

        def train(stage: Stage, centre: int, exponents: Sequence[int]) -> Mapping[int, float]:
            lane = self.head if stage == first and self.head is not None else self
            return lane.train(stage, centre, exponents)

        return choose(
            train, first, lambda on_plateau: list(map(self.paced, then(on_plateau))),
            start=self.centre, lowest=lowest, highest=highest, before=self.before.start.loss,
            lower=0 if self.made.is_schedule_free else LOWER,
        )  # fmt: skip

    def duel(self, stage: Stage, centre: int, exponents: Sequence[int]) -> "Ended":
        """Train at some rates. Returns where the best of them ended."""
        self.train(self.paced(stage), centre, exponents)
        return min((self.ended(stage, centre, one) for one in exponents), key=loss_of)

    def ended(self, stage: Stage, centre: int, exponent: int) -> "Ended":
        """Where the branches at a rate have ended."""
        results = self._at(self.paced(stage).updates, centre, exponent)
        return Ended(self, rate_of(self.bracket.rate, exponent), results, self.tail_of(stage))

    def train(self, stage: Stage, centre: int, exponents: Sequence[int]) -> Mapping[int, float]:
        """Train one branch for every exponent and replicate.

        Returns the training loss at the end by exponent, on the same examples for all.
        """
        task, key = self.task, (stage.updates, centre)
        optimizer = self.made(task.model.parameters(), rate_of(self.bracket.rate, centre))
        data = task.data[self.batch_size]
        loop = Loop(task.model, optimizer, loss=task.loss, batches=data, readout_examples=self.before.readout)
        if key not in self.plans:
            label = f" batch {self.size}" if task.of_batch else ""
            self.plans[key] = self._plan(stage, loop.digest() + label)
        plan = self.plans[key]
        if task.out is not None and key not in self.records:
            self.records[key] = kept(task.out, plan)
        found = self.results.setdefault(key, [])
        known = {result.alternative for result in found}
        branches = [
            Branch(_alternative(exponent - centre), replicate, plan.horizon, plan.tail)
            for exponent in exponents
            for replicate in range(task.replicates)
            if _alternative(exponent - centre).name not in known
        ]
        ledger = self.records[key].ledger() if key in self.records else None
        with guarded_copy(loop, task.seed) as start:
            for result in train_branches(self.pool, start, branches, ledger=ledger, threads=task.threads):
                found.append(result)
                if task.progress is not None:
                    task.progress(result, self.count, self.count)
        ends = {exponent: self._at(stage.updates, centre, exponent) for exponent in exponents}
        return {one: _mean([end_loss(result) for result in found]) for one, found in ends.items()}

    def finish(self) -> None:
        """Note on disk that the rounds are finished."""
        for record in self.records.values():
            if not record.finished:
                record.finish()

    def _at(self, updates: int, centre: int, exponent: int) -> tuple[BranchResult, ...]:
        """The finished branches of this length around this centre at this exponent."""
        name = _alternative(exponent - centre).name
        return tuple(result for result in self.results[updates, centre] if result.alternative == name)

    def _plan(self, stage: Stage, state: str) -> Plan:
        rates = tuple(_alternative(apart) for apart in range(-REACH, REACH + 1) if apart)
        seed, left = self.task.seed, self._examples(self.steps)
        horizon = self._examples(stage.updates)
        return Plan(0, rates, self.task.replicates, horizon, self.tail_of(stage), seed=seed, left=left, state=state)

    def _examples(self, updates: int) -> int:
        """The examples of so many updates; the last batch of an epoch may be smaller than the others."""
        return max(int(updates * self.size * self.task.data[self.batch_size].filled), 1)


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
        return _mean(list(map(end_loss, self.results)))

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON types."""
        return {
            "name": self.lane.words,
            "learning_rate": self.rate,
            "loss": self.loss,
            "updates": max(result.updates for result in self.results),
        }


def lanes_of(task: Task, before: Measured, pool: Pool) -> list[Lane]:
    """A lane for every optimizer, or for every batch size. Those that differ in weight decay share the first round."""
    lanes = list[Lane]()
    for made, size in itertools.product(before.kinds, task.data):
        heads = [
            lane for lane in lanes if lane.head is None and (lane.made.family, lane.batch_size) == (made.family, size)
        ]
        lanes.append(Lane(task, before, made, size, pool, heads[0] if heads else None))
    return lanes


def loss_of(end: Ended) -> float:
    """The loss of an end, to order ends by."""
    return end.loss


def end_loss(result: BranchResult) -> float:
    """The mean training loss of the examples of the readout at the end of a branch; inf if it diverged."""
    return math.inf if result.diverged is not None else result.readouts[READOUT].mean


def late_loss(result: BranchResult) -> float:
    """The mean loss of the last eighth of the mini-batches of a branch, each before its update; inf if it diverged."""
    if result.diverged is not None:
        return math.inf
    late = [loss for examples, loss in result.curve if examples > result.examples * (LATE - 1) / LATE]
    return _mean(late) if late else math.inf


def _alternative(apart: int) -> Any:
    """The rate so many steps above that of the centre."""
    return Rate(rate_of(1.0, apart)) if apart else GoOn()


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses)
