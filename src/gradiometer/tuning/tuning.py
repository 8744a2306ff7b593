"""A tuning under way: the start is measured, and the lanes of a race are trained, kept and read
out."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradiometer.arguments import check_number, check_whole
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument
from gradiometer.jobs.choice import opened
from gradiometer.jobs.job import Job, Outcome
from gradiometer.jobs.ledger import Ledger
from gradiometer.jobs.pool import Pool
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.checks import check_trainable
from gradiometer.loop.data import Data, Ordered, data_of, first_size
from gradiometer.loop.evaluation import examples_of
from gradiometer.loop.loop import TRAIN_EXAMPLES, Loop
from gradiometer.loop.readout import Readout
from gradiometer.loop.untouched import guarded_copy
from gradiometer.measurement.estimate import significant
from gradiometer.measurement.loss import Loss
from gradiometer.problems.examples import Examples
from gradiometer.tuning.aim import Aim, check_aim, paces_for
from gradiometer.tuning.lane import HELD_OUT_READOUT, READOUT, Lane, judge, readout_of
from gradiometer.tuning.optimizers import SCHEDULE_FREE, Made
from gradiometer.tuning.race import Entry, LaneRace
from gradiometer.tuning.start import overshooting_rate, start_of
from gradiometer.tuning.tuned import WORDS, Tried, Tuned
from gradiometer.tuning.variants import Amounts, Optimizers, several_of, variants

# The rate in the middle of the first rung, as a share of the one at which the first update
# overshoots. The best rate of SGD was a 16th or an 8th of it in eight of twelve problems, and between
# a 16th and 8 times it in all.
BELOW = 1 / 8

# The examples that a lane is read out on, as a share of those of the training; at most 2,048.
READ = 1 / 32

FILE = "race.jsonl"

# Called with a sentence after every lane of every rung.
Progress = Callable[[str], None]

# Makes a lane of a loop at its start, an optimizer, a rate, a batch size and the number of steps.
MakeLane = Callable[[Loop, Made, float, int, int], Lane]


def run_race(
    make_lane: MakeLane,
    model: nn.Module,
    *,
    loss: Loss,
    batches: Any,
    steps: int | None,
    batch_size: int | Sequence[int] | None,
    aim: Aim | None,
    held_out: Any,
    budget: Amount,
    optimizer: Optimizers | None,
    momentum: Amounts,
    nesterov: bool,
    weight_decay: Amounts,
    clip: Amount | None,
    seed: int,
    pool: str | Pool,
    threads: int,
    out: Path | None,
    progress: Progress | None,
) -> Tuned:
    """Check the arguments of `tune`, and race lanes that this function makes."""
    if optimizer is None:
        optimizer = "sgd" if steps is not None else SCHEDULE_FREE
    kinds = variants(optimizer, momentum, nesterov, weight_decay)
    data = data_for(batches, batch_size, aim, held_out)
    has_length = steps is not None
    if steps is None:
        steps = steps_without_length(next(iter(data.values())), kinds, seed)
    for name, value, least in (("steps", steps, 8), ("seed", seed, 0), ("threads", threads, 1)):
        check_whole(name, value, least)
    check_number("budget", budget, positive=True)
    if clip is not None:
        check_number("clip", clip, positive=True)
    if len(data) > 1 and len(kinds) > 1:
        raise BadArgument(
            "`batch_size` has several values, and so has the optimizer: choose one after the other."
        )
    with opened(pool) as where:
        tuning = Tuning(
            model,
            loss,
            data,
            kinds,
            steps,
            budget,
            clip,
            aim,
            None if held_out is None else examples_of(held_out),
            seed,
            threads,
            out,
            progress,
            where,
        )
        return tuning.run(make_lane, has_length=has_length)


@dataclass
class Tuning:
    """A tuning under way. The arguments are those of `tune`, checked."""

    model: nn.Module
    loss: Loss
    data: Mapping[int, Data]
    kinds: Sequence[Made]
    steps: int
    budget: Amount
    clip: Amount | None
    aim: Aim | None
    held_out: Examples | None
    seed: int
    threads: int
    out: Path | None
    progress: Progress | None
    pool: Pool

    def run(self, make_lane: MakeLane, *, has_length: bool = True) -> Tuned:
        """Measure the start, and race."""
        self.began = time.monotonic()
        self.done = 0.0
        self.make_lane = make_lane
        self.lanes = dict[Entry, Lane]()
        present = next(iter(self.data.values()))
        loop = self._loop(self.kinds[0], present, 1.0)
        check_trainable(loop.model)
        self.size = first_size(present, self.seed) * present.shards
        self.examples = max(min(int(READ * self.steps * self.size), TRAIN_EXAMPLES), 1)
        if self.held_out is not None and len(self.held_out) > self.examples:
            # read out as many as of the training
            chosen = torch.randperm(
                len(self.held_out), generator=torch.Generator().manual_seed(self.seed)
            )
            self.held_out = self.held_out.part(chosen[: self.examples])
        start = start_of(loop, seed=self.seed)
        # In units of the first gradient, so that the unit of the loss changes no choice.
        if self.clip is not None:
            self.kinds = tuple(kind.with_clipping(self.clip * start.norm) for kind in self.kinds)
        probes = [overshooting_rate(self._loop(kind, present, 1.0), start) for kind in self.kinds]
        self.paces = paces_for(
            self.aim,
            self.model,
            self.kinds[0],
            self.data,
            loss=self.loss,
            seed=self.seed,
            out=self.out,
        )
        spent = start.gradients + sum(gradients for _, gradients in probes) + self.paces.cost
        self.middles = [BELOW * rate for rate, _ in probes]
        self.results = dict[tuple[Entry, float], BranchResult]()
        left = float(self.budget) - spent / self.steps
        # A forward pass costs a third of a gradient.
        examples = self.examples + (0 if self.held_out is None else len(self.held_out))
        readout = examples / (3 * self.size * self.steps)
        race = LaneRace(self._train, len(self.kinds) * len(self.data), readout, left)
        # The start and the probes are paid for, too.
        if race.least > left:
            needed = math.ceil(100 * (race.least + spent / self.steps) + 1e-6) / 100
            raise BadArgument(
                f"`budget` {self.budget:g} pays for no three lanes of each kind: give at least "
                f"{needed:g}."
            )
        self.race = race
        with guarded_copy(loop, self.seed):
            winner = race.run()
        cost = float(self.budget) - race.left - race.reached[winner]
        tried = tuple(
            tuple(
                Tried(
                    self.lanes[entry],
                    updates_of(rung.share, self.lanes[entry]),
                    self.results[entry, rung.share],
                    self.readout,
                )
                for entry in rung.ranking()
            )
            for rung in race.rungs
        )
        best = self.lanes[winner]
        return Tuned(
            best,
            tried,
            cost,
            float(self.budget),
            self.aim,
            self.paces.times,
            has_length,
            start.loss,
        )

    @property
    def readout(self) -> str:
        """The loss that lanes are compared by."""
        return READOUT if self.held_out is None else HELD_OUT_READOUT

    def _loop(self, made: Made, data: Data, rate: float) -> Loop:
        optimizer = made(self.model.parameters(), rate)
        return Loop(self.model, optimizer, loss=self.loss, batches=data)

    def _lane(self, entry: Entry) -> Lane:
        """The lane of an entry: its kind is an optimizer or a batch size."""
        if entry not in self.lanes:
            several = len(self.data) > 1
            made = self.kinds[0 if several else entry.kind]
            key, data = list(self.data.items())[entry.kind if several else 0]
            rate = self.middles[0 if several else entry.kind] * 2.0**entry.octave
            loop = self._loop(made, data, rate)
            loop.seed = self.seed
            size = key if several else self.size
            steps = max(round(self.steps * self.paces.updates[key]), 1)
            self.lanes[entry] = self.make_lane(loop, made, rate, size, steps)
        return self.lanes[entry]

    def _train(self, entries: Sequence[Entry], share: float, cooled: float) -> list[Readout]:
        """Train lanes to a share of the training, and judge them, in the pool: those whose end is
        not known yet."""
        lanes = {entry: self._lane(entry) for entry in entries}
        names = dict[str, Entry]()
        for entry, lane in lanes.items():
            lane.stops.append(updates_of(share, lane))
            names[f"{lane.name} after {lane.stops[-1]:,}"] = entry
        ledger = (
            None
            if self.out is None
            else Ledger(self.out / FILE, BranchResult.to_dict, BranchResult.from_dict)
        )
        known = {} if ledger is None else ledger.finished()
        ends = {name: known[name].result for name in names if name in known}
        jobs = [
            Job(
                name,
                judge,
                (lanes[entry], cooled, self.examples, self.held_out),
                cpus=float(self.threads),
            )
            for name, entry in names.items()
            if name not in ends
        ]
        for outcome in self.pool.run(jobs):
            entry = names[outcome.name]
            ends[outcome.name], self.lanes[entry] = outcome.value()
            if ledger is not None:
                with ledger.opened() as keep:
                    keep(Outcome(outcome.name, ends[outcome.name], seconds=outcome.seconds))
            self.done += share + cooled - self.race.reached.get(entry, 0.0)
            self._tell(self.lanes[entry], ends[outcome.name])
        self.results |= {(entry, share): ends[name] for name, entry in names.items()}
        return [readout_of(ends[name], self.readout) for name in names]

    def _tell(self, lane: Lane, end: BranchResult) -> None:
        """Say where a lane has ended, and how long all the rest will take."""
        if self.progress is None:
            return
        loss = readout_of(end, self.readout).mean
        ended = f"{WORDS[self.readout]} {significant(loss)}" if math.isfinite(loss) else "diverged"
        left = (time.monotonic() - self.began) * (1 + float(self.budget) - self.done) / self.done
        self.progress(
            f"{lane.made.words} at rate {significant(lane.rate)}: {ended} after {lane.stops[-1]:,} "
            f"of {lane.steps:,} updates; about {duration(left)} left, the training included"
        )


def updates_of(share: float, lane: Lane) -> int:
    """A share of a training in updates, rounded down so that the budget holds."""
    return max(int(share * lane.steps), 1)


def duration(seconds: float) -> str:
    """A time in words.

    >>> from gradiometer.tuning.tuning import duration
    >>> duration(8.2), duration(400.0), duration(9000.0)
    ('8 s', '7 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def data_for(
    batches: Any, sizes: int | Sequence[int] | None, aim: Aim | None, held_out: Any
) -> dict[int, Data]:
    """The data in batches of each size; under the key 1 if the batches are given as such."""
    several = several_of("batch_size", sizes)
    check_aim(aim, len(several), held_out)
    if not isinstance(sizes, list | tuple):
        return {1: data_of(batches, several[0])}
    found = {size: data_of(batches, size) for size in several}
    if len(found) > 1 and not all(isinstance(data, Ordered) for data in found.values()):
        raise BadArgument(
            "`batch_size` has several values, so `batches` must be examples: tensors or a data set."
        )
    return found


def steps_without_length(data: Data, kinds: Sequence[Made], seed: int) -> int:
    """The updates in ten epochs, for which a rate is chosen if no length is given.

    Raises:
        BadArgument: An optimizer needs the length, or an epoch has no known length.
    """
    if others := [made.words for made in kinds if not made.is_schedule_free]:
        raise BadArgument(
            f"`steps` is missing: {others[0]} needs the length over which its rate falls to zero."
        )
    if data.epoch is None:
        raise BadArgument(
            "`steps` is missing, and the length of an epoch is not known: give steps, or examples."
        )
    return max(10 * data.epoch // (first_size(data, seed) * data.shards), 8)
