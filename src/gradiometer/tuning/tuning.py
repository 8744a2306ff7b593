"""`tune`: a tuning under way, whose start is measured, and whose lanes are trained, kept and read
out in a race."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradiometer.arguments import check_number, check_threads, check_whole
from gradiometer.convergence.averaging import tracking_layers
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument, bounded
from gradiometer.jobs.choice import opened
from gradiometer.jobs.job import Job, Outcome
from gradiometer.jobs.pool import Ledger, Pool
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.checks import check_trainable
from gradiometer.loop.data import Data, Ordered, data_of, first_size
from gradiometer.loop.engine import guarded_copy
from gradiometer.loop.evaluation import examples_of
from gradiometer.loop.loop import TRAIN_EXAMPLES, Loop
from gradiometer.measurement.objective import Loss
from gradiometer.problems.examples import Examples
from gradiometer.tuning.lane import HELD_OUT_READOUT, READOUT, Lane, LoopLane, judge
from gradiometer.tuning.optimizers import (
    SCHEDULE_FREE,
    Amounts,
    Made,
    Optimizers,
    several_of,
    variants,
)
from gradiometer.tuning.race import Entry, LaneRace
from gradiometer.tuning.start import Aim, check_aim, overshooting_rate, paces_for, start_of
from gradiometer.tuning.tuned import Tried, Tuned

# The rate in the middle of the first rung, as a share of the one at which an update overshoots. On
# 46 tasks no octave more or less, for SGD or for AdamW, ended lower by more than 1.1 standard
# errors.
BELOW = 1 / 2

# The examples that a lane is read out on, as a share of those of the training; at most 2,048. With
# half as many it was 13 of 18.
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
    check_whole("steps", steps, 8)
    check_whole("seed", seed, 0)
    check_threads(threads)
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
        if next(self.model.parameters(), None) is None:
            raise BadArgument("`model` has no parameters, so there is no rate to choose.")
        self.make_lane = make_lane
        self.lanes = dict[Entry, Lane]()
        present = next(iter(self.data.values()))
        loop = self._loop(self.kinds[0], present, 1.0)
        check_trainable(loop.model)
        self.size = loop.size
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
            self.kinds = tuple(replace(kind, clip=self.clip * start.norm) for kind in self.kinds)
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
        # The start and the probes are paid for, too.
        gradients = len(start.batches) + sum(each for _, each in probes)
        paid = (gradients + self.paces.cost) / self.steps
        # The optimizer, the batch size and the rate in the middle of each kind of lanes.
        self.contenders = [
            (kind, size, BELOW * rate)
            for kind, (rate, _) in zip(self.kinds, probes, strict=True)
            for size in self.data
        ]
        # Of every lane that was trained: the share of the training, the seconds of its updates, and
        # those of everything.
        self.trained = list[tuple[float, float, float]]()
        self.began = time.monotonic()
        # A forward pass costs a third of a gradient.
        examples = self.examples + (0 if self.held_out is None else len(self.held_out))
        if tracking_layers(self.model):  # whole batches, from which its statistics are measured
            examples += math.ceil(self.examples / self.size) * self.size
        readout = examples / (3 * self.size * self.steps)
        self.race = race = LaneRace(
            self._train, len(self.contenders), readout, float(self.budget), paid
        )
        if race.least > race.halving.rest:
            needed = math.ceil(100 * (race.least + paid) + 1e-6) / 100
            raise BadArgument(
                f"`budget` {self.budget:g} does not pay for three trial runs of each kind: give at least "
                f"{needed:g}."
            )
        with guarded_copy(loop, self.seed):
            winner = race.run()
        spent = race.halving.spent
        return Tuned(
            self.lanes[winner],
            tuple(tuple(rung.ends[entry] for entry in rung.ranking) for rung in race.rungs),
            min(
                spent - race.halving.reached[winner], race.halving.budget
            ),  # not above it by rounding
            race.halving.budget,
            self.aim,
            self.paces.times,
            has_length,
            start.loss,
        )

    def _loop(self, made: Made, data: Data, rate: float) -> Loop:
        optimizer = made(self.model.parameters(), rate)
        return Loop(self.model, optimizer, loss=self.loss, batches=data)

    def _lane(self, entry: Entry) -> Lane:
        """The lane of an entry: its kind is an optimizer or a batch size."""
        if entry not in self.lanes:
            made, key, middle = self.contenders[entry.kind]
            rate = middle * 2.0**entry.octave
            loop = self._loop(made, self.data[key], rate)
            loop.seed = self.seed
            size = key if len(self.data) > 1 else self.size
            steps = max(round(self.steps * self.paces.updates[key]), 1)
            self.lanes[entry] = self.make_lane(loop, made, rate, size, steps)
        return self.lanes[entry]

    def _train(self, entries: Sequence[Entry], share: float) -> list[Tried]:
        """Train lanes to a share of the training, and judge them, in the pool: those whose end is
        not known yet."""
        names = dict[str, Entry]()
        for entry in entries:
            lane = self._lane(entry)
            # Rounded down, so that the budget holds.
            lane.stops.append(max(int(share * lane.steps), 1))
            names[f"{lane.name} after {lane.stops[-1]:,}"] = entry
        ledger, known = None, dict[str, Outcome]()
        if self.out is not None:
            ledger = Ledger(self.out / FILE, BranchResult.to_dict, BranchResult.from_dict)
            known = ledger.finished()
        ends = {entry: known[name].result for name, entry in names.items() if name in known}
        jobs = [
            Job(
                name,
                judge,
                (self.lanes[entry], self.examples, self.held_out),
                cpus=float(self.threads),
            )
            for name, entry in names.items()
            if entry not in ends
        ]
        for outcome in self.pool.run(jobs):
            entry = names[outcome.name]
            end, self.lanes[entry] = outcome.value()
            if ledger is not None:
                with ledger.opened() as keep:
                    keep(Outcome(outcome.name, end, seconds=outcome.seconds))
            ends[entry] = end
            new = share - self.race.halving.reached.get(entry, 0.0)
            self.trained.append((new, end.seconds, outcome.seconds))
            if self.progress is not None:
                left = duration(self._seconds_ahead(share, new, len(entries) - len(ends)))
                self.progress(
                    f"{self._outcome(entry, end).sentence}; about {left} left, the training included"
                )
        return [self._outcome(entry, ends[entry]) for entry in entries]

    def _outcome(self, entry: Entry, end: BranchResult) -> Tried:
        lane = self.lanes[entry]
        by = READOUT if self.held_out is None else HELD_OUT_READOUT
        return Tried(lane, lane.stops[-1], end, by)

    def _seconds_ahead(self, share: float, new: float, waiting: int) -> float:
        """About how many seconds the rest takes, the training included.

        Args:
            share: The share of the training to which lanes are trained now.
            new: How much of it a lane that is waiting has before it.
            waiting: Number of these lanes.
        """
        shares, updates, lanes = (math.fsum(each) for each in zip(*self.trained, strict=True))
        ahead, number, last = self.race.ahead(share)
        training = updates / shares
        besides = (lanes - updates) / len(self.trained)
        race = training * (ahead + new * waiting) + besides * (number + waiting)
        # In a pool, lanes are trained at the same time.
        return race * (time.monotonic() - self.began) / lanes + training * (1 - last)


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
    others = [made.words for made in kinds if not made.is_schedule_free]
    if others:
        raise BadArgument(
            f"`steps` is missing: {others[0]} needs the length over which its rate falls to zero."
        )
    if data.epoch is None:
        raise BadArgument(
            "`steps` is missing, and the length of an epoch is not known: give steps, or examples."
        )
    return max(10 * data.epoch // (first_size(data, seed) * data.shards), 8)


# Default budget, in units of the training. With 0.7 in its place 11 of 18 races ended within 1 % of
# a grid, with 1.0 and with 1.3 it was 14.
BUDGET = 1.0

# Default of `clip`.
CLIP = 2.0


@bounded
def tune(
    model: nn.Module,
    *,
    loss: Loss,
    batches: Any,
    steps: int | None = None,
    batch_size: int | Sequence[int] | None = None,
    aim: Aim | None = None,
    held_out: Any = None,
    budget: Amount = BUDGET,
    optimizer: Optimizers | None = None,
    momentum: Amounts = 0.9,
    nesterov: bool = True,
    weight_decay: Amounts = 0.0,
    clip: Amount | None = CLIP,
    seed: int = 0,
    pool: str | Pool = "here",
    threads: int = 1,
    out: Path | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Choose the optimizer and the learning rate of a training of this length by a race of lanes.

    A lane is the training at one rate, with clipped gradients. The rate in the middle is half of
    that at which an update overshoots. Three lanes two octaves apart, and further ones on
    the side of the best, are trained for a sixteenth of the steps; the best two of these and the
    neighbours of the best one for an eighth, with one more rate if the best is the highest or the
    lowest there; and the best two as long as the budget pays for, up to half of the steps. Lanes
    are compared by the training loss at the mean of the parameters over their last quarter, on the
    same examples. A lane whose gradient has vanished is behind: all that it may still gain is less
    than the standard error of its loss. The winner goes on as the training (`Tuned.go_on`): the
    rate is kept for the first half, and then falls linearly to zero. The model is not touched.

    Losses are only compared with each other: a constant added to the loss changes nothing, and
    under SGD a loss that is a times as large has rates that are 1/a as large.

    Args:
        model: The model at its start, in training mode.
        loss: Called as `loss(model, batch)`; returns the mean loss or one value per example.
        batches: The training data: a DataLoader that shuffles; tensors or a data set, with
            `batch_size`; a list of batches; or a function of a seed that returns an iterable of
            batches.
        steps: Number of updates of the training, at the first batch size. None: no length is given.
            Schedule-free SGD is then tuned, which can be stopped at any step, in lanes of a
            training of ten epochs.
        batch_size: Size of a batch, if `batches` are examples. Of several, the one is chosen that
            ends at the lowest loss for the aim.
        aim: The loss that lanes are compared by. "loss": the training loss. "test": the loss on
            `held_out`. Both after the same number of examples, if there are several batch sizes.
            "time": the training loss of several batch sizes after the same time on this machine, by
            measured step times. Default: "loss", for one batch size.
        held_out: Examples that training does not use, for the aim "test": tensors, a data set or a
            DataLoader. The choice has seen them, so that they are no test set any more.
        budget: The most that tuning may cost besides the training, in units of the training.
        optimizer: "sgd", "adamw", "schedulefree" (schedule-free SGD, whose rate stays), or a
            function of (parameters, learning_rate) that returns one. Default: "sgd", or
            "schedulefree" without `steps`. Several, as a list or as "sgd,adamw", race, and the one
            is chosen that ends at the lowest training loss.
        momentum: Momentum of SGD; several, such as (0, 0.9), race in the same way.
        nesterov: True for Nesterov momentum, False for the heavy ball.
        weight_decay: Weight decay of "sgd" or "adamw"; several race in the same way, by training
            loss.
        clip: Gradients are clipped at this many times the norm that they have at the start; None:
            not at all. It keeps a rate that is too high from ending the training.
        seed: Seed of the data orders and of the random draws.
        pool: Where lanes are trained: "here", "processes", "processes:4", "ray", or a `Pool`. Same
            numbers.
        threads: Number of threads of torch in every lane.
        out: A folder for the losses of finished lanes. A tuning that was stopped continues if it is
            asked again for the same model and data; lanes that go on are trained again up to where
            they were.
        progress: Called with a sentence after every lane of every rung.

    Raises:
        BadArgument: An argument cannot be used, the budget is too small, or the data end too early.
        Unsupported: The training cannot be copied.
        UserCodeFailed: The loss or the optimizer raised, or the loss is not finite at the start.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from gradiometer import supervised
        >>> from gradiometer.tuning import tune
        >>> inputs = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
        >>> tuned = tune(
        ...     model,
        ...     loss=supervised(nn.MSELoss(reduction="none")),
        ...     batches=(inputs, inputs.sum(dim=1)),
        ...     batch_size=32,
        ...     steps=200,
        ... )
        >>> 0.005 < tuned.learning_rate < 0.5, tuned.cost <= 1
        (True, True)
    """
    return run_race(
        LoopLane,
        model,
        loss=loss,
        batches=batches,
        steps=steps,
        batch_size=batch_size,
        aim=aim,
        held_out=held_out,
        budget=budget,
        optimizer=optimizer,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        clip=clip,
        seed=seed,
        pool=pool,
        threads=threads,
        out=out,
        progress=progress,
    )
