"""Several optimizers of one model as one."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class SeveralOptimizers(torch.optim.Optimizer):
    """Several optimizers of one model as one, whose step is a step of each in their order.

    The parameter groups are those of the optimizers themselves, which stay what they are.

    Args:
        optimizers: The optimizers.

    >>> import torch
    >>> from gradiometer.measurement.optimizer.several import SeveralOptimizers
    >>> one, two = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    >>> both = SeveralOptimizers([torch.optim.SGD([one], lr=0.5), torch.optim.SGD([two], lr=1.0)])
    >>> one.grad, two.grad = torch.ones(1), torch.ones(1)
    >>> both.step()
    >>> one.item(), two.item()
    (0.5, 0.0)
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        # `Optimizer.__init__` would put new lists into the groups, which belong to the optimizers
        self.__setstate__(
            {
                "optimizers": list(optimizers),
                "param_groups": [group for one in optimizers for group in one.param_groups],
                "state": defaultdict(dict),
                "defaults": {},
            }
        )

    optimizers: list[torch.optim.Optimizer]

    def step(self, closure: Any = None) -> Any:
        """A step of each optimizer, from the same gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state of each by its place, and the parameter groups of all."""
        each = [optimizer.state_dict() for optimizer in self.optimizers]
        return {
            "state": {str(place): one["state"] for place, one in enumerate(each)},
            "param_groups": [one["param_groups"] for one in each],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state that `state_dict` has returned."""
        for place, optimizer in enumerate(self.optimizers):
            optimizer.load_state_dict(
                {
                    "state": state_dict["state"][str(place)],
                    "param_groups": state_dict["param_groups"][place],
                }
            )
        # loading makes new groups
        self.param_groups = [group for one in self.optimizers for group in one.param_groups]


def optimizers_in(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizers that an optimizer is made of: itself, or those that were put together."""
    return optimizer.optimizers if isinstance(optimizer, SeveralOptimizers) else [optimizer]


def as_one(optimizers: Sequence[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    """The only optimizer, or several put together."""
    return optimizers[0] if len(optimizers) == 1 else SeveralOptimizers(optimizers)


# Wrappers that torch puts around a model, by class name (importing them takes seconds), and where
# they keep it.
WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
}


def bare(model: nn.Module) -> nn.Module:
    """The model itself, without the wrappers of DDP and torch.compile."""
    while type(model).__name__ in WRAPPERS:
        model = getattr(model, WRAPPERS[type(model).__name__])
    return model


def bare_optimizer(optimizer: Any) -> Any:
    """The torch optimizer in a wrapper, such as those of Accelerate and fastai. Other objects stay
    as they are."""
    for place in ("optimizer", "opt", "_optimizer"):
        inner = getattr(optimizer, place, None)
        found = None if inner is optimizer else bare_optimizer(inner)
        if isinstance(found, torch.optim.Optimizer):
            return found
    return optimizer
