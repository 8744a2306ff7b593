"""What a tuning is asked to do, and what it measures before the first branch."""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradiometer.arguments import check_number, check_whole
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument
from gradiometer.loop.checks import check_trainable
from gradiometer.loop.data import Data, Ordered, data_of, first_size
from gradiometer.loop.loop import Loop
from gradiometer.loop.recorded.growing import Progress
from gradiometer.measurement.loss import Loss
from gradiometer.tuning.aim import Aim, Paces, check_aim, paces_for
from gradiometer.tuning.optimizers import Made
from gradiometer.tuning.probe import Bracket, bracket
from gradiometer.tuning.stages import FEWEST, Rounds
from gradiometer.tuning.start import BATCHES, Start, start_of
from gradiometer.tuning.variants import several_of

BUDGET = 1.3
"""Default budget, in units of the training."""

FORWARD = 3
"""A forward pass costs an update divided by this."""

ADAPTIVE = Bracket(1e-5, 1.0, 3e-3, ())
"""Bracket of optimizers whose rate does not depend on the scale of the loss."""

EPOCHS = 10
"""Length of the training that a rate is chosen for if no length is given."""

SHARE_READ, SHARE_READ_IN_RACE, MOST_READ = 1 / 16, 1 / 32, 16_384
"""The examples that every branch is read out on, as a share of those of the training, and at most: they are in memory.
The losses of the mini-batches at the end of a branch are not used: they are measured before the rate is at zero, and
lean to low rates."""

SHARE_PROBED, MOST_PROBED = 1 / 20, 60
"""The probe's share of the training, and its most updates."""


@dataclass(frozen=True)
class Task:
    """What a tuning is asked to do.

    Args:
        model: The model at its start.
        loss: The loss of training.
        data: The training data in batches of each size, the first of which is the present one.
        kinds: The optimizers.
        steps: Updates of the training at the first batch size.
        budget: The most that tuning may cost, in units of the training.
        clip: Gradients are clipped at this many times their norm at the start; None: not at all.
        aim: What is the same for several batch sizes.
        seed: Seed of the data orders and of the random draws.
        threads: Threads of torch in every branch.
        out: Folder for the branches.
        progress: Called after every branch.

    Raises:
        BadArgument: An argument cannot be used.
        Unsupported: The training cannot be copied.
    """

    model: nn.Module
    loss: Loss
    data: Mapping[int, Data]
    kinds: Sequence[Made]
    steps: int
    budget: Amount
    clip: Amount | None
    aim: Aim | None
    seed: int
    threads: int
    out: Path | None
    progress: Progress | None

    def __post_init__(self) -> None:
        for name, least in (("steps", 8), ("seed", 0), ("threads", 1)):
            check_whole(name, getattr(self, name), least)
        check_number("budget", self.budget, positive=True)
        if self.clip is not None:
            check_number("clip", self.clip, positive=True)
        if len(self.data) > 1 and len(self.kinds) > 1:
            raise BadArgument("`batch_size` has several values, and so has the optimizer: choose one after the other.")
        parameters = self.model.parameters() if isinstance(self.model, nn.Module) else []
        check_trainable(Loop(self.model, self.kinds[0](parameters, 1.0), loss=self.loss, batches=self.present).model)

    @property
    def present(self) -> Data:
        """The data in batches of the first size."""
        return next(iter(self.data.values()))

    @property
    def of_batch(self) -> bool:
        """True if batch sizes are raced."""
        return len(self.data) > 1

    @property
    def replicates(self) -> int:
        """Data orders of every rate."""
        return max(int(self.budget / BUDGET), 1)


@dataclass(frozen=True)
class Measured:
    """What is measured before the first branch.

    Args:
        start: The loss and the gradient's norm at the start.
        kinds: The optimizers, which clip.
        brackets: For every kind of optimizer the updates of its probe, 0 if it needs none, and its bracket.
        paces: The updates of each batch size that count as one of the first.
        size: Examples of an update at the first batch size.
        readout: Training examples that every branch is read out on.
    """

    start: Start
    kinds: Sequence[Made]
    brackets: Mapping[tuple[Any, ...], tuple[int, Bracket]]
    paces: Paces
    size: int
    readout: int

    @property
    def spent(self) -> float:
        """What it has cost, in updates."""
        probed = sum(updates + found.forwards / FORWARD for updates, found in self.brackets.values())
        return probed + BATCHES + self.start.forwards / FORWARD + self.paces.cost


