"""The batches of a branch: those that the run saw or would have seen, or as many others in a new
order."""

import itertools
import zlib
from collections.abc import Iterator

import torch
from torch import Tensor

from gradiometer.measurement.batch import Order
from gradiometer.measurement.reading import Draw


def positions(order: Order, step: int, seed: int, own_until: int = 0) -> Iterator[Tensor]:
    """Positions of the examples of one batch after another.

    In shuffled epochs, the examples that the present epoch still has come first, in a new order;
    later epochs are new permutations. So every example is seen as often as in the run.

    Args:
        order: The order of the run.
        step: Index of the first batch.
        seed: Seed of the new order.
        own_until: Index of the first batch that is not the run's own; at most `step`: all of them
            are new.

    >>> from gradiometer import Draw
    >>> batches = positions(Order(Draw.RESHUFFLED, examples=6, batch_size=2), step=1, seed=5)
    >>> [next(batches).tolist() for _ in range(4)]
    [[2, 3], [5, 1], [3, 5], [2, 1]]
    """
    yield from map(order.batch, range(step, own_until))
    first = max(step, own_until)
    later = Order(
        order.draw,
        order.examples,
        order.batch_size,
        seed=zlib.crc32(f"{order.seed}/{seed}".encode()),
    )
    if order.draw is Draw.RESHUFFLED:
        epoch, place = divmod(first, order.steps_per_epoch)
        left = order.epoch(epoch)[place * order.batch_size :]
        shuffled = torch.randperm(len(left), generator=torch.Generator().manual_seed(later.seed))
        yield from left[shuffled].split(order.batch_size)
        first = (epoch + 1) * order.steps_per_epoch
    yield from map(later.batch, itertools.count(first))


def examples_before(order: Order, step: int) -> int:
    """The number of examples in the batches before a step."""
    if order.draw is not Draw.RESHUFFLED:
        return step * order.batch_size
    epochs, place = divmod(step, order.steps_per_epoch)
    return epochs * order.examples + place * order.batch_size
