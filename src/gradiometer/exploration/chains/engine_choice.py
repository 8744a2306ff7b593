"""The fastest engine for some chains, found while they run."""

import itertools
import math
import time
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.exploration.chains.engines import ENGINES, BatchAt, Engine
from gradiometer.exploration.chains.state import StackedModels
from gradiometer.measurement.batch import Order
from gradiometer.measurement.loss import Loss
from gradiometer.measurement.objective import Objective

ROUNDS = 3
"""Times each engine is timed before one is chosen."""

SLOW = 1.5
"""An engine this many times slower than the best so far is not timed again."""


class EngineChoice:
    """Runs chains with the fastest engine: each possible engine in turn at first, then the fastest.

    Args:
        state: The chains.
        loss: Called as `loss(model, batch)`.
        batch_at: Takes the training examples at some positions.
        orders: The order of the examples of each chain.
        name: The engine to use. None: the fastest.
        timed: Find out the fastest by timing. Otherwise use "stacked" if possible, else "sequential", so that the
            same seeds give the same bits.
    """

    def __init__(
        self,
        state: StackedModels,
        loss: Loss,
        batch_at: BatchAt,
        orders: Sequence[Order],
        name: str | None = None,
        *,
        timed: bool = False,
    ) -> None:
        if name not in (None, *ENGINES):
            raise BadArgument(f"`engine` must be one of {', '.join(ENGINES)}, got {name!r}.")
        example = batch_at(orders[0].batch(0))
        self.traits = Objective(state.models[0], loss).traits(example)
        self.why_not, self.milliseconds = dict[str, str](), dict[str, float]()
        engines: list[Engine] = []
        for each, kind in ENGINES.items():
            if name not in (None, each) or (each == "vmap" and name is None and not timed):
                continue
            if (reason := kind.why_not(state, loss, example, self.traits)) is None:
                engines.append(kind(state, loss, batch_at, self.traits))
            else:
                self.why_not[each] = reason
        if not engines:
            raise BadArgument(f"`engine` {name!r} cannot run this model: {self.why_not[str(name)]}.")
        self.orders, self.engines, self.engine = orders, engines, engines[0]
        # An untimed step of each engine, which allocates its memory, then a few rounds.
        self._turns = [e for _ in range(ROUNDS + 1) for e in reversed(engines)] if timed and len(engines) > 1 else []

    def steps(self, count: int) -> Iterator[tuple[int, Int[Tensor, "chains examples"]]]:
        """Make this many steps. Yields the number of steps made so far and the batches of the next step."""
        for step, index in zip(range(count + 1), self._batches(), strict=False):
            yield step, index
            if step < count:
                self._step(index)

    def _batches(self) -> Iterator[Int[Tensor, "chains examples"]]:
        """Positions of the examples in the batches of one step after another, one row per chain."""
        for epoch in itertools.count():
            chosen = torch.stack([order.epoch(epoch) for order in self.orders])
            yield from chosen.split(self.orders[0].batch_size, dim=1)

    def _step(self, index: Int[Tensor, "chains examples"]) -> None:
        if not self._turns:
            self.engine.step(index)
            return
        self.engine, first = self._turns.pop(0), len(self._turns) >= ROUNDS * len(self.engines)
        began = time.thread_time()
        self.engine.step(index)
        taken = 1000 * (time.thread_time() - began)
        if not first:
            self.milliseconds[self.engine.name] = min(taken, self.milliseconds.get(self.engine.name, math.inf))
            best = min(self.milliseconds.values())
            self._turns = [e for e in self._turns if self.milliseconds.get(e.name, best) <= SLOW * best]
        if not self._turns:
            self.engine = min(self.engines, key=lambda e: self.milliseconds.get(e.name, math.inf))
