"""The examples that a person gives to a watch, by position and on the model's device."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader

from gradiometer.measurement.batch import Batch, mapped
from gradiometer.problems.examples import Examples


@dataclass(frozen=True)
class OnDevice:
    """Examples whose batches are moved to a device when they are taken.

    Args:
        examples: The examples, wherever they are.
        device: The device of the model.
    """

    examples: Examples
    device: torch.device

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, index: Int[Tensor, " chosen"]) -> Batch:
        """The examples at these positions. A position may occur twice."""
        return mapped(self.examples.batch(index), lambda tensor: tensor.to(self.device))


def examples_of(data: Any, name: str) -> Examples:
    """The examples in a tree of tensors, a map-style data set, or the data set of a DataLoader with its `collate_fn`.

    Args:
        data: The examples.
        name: Name of the argument, for messages.

    Raises:
        BadArgument: They cannot be taken by position.
    """
    if isinstance(data, Examples):
        return data
    if isinstance(data, DataLoader):
        return Examples(data.dataset, name, data.collate_fn)
    return Examples(data, name)
