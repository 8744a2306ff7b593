"""Optimizers that average their own iterates, as schedule-free ones do: they train at one point and
end at another.

They have the methods `train` and `eval`, which move the parameters to the point where gradients are
taken and to the average. The average is what is evaluated, and what such a training ends with.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.errors import BadArgument


def averages_itself(optimizer: torch.optim.Optimizer) -> bool:
    """True if the optimizer has an average of its iterates to move to."""
    return all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))


def schedule_free_class() -> type[torch.optim.Optimizer]:
    """`SGDScheduleFree`, from the package schedulefree.

    Raises:
        BadArgument: The package is not installed.

    Source: Defazio, Yang, Mehta, Mishchenko, Khaled & Cutkosky (2024), The Road Less Scheduled.
    """
    try:
        from schedulefree import SGDScheduleFree  # noqa: PLC0415 (an extra)
    except ImportError:
        raise BadArgument(
            "`optimizer` schedulefree needs the package schedulefree: pip install "
            "'gradiometer[schedulefree]'."
        ) from None
    found: type[torch.optim.Optimizer] = SGDScheduleFree
    return found


def schedule_free(
    parameters: Iterable[Tensor], learning_rate: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Schedule-free SGD, ready to train. Its rate is constant; a warm-up is left out, so clip the
    gradients.

    Args:
        parameters: What it trains.
        learning_rate: The inner rate, that of the iterates that it averages.
        weight_decay: This times the parameters is added to the gradient.
    """
    kind: Any = schedule_free_class()
    # 0.9: share of the average in the point at which schedule-free SGD takes gradients.
    made: Any = kind(parameters, lr=learning_rate, momentum=0.9, weight_decay=weight_decay)
    made.train()
    optimizer: torch.optim.Optimizer = made
    return optimizer


@contextmanager
def at_average(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[bool]:
    """The model at the average, and afterwards with the same bits as before. Without an average
    nothing changes.

    Args:
        model: The model. Its buffers are put back, too.
        optimizer: Its optimizer.

    Yields:
        True if the model is at an average, for which statistics of BatchNorm are to be measured
        again.
    """
    if not averages_itself(optimizer):
        yield False
        return
    tensors = [*(parameter.data for parameter in model.parameters()), *model.buffers()]
    kept = [tensor.clone() for tensor in tensors]
    settings = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    to_average(optimizer)
    try:
        yield True
    finally:
        for tensor, before in zip(tensors, kept, strict=True):
            tensor.copy_(before)
        for group, before_it in zip(optimizer.param_groups, settings, strict=True):
            group.update(before_it)


def to_average(optimizer: torch.optim.Optimizer) -> bool:
    """Move the parameters to the average, for good. True if there is one."""
    if not averages_itself(optimizer):
        return False
    averaging: Any = optimizer
    averaging.eval()
    return True
