"""The branches of a tuning: trained from the start at given rates, kept as forks, and counted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from gradiometer.forks.alternatives.alternative import GoOn
from gradiometer.forks.alternatives.rates import Rate
from gradiometer.forks.branch import Branch, BranchResult, Tail
from gradiometer.forks.branches import Fork
from gradiometer.forks.data import Data
from gradiometer.forks.loop import Loop
from gradiometer.forks.recorded.growing import Progress, kept, train_branches
from gradiometer.forks.recorded.plan import Plan
from gradiometer.forks.recorded.record import ForkRecord
from gradiometer.forks.untouched import guarded_copy
from gradiometer.jobs.pool import Pool
from gradiometer.measurement.loss import Loss
from gradiometer.tuning.choice import Stage, rate_of
from gradiometer.tuning.optimizers import MakeOptimizer

READOUT = "train_loss"

LATE = 8
"""The last part of a branch whose mini-batches a guard is told of: one in so many."""

REACH = 24
"""Steps of the grid around the centre of a round whose rates belong to its plan."""

FORWARD = 3
"""A forward pass costs an update divided by this."""


@dataclass
class Trials:
    """Trains branches from the start.

    Args:
        model: The model at its start. It is not touched.
        make: Makes an optimizer for parameters and a rate.
        data: The training data.
        loss: The loss of training.
        size: Examples of an update.
        steps: Updates of the whole training.
        readout: Training examples that every branch is read out on.
        replicates: Number of data orders.
        anchor: The rate at exponent 0.
        pool: Where branches are trained.
        seed: Seed of the data orders and of the random draws.
        threads: Threads of torch in every branch.
        out: Folder for the forks; None to keep them in memory only.
        progress: Called after every branch.
        keeps_rate: True for an optimizer that averages its iterates: its rate does not fall at the end of a branch.
        label: What tells the branches from others of the same state and length; empty if nothing does.
    """

    model: nn.Module
    make: MakeOptimizer
    data: Data
    loss: Loss
    size: int
    steps: int
    readout: int
    replicates: int
    anchor: float
    pool: Pool
    seed: int = 0
    threads: int = 1
    out: Path | None = None
    progress: Progress | None = None
    keeps_rate: bool = False
    label: str = ""
    results: dict[tuple[int, int], list[BranchResult]] = field(default_factory=dict)
    plans: dict[tuple[int, int], Plan] = field(default_factory=dict)
    records: dict[tuple[int, int], ForkRecord] = field(default_factory=dict)

    def __call__(self, stage: Stage, centre: int, exponents: Sequence[int]) -> Mapping[int, float]:
        """Train one branch for every exponent and replicate.

        Returns the training loss at the end by exponent, on the same examples for all.
        """
        optimizer = self.make(self.model.parameters(), rate_of(self.anchor, centre))
        loop = Loop(self.model, optimizer, loss=self.loss, batches=self.data, readout_examples=self.readout)
        key = stage.updates, centre
        if key not in self.plans:
            self.plans[key] = self._plan(stage, loop.digest() + self.label)
        plan = self.plans[key]
        if self.out is not None and key not in self.records:
            self.records[key] = kept(self.out, plan)
        found = self.results.setdefault(key, [])
        known = {result.alternative for result in found}
        branches = [
            Branch(_alternative(exponent - centre), replicate, plan.horizon, plan.tail)
            for exponent in exponents
            for replicate in range(self.replicates)
            if _alternative(exponent - centre).name not in known
        ]
        ledger = self.records[key].ledger() if key in self.records else None
        with guarded_copy(loop, self.seed) as start:
            for result in train_branches(self.pool, start, tuple(branches), ledger=ledger, threads=self.threads):
                found.append(result)
                if self.progress is not None:
                    self.progress(result, self.count, self.count)
        ends = {exponent: self.ended(stage.updates, centre, exponent) for exponent in exponents}
        return {one: _mean([end_loss(result) for result in found]) for one, found in ends.items()}

    def ended(self, updates: int, centre: int, exponent: int) -> tuple[BranchResult, ...]:
        """The finished branches of this length around this centre at this exponent."""
        name = _alternative(exponent - centre).name
        return tuple(result for result in self.results[updates, centre] if result.alternative == name)

    @property
    def count(self) -> int:
        """Number of branches so far."""
        return sum(map(len, self.results.values()))

    @property
    def forks(self) -> tuple[Fork, ...]:
        """The rounds as forks, in the order in which they were trained."""
        return tuple(plan.fork(self.results[key]) for key, plan in self.plans.items())

    @property
    def updates(self) -> float:
        """What all branches cost, in updates of training, with their readouts."""
        made = sum(result.updates for results in self.results.values() for result in results)
        return made + self.count * self.readout / self.size / FORWARD

    def finish(self) -> None:
        """Note on disk that the rounds are finished."""
        for record in self.records.values():
            if not record.finished:
                record.finish()

    def tail_of(self, stage: Stage) -> Tail:
        """How the rate of a branch of this round ends."""
        return "none" if self.keeps_rate else stage.tail

    def _plan(self, stage: Stage, state: str) -> Plan:
        rates = tuple(_alternative(apart) for apart in range(-REACH, REACH + 1) if apart)
        return Plan(
            0,
            rates,
            self.replicates,
            self._examples(stage.updates),
            self.tail_of(stage),
            seed=self.seed,
            left=self._examples(self.steps),
            state=state,
        )

    def _examples(self, updates: int) -> int:
        """The examples of so many updates; the last batch of an epoch may be smaller than the others."""
        return max(int(updates * self.size * self.data.filled), 1)


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
