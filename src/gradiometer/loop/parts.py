"""What a loop is made of besides its examples: the functions that a person gives, schedulers, and
where it comes from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import Batch
from gradiometer.problems.user_code import user_code

# Called as `step(model, optimizer, batch)`: makes one whole update and returns the loss of the
# batch.
Step = Callable[[nn.Module, torch.optim.Optimizer, Batch], Tensor | float]

# Called as `gradient(model, batch, factor)`, where `factor` is the size of the batch as a multiple
# of the usual one: puts the gradient of the mean loss into `.grad` and returns this loss.
Gradient = Callable[[nn.Module, Batch, Fraction], Tensor | float]


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


@dataclass(frozen=True)
class MovingAverage:
    """Weights that follow others after every update: slow = decay · slow + (1 − decay) · fast.

    Args:
        pairs: The names of a slow parameter and of the one that it follows.
        decay: The decay.
    """

    pairs: tuple[tuple[str, str], ...]
    decay: float

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the slow weights of a model."""
        known = dict(model.named_parameters())
        for slow, fast in self.pairs:
            known[slow].mul_(self.decay).add_(known[fast], alpha=1 - self.decay)


class RateByHand:
    """A scheduler whose rate is a function of the update, as a loop sets it before each of them.

    Args:
        optimizer: The optimizer.
        function: Called with the index of an update; returns its rate.
        index: Number of updates so far.

    Raises:
        BadArgument: The function did not return the rate of the update before.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, function: Callable[[int], float], index: int
    ) -> None:
        self.optimizer = optimizer
        self._function = function
        self._index = index
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        largest = max(rates)
        self._shares = [rate / largest if largest else 1.0 for rate in rates]
        before = self.rate(index - 1) if index else largest
        # Largest relative difference of two rates that are the same number.
        if not abs(before - largest) <= 1e-6 * abs(largest):
            raise BadArgument(
                f"`scheduler` returned the rate {before:g} for update {index - 1:,}, and the "
                f"optimizer has {largest:g}: give the function by which your loop sets it."
            )

    def rate(self, index: int) -> float:
        """The rate of an update."""
        with user_code("scheduler"):
            return float(self._function(index))

    @property
    def highest(self) -> float:
        """The highest rate so far, of 64 updates or fewer."""
        apart = self._index // 64 + 1
        return max(self.rate(index) for index in range(0, self._index + 1, apart))

    def begin(self) -> None:
        """Set the rate of the coming update."""
        rate = self.rate(self._index)
        for group, share in zip(self.optimizer.param_groups, self._shares, strict=True):
            group["lr"] = rate * share

    def step(self) -> None:
        """Go on to the next update."""
        self._index += 1
        self.begin()

    def state_dict(self) -> dict[str, Any]:
        """The index of the coming update."""
        return {"index": self._index}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the index that `state_dict` has returned."""
        self._index = state["index"]


def schedulers_from(scheduler: Any, optimizer: Any, index: int) -> Sequence[Any]:
    """The schedulers from what a person gives: none, one, several, or a function of the update."""
    if scheduler is None:
        return ()
    several = scheduler if isinstance(scheduler, list | tuple) else [scheduler]
    return tuple(
        RateByHand(optimizer, one, index)
        if callable(one) and not hasattr(one, "optimizer")
        else one
        for one in several
    )
