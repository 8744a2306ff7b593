"""One backward of a watched loop: its examples and its loss."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import Batch, batch_size


class Part(NamedTuple):
    """One backward: its examples, how many, and their mean loss."""

    batch: Batch
    size: int
    loss: Tensor | float


NO_PART = Part(None, 0, math.nan)
"""A backward of which nothing is known."""

_UNSIZED = -1


def unsized(batch: Batch, loss: Tensor | float) -> Part:
    """One backward whose examples are counted later, in `without_batches`: this takes less time
    between two steps."""
    return tuple.__new__(Part, (batch, _UNSIZED, loss))


def without_batches(parts: Sequence[Part]) -> list[Part]:
    """The backwards of a step with their sizes and losses only. Batches of an unknown size are
    counted."""
    return [
        Part(None, first_size(batch) if size == _UNSIZED else size, loss)
        for batch, size, loss in parts
    ]


def part_of(batch: Batch, loss: Tensor | float) -> Part:
    """One backward of the mean loss of a batch. The sizes of all tensors of the batch
    are compared."""
    return Part(batch, batch_size(batch), value_of(loss))


def value_of(loss: object) -> float | Tensor:
    """The mean loss: a number on the CPU; on an accelerator a tensor, since fetching it makes
    training wait.

    The tensor is a copy. The replay of a CUDA graph writes every loss into the same place.
    """
    if isinstance(loss, Tensor):
        if loss.is_meta or loss.is_complex():
            raise BadArgument(
                "`loss` of the step must hold a number, got a tensor "
                f"{'on the meta device' if loss.is_meta else 'of complex numbers'}."
            )
        if loss.dim():
            loss = loss.detach()
            loss = (loss if loss.is_floating_point() else loss.double()).mean()
        return loss.item() if loss.is_cpu else loss.detach().clone()
    if not isinstance(loss, float | int | np.number):
        raise BadArgument(
            f"`loss` of the step must be a number or a tensor, got {type(loss).__name__}: give the loss itself, such "
            'as output["loss"].'
        )
    try:
        return float(loss)
    except OverflowError:  # a whole number with hundreds of digits
        raise BadArgument("`loss` of the step is too large for a number of 64 bits.") from None


def first_size(batch: Batch) -> int:
    """The length of the first axis of the first tensor, which is quick to see."""
    first, trees = batch, (tuple, list, dict)
    while not isinstance(first, Tensor):
        if not (isinstance(first, trees) and first):
            return batch_size(batch)
        first = next(iter(first.values())) if isinstance(first, dict) else first[0]
    return first.shape[0] if first.dim() else batch_size(batch)