def data_for(batches: Any, sizes: int | Sequence[int] | None, aim: Aim | None) -> dict[int, Data]:
    """The data in batches of each size; under the key 1 if the batches are given as such."""
    several = several_of("batch_size", sizes)
    check_aim(aim, [size or 1 for size in several])
    if not isinstance(sizes, list | tuple):
        return {1: data_of(batches, several[0])}
    found = {size: data_of(batches, size) for size in several}
    if len(found) > 1 and not all(isinstance(data, Ordered) for data in found.values()):
        raise BadArgument("`batch_size` has several values, so `batches` must be examples: tensors or a data set.")
    return found


def steps_without_length(data: Data, kinds: Sequence[Made], seed: int) -> int:
    """The updates of the training that a rate is chosen for if no length is given.

    Raises:
        BadArgument: An optimizer needs the length, or an epoch has no known length.
    """
    if others := [made.words for made in kinds if not made.is_schedule_free]:
        raise BadArgument(f"`steps` is missing: {others[0]} needs the length over which its rate falls to zero.")
    if data.epoch is None:
        raise BadArgument("`steps` is missing, and the length of an epoch is not known: give steps, or examples.")
    return max(EPOCHS * data.epoch // (first_size(data, seed) * data.shards), FEWEST)


def measured(task: Task) -> Measured:
    """Measure the start, the brackets and the times of steps.

    Raises:
        UserCodeFailed: The loss or the optimizer raised, or the loss is not finite at the start.
    """
    model, loss, seed, kinds = task.model, task.loss, task.seed, task.kinds
    loop = Loop(model, kinds[0](model.parameters(), 1.0), loss=loss, batches=task.present)
    size = first_size(task.present, seed) * task.present.shards
    readout = _readout(task, size)
    start = start_of(loop, seed=seed, forwards=readout // size)
    if task.clip is not None:
        kinds = tuple(kind.clipped(task.clip * start.norm) for kind in kinds)
    found = _brackets(task, kinds)
    paces = paces_for(task.aim, model, kinds[0], task.data, loss=loss, seed=seed, out=task.out)
    return Measured(start, kinds, found, paces, size, readout)


def _brackets(task: Task, kinds: Sequence[Made]) -> dict[tuple[Any, ...], tuple[int, Bracket]]:
    digits, steps = zlib.crc32(f"{task.seed}/tuning".encode()), task.steps
    updates = max(min(math.ceil(steps * SHARE_PROBED), MOST_PROBED), min(FEWEST, steps // 4))
    found = {}
    for kind in kinds:
        optimizer = kind.probed(task.model.parameters())
        if not isinstance(optimizer, torch.optim.SGD):
            found[kind.family] = 0, ADAPTIVE
        elif kind.family not in found:  # weight decay does not move the bracket
            probed = bracket(task.model, optimizer, loss=task.loss, batches=task.present, updates=updates, seed=digits)
            found[kind.family] = updates, probed
    return found


def rounds_of(task: Task, before: Measured) -> Rounds:
    """The rounds that the budget pays for."""
    paces = before.paces.updates
    sizes = {size: size if task.of_batch else before.size for size in paces}
    looks = max(before.readout / sizes[size] / FORWARD / pace for size, pace in paces.items())
    families, others = len(before.brackets), len(task.data) - 1
    decays, slowest = len(task.kinds) // families, min(paces.values())
    budget = float(task.budget)
    return Rounds(task.steps, budget, before.spent, looks, families + others, decays, task.replicates, slowest)


def _readout(task: Task, size: int) -> int:
    """Training examples that every branch is read out on."""
    share = SHARE_READ if len(task.kinds) * len(task.data) == 1 else SHARE_READ_IN_RACE
    return max(min(int(share * task.steps * size), MOST_READ), 1)
