"""What a loop is made of: the functions that a person gives, an update, and a place on disk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import Batch

# Called as `step(model, optimizer, batch)`: makes one whole update and returns the loss of the
# batch.
Step = Callable[[nn.Module, torch.optim.Optimizer, Batch], Tensor | float]

# Called as `gradient(model, batch, factor)`, where `factor` is the size of the batch as a multiple
# of the usual one: puts the gradient of the mean loss into `.grad` and returns this loss.
Gradient = Callable[[nn.Module, Batch, Fraction], Tensor | float]


@dataclass(frozen=True)
class Update:
    """One update of a branch.

    Args:
        loss: The mean loss of the batch; None if the whole batch was skipped.
        examples: How far the data went on.
    """

    loss: Tensor | float | None
    examples: int


class Source(Protocol):
    """Where a loop comes from, if that is a run on disk: it is made again in another process
    instead of being sent."""

    def bring(self, loop: Any) -> None:
        """Bring the loop to its place; called before anything is copied from it."""

    def seed(self, replicate: int) -> None:
        """Set the random states of a replicate, if they are those of the run."""

    def again(self, loop: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """A function and its arguments, which make the loop again."""


def only(pieces: Sequence[Batch]) -> Batch:
    """The batch of an update that a person's function makes."""
    if len(pieces) > 1:
        raise BadArgument(
            "`step` takes one batch, and these batches cannot be joined: give `loss` instead."
        )
    return pieces[0]
