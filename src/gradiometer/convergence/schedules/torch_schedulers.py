"""Schedules for an optimizer, as PyTorch schedulers that save and resume as usual."""

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from gradiometer.convergence.formulas.number import Amount
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.errors import BadArgument

LEARNING_RATE = "lr"


def scheduler(
    schedule: Schedule,
    optimizer: Optimizer,
    parameter: str = LEARNING_RATE,
    *,
    reference: Amount | None = None,
    last_epoch: int = -1,
) -> LRScheduler:
    """A PyTorch scheduler that follows a schedule. Call its `step` after every optimizer step.

    The learning rate is set by `LambdaLR`. A group with the optimizer's default `lr` follows η exactly. A group with
    another `lr` keeps its ratio to the default, so that layer-wise rates stay in proportion. Any other hyperparameter
    ("momentum", "weight_decay", "betas[0]") gets the value of the schedule in every group.

    Args:
        schedule: η, or the value of the hyperparameter, at every step.
        optimizer: The optimizer to schedule.
        parameter: Key in the optimizer's groups; a number in brackets selects an entry of a tuple.
        reference: The `lr` that stands for η; the optimizer's default if None.
        last_epoch: Number of steps taken so far minus 1, as in PyTorch; −1 to start.

    >>> import torch
    >>> from gradiometer.convergence.schedules import Linear
    >>> optimizer = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1)
    >>> scheduler = Linear(0.1, steps=10).scheduler(optimizer)
    >>> for _ in range(5):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> scheduler.get_last_lr()
    [0.05]
    """
    if parameter != LEARNING_RATE:
        return HyperparameterLR(optimizer, schedule, parameter, last_epoch)
    unit = optimizer.defaults.get(LEARNING_RATE) if reference is None else reference
    if not (isinstance(unit, int | float | Tensor) and float(unit) > 0):
        raise BadArgument(f"`lr` of the optimizer must be positive, got {unit}. Set it, or give `reference`.")
    return LambdaLR(optimizer, _multiplier(schedule, float(unit)), last_epoch)


def _multiplier(schedule: Schedule, unit: Amount) -> Callable[[int], float]:
    return lambda step: schedule(step) / unit


class HyperparameterLR(LRScheduler):
    """Sets a hyperparameter other than the learning rate, in every group, to the value of a schedule.

    Args:
        optimizer: The optimizer to schedule.
        schedule: The value at every step.
        parameter: Key in the optimizer's groups, such as "momentum" or "betas[0]".
        last_epoch: Number of steps taken so far minus 1; −1 to start.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, parameter: str, last_epoch: int = -1) -> None:
        found = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", parameter)
        name, place = (found[1], found[2]) if found else (parameter, None)
        for group in optimizer.param_groups:
            if name not in group or isinstance(group[name], tuple) != (place is not None):
                numbers = ", ".join(key for key in group if key not in ("params", "lr", "initial_lr"))
                raise BadArgument(
                    f"`parameter` must name a number of the optimizer, got {parameter!r}. Its keys are {numbers}."
                )
            if place is not None and not int(place) < len(group[name]):
                raise BadArgument(f"`parameter` must be below {name}[{len(group[name])}], got {parameter!r}.")
        self._schedule, self._name, self._place = schedule, name, None if place is None else int(place)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Set the hyperparameter; return the learning rates unchanged."""
        value = self._schedule(self.last_epoch)
        for group in self.optimizer.param_groups:
            if self._place is None:
                group[self._name] = value
            else:
                numbers = list(group[self._name])
                numbers[self._place] = value
                group[self._name] = tuple(numbers)
        return [group[LEARNING_RATE] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The PyTorch state without the schedule, which is a setting and not a state."""
        return {
            key: value for key, value in super().state_dict().items() if key not in ("_schedule", "_name", "_place")
        }
