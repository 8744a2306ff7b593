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


def part_of(batch: Batch, loss: Tensor | float) -> Part:
    """One backward of the mean loss of a batch."""
    if not isinstance(loss, Tensor | float | int | np.number):
        raise BadArgument(
            f"`loss` of the step must be a number or a tensor, got {type(loss).__name__}: give the loss itself, such "
            'as output["loss"].'
        )
    if not isinstance(loss, Tensor):
        return Part(batch, batch_size(batch), float(loss))
    value = loss.detach().mean() if loss.dim() else loss.detach()
    return Part(batch, batch_size(batch), value.item() if value.device.type == "cpu" else value)
