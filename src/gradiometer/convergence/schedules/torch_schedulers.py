"""A schedule on an optimizer: torch's own schedulers, which save and resume as torch's do."""

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
    """Torch's own scheduler that follows a schedule; call its `step` after every optimizer step.

    The learning rate: `LambdaLR`. A group that has the optimizer's own `lr` follows η exactly; a group given another
    keeps its ratio to it, so that layer-wise rates stay in proportion. Any other hyper-parameter ("momentum",
    "weight_decay", "betas[0]") takes the schedule's value in every group.

    Args:
        schedule: η, or the hyper-parameter's value, at every step.
        optimizer: What it acts on.
        parameter: Name in the optimizer's groups; a number in brackets picks one of a tuple.
        reference: The `lr` that stands for η; the optimizer's default where None.
        last_epoch: Steps taken so far less one, as torch counts them; −1 to start.
    """
    if parameter != LEARNING_RATE:
        return HyperparameterLR(optimizer, schedule, parameter, last_epoch)
    unit = optimizer.defaults.get(LEARNING_RATE) if reference is None else reference
    if not (isinstance(unit, int | float | Tensor) and float(unit) > 0):
        raise BadArgument(
            f"`lr` of the optimizer must be positive to be scheduled, got {unit}: set it, or `reference`."
        )
    return LambdaLR(optimizer, _multiplier(schedule, float(unit)), last_epoch)


def _multiplier(schedule: Schedule, unit: Amount) -> Callable[[int], float]:
    return lambda step: schedule(step) / unit


class HyperparameterLR(LRScheduler):
    """Sets a hyper-parameter other than the learning rate, in every group, as a schedule says.

    Args:
        optimizer: What it acts on.
        schedule: The value at every step.
        parameter: Name in the optimizer's groups, such as "momentum" or "betas[0]".
        last_epoch: Steps taken so far less one; −1 to start.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, parameter: str, last_epoch: int = -1) -> None:
        found = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", parameter)
        name, place = (found[1], found[2]) if found else (parameter, None)
        for group in optimizer.param_groups:
            if name not in group or isinstance(group[name], tuple) != (place is not None):
                numbers = ", ".join(key for key in group if key not in ("params", "lr", "initial_lr"))
                raise BadArgument(
                    f"`parameter` must name a number of the optimizer's, got {parameter!r}; it has {numbers}."
                )
            if place is not None and not int(place) < len(group[name]):
                raise BadArgument(f"`parameter` {parameter!r} is beyond the {len(group[name])} numbers of {name}.")
        self._schedule, self._name, self._place = schedule, name, None if place is None else int(place)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Set the hyper-parameter; the learning rates are handed back as they are."""
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
        """Torch's state without the schedule, which is a setting and not a state."""
        return {
            key: value for key, value in super().state_dict().items() if key not in ("_schedule", "_name", "_place")
        }
