"""`own_loop`: what `fork` and `critical_batch` are given of a training loop that a user wrote."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from gradiometer.arguments import check_number, check_whole
from gradiometer.errors import BadArgument
from gradiometer.forks.alternatives.alternative import GoOn
from gradiometer.forks.branch import Branch, Tail
from gradiometer.forks.comparison.rungs import Rung, rungs_for
from gradiometer.forks.continuation import Step
from gradiometer.forks.copies import Parts
from gradiometer.forks.data import Data, data_of, first_size
from gradiometer.forks.engine import grown
from gradiometer.forks.horizon import Horizon
from gradiometer.forks.loop_state import LoopState, check_functions, parts_of
from gradiometer.forks.untouched import untouched
from gradiometer.measurement.loss import Loss

FEWEST = 16
"""Fewest updates of a branch in a race."""

TIMED = 8
"""Number of updates that are timed for a horizon in seconds."""


@dataclass(frozen=True)
class OwnLoop:
    """A training loop that a user wrote.

    Args:
        original: The parts of the training.
        copies: Copies of them.
        state: The source of branches, made of the copies.
        size: Examples in an update.
        epoch: Examples in an epoch; None if that is not known.
        rest: What is left of the training; None if that is not known.
        index: Number of updates so far.
    """

    original: Parts
    copies: Parts
    state: LoopState
    size: int
    epoch: int | None
    rest: Horizon | None
    index: int

    def untouched(self) -> AbstractContextManager[None]:
        """Puts the training back at the end, if a function has changed it."""
        return untouched(self.original, self.copies)

    def check(self, tail: Tail) -> None:
        """Make one update: what is wrong with a function shows here, with its traceback."""
        grown(self.state, Branch(GoOn(), 0, self.size, tail))

    @property
    def left(self) -> int | None:
        """Examples that are left in the training."""
        return None if self.rest is None else self.rest.examples(batch=self.size, epoch=self.epoch, name="left")

    def length(self, text: str | None) -> int:
        """The length of a branch in examples."""
        if text is None:
            raise BadArgument("`horizon` is missing: give a length such as '500 updates', or a `budget`.")
        found = Horizon.parse(text).examples(
            batch=self.size, epoch=self.epoch, left=self.left, seconds_per_update=self._seconds_per_update
        )
        if self.left is not None and found > self.left:
            raise BadArgument(f"`horizon` is {found:,} examples, and only {self.left:,} are `left` of the training.")
        return found

    def rungs(self, budget: float | None, horizon: str | None, alternatives: int) -> tuple[Rung, ...]:
        """The stages of a race that a budget pays for; none without a budget."""
        if budget is None:
            return ()
        check_number("budget", budget, positive=True)
        if horizon is not None:
            raise BadArgument("`horizon` is given together with `budget`, which chooses it: leave one of them out.")
        if self.left is None:
            raise BadArgument("`budget` is in units of the whole training: give `left`, such as left='4000 updates'.")
        whole = self.index * self.size + self.left
        rungs = rungs_for(
            alternatives, max(int(budget * whole), 1), left=self.left, shortest=min(FEWEST * self.size, self.left)
        )
        return tuple(Rung(max(rung.horizon // self.size, 1) * self.size, rung.replicates) for rung in rungs)

    def _seconds_per_update(self) -> float:
        return grown(self.state, Branch(GoOn(), 0, TIMED * self.size)).seconds / TIMED


def own_loop(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    loss: Loss | None,
    step: Step | None,
    batches: Any,
    batch_size: int | None,
    evaluate: Any,
    scheduler: Any,
    scheduler_each: Literal["update", "epoch"],
    scaler: Any,
    accumulation: int,
    left: str | None,
    index: int,
    seed: int,
) -> OwnLoop:
    """The loop, with copies of what training changes. The arguments are those of `fork`.

    Raises:
        BadArgument: An argument cannot be used.
        Unsupported: The training cannot be copied.
    """
    data = data_of(batches, batch_size)
    original = parts_of(model, optimizer, scheduler, scaler)
    check_functions(
        original,
        loss=loss,
        step=step,
        evaluate=evaluate,
        scaler=scaler,
        accumulation=accumulation,
    )
    for name, number in (("index", index), ("seed", seed)):
        check_whole(name, number, 0)
    size = first_size(data, seed) * accumulation * data.shards
    copies = original.copied()
    state = LoopState(
        copies,
        data,
        loss=loss,
        step=step,
        evaluate=evaluate,
        accumulation=accumulation * data.shards,
        epoch=_updates_per_step(scheduler_each, data, size),
        seed=seed,
        index=index,
    )
    rest = None if left is None else Horizon.parse(left, "left")
    return OwnLoop(original, copies, state, size, data.epoch, rest, index)


def _updates_per_step(each: str, data: Data, size: int) -> int:
    """The number of updates between two steps of the scheduler."""
    if each not in ("update", "epoch"):
        raise BadArgument(f"`scheduler_each` must be 'update' or 'epoch', got {each!r}.")
    if each == "update":
        return 1
    if data.epoch is None:
        raise BadArgument("`scheduler_each` is 'epoch', and the size of an epoch is not known: give a DataLoader.")
    return -(-data.epoch // size)
