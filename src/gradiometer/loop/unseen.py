"""What a loop changes besides its optimizer's step: a moving average of its weights, and the rate by
a function of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gradiometer.errors import BadArgument
from gradiometer.problems.user_code import user_code

# Largest relative difference of two rates that are the same number.
AGREES = 1e-6


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
        if not abs(before - largest) <= AGREES * abs(largest):
            raise BadArgument(
                f"`scheduler` returned the rate {before:g} for update {index - 1:,}, and the "
                f"optimizer has {largest:g}: give the function by which your loop sets it."
            )

    def rate(self, index: int) -> float:
        """The rate of an update."""
        with user_code("scheduler"):
            return float(self._function(index))

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
