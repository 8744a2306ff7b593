"""The engine that runs some chains."""

import itertools
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

LARGEST_STACKED = 50_000
"""Parameters of a network above which a loop is faster: 1.1 to 1.4 times with 101,770 parameters. With 25,450 and fewer
"stacked" was 0.9 to 3.6 times as fast as the loop (docs/studies/chains.md)."""


class EngineChoice:
    """Runs chains with the engine of this name, or with the one that is faster for networks of this size.

    The choice depends on the model only, so that the same seeds give the same bits.

    Args:
        state: The chains.
        loss: Called as `loss(model, batch)`.
        batch_at: Takes the training examples at some positions.
        orders: The order of the examples of each chain.
        name: The engine to use. None: "stacked" for a small network that it can run, else "sequential".
    """

    def __init__(
        self,
        state: StackedModels,
        loss: Loss,
        batch_at: BatchAt,
        orders: Sequence[Order],
        name: str | None = None,
    ) -> None:
        if name not in (None, *ENGINES):
            raise BadArgument(f"`engine` must be one of {', '.join(ENGINES)}, got {name!r}.")
        example = batch_at(orders[0].batch(0))
        self.orders = orders
        self.traits = Objective(state.models[0], loss).traits(example)
        self.why_not = dict[str, str]()
        for each in ENGINES if name is None else [name]:
            reason = ENGINES[each].why_not(state, loss, example, self.traits)
            if reason is None and each == "stacked" and name is None:
                reason = _too_large(state)
            if reason is None:
                self.engine: Engine = ENGINES[each](state, loss, batch_at, self.traits)
                return
            self.why_not[each] = reason
        raise BadArgument(f"`engine` {name!r} cannot run this model: {self.why_not[str(name)]}.")

    def steps(self, count: int) -> Iterator[tuple[int, Int[Tensor, "chains examples"]]]:
        """Make this many steps. Yields the number of steps made so far and the batches of the next step."""
        for step, index in zip(range(count + 1), self._batches(), strict=False):
            yield step, index
            if step < count:
                self.engine.step(index)

    def _batches(self) -> Iterator[Int[Tensor, "chains examples"]]:
        """Positions of the examples in the batches of one step after another, one row per chain."""
        for epoch in itertools.count():
            chosen = torch.stack([order.epoch(epoch) for order in self.orders])
            yield from chosen.split(self.orders[0].batch_size, dim=1)


def _too_large(state: StackedModels) -> str | None:
    parameters = sum(leaf[0].numel() for leaf in state.leaves)
    if parameters <= LARGEST_STACKED:
        return None
    return f"a network of {parameters:,} parameters is faster in a loop"
