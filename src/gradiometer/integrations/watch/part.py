"""One backward of a watched loop: its examples and its loss."""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import Batch, batch_size


@dataclass(frozen=True)
class Part:
    """One backward: its examples, how many, and their mean loss."""

    batch: Batch
    size: int
    loss: Tensor | float


NO_PART = Part(None, 0, math.nan)
"""A backward of which nothing is known."""


def part_of(batch: Batch, loss: Tensor | float, *, checked: bool = True) -> Part:
    """One backward of the mean loss of a batch. `checked` compares the sizes of all tensors of the batch."""
    return Part(batch, batch_size(batch) if checked else _first_size(batch), value_of(loss))


def value_of(loss: object) -> float | Tensor:
    """The mean loss: a number on the CPU; on an accelerator a tensor, since fetching it makes training wait."""
    if isinstance(loss, Tensor):
        if loss.dim():
            loss = loss.detach().mean()
        return loss.item() if loss.is_cpu else loss.detach()
    if not isinstance(loss, float | int | np.number):
        raise BadArgument(
            f"`loss` of the step must be a number or a tensor, got {type(loss).__name__}: give the loss itself, such "
            'as output["loss"].'
        )
    return float(loss)


def _first_size(batch: Batch) -> int:
    """The length of the first axis of the first tensor."""
    first = batch
    while isinstance(first, tuple | list | dict) and first:
        first = next(iter(first.values())) if isinstance(first, dict) else first[0]
    return first.shape[0] if isinstance(first, Tensor) and first.dim() else batch_size(batch)
