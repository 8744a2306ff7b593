"""A training is not touched while branches are grown beside it."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.forks.copies import Parts


@contextmanager
def untouched(original: Parts, copies: Parts) -> Iterator[None]:
    """Set the gradients of a training aside inside, and check at the end that nothing of it was changed.

    Args:
        original: The training.
        copies: Copies of it, made just before.

    Raises:
        BadArgument: The user's functions have changed it, in place of the copies that they were called with. It is
            put back to what it was.
    """
    parameters = list(original.model.parameters())
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield
    finally:
        touched = any(parameter.grad is not None for parameter in parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        changed = _changed(original, copies)
    if touched or changed:
        if changed:
            original.model.load_state_dict(copies.model.state_dict())
            original.optimizer.load_state_dict(copies.optimizer.state_dict())
            for scheduler, before in zip(original.schedulers, copies.schedulers, strict=True):
                scheduler.load_state_dict(before.state_dict())
        raise BadArgument(
            "`loss`, `step`, `evaluate` or an alternative worked on the training itself: use only the model, optimizer "
            "and batch that the function is called with. The training was put back to what it was."
        )


def refuse_outside(name: str, function: Any, model: torch.nn.Module) -> None:
    """Raise if a function uses the model by a name from outside, since branches train a copy.

    Raises:
        BadArgument: It does.
    """
    if not isinstance(function, FunctionType):
        return
    used = inspect.getclosurevars(function)
    if any(one is model for one in (*used.nonlocals.values(), *used.globals.values())):
        raise BadArgument(f"`{name}` uses the model from outside of it: use the one it is called with, a copy.")


def _changed(original: Parts, copies: Parts) -> bool:
    pairs = [
        (original.model.state_dict(), copies.model.state_dict()),
        (original.optimizer.state_dict(), copies.optimizer.state_dict()),
    ]
    schedulers = zip(original.schedulers, copies.schedulers, strict=True)
    pairs += [(one.state_dict(), two.state_dict()) for one, two in schedulers]
    return not all(_same(one, two) for one, two in pairs)


def _same(one: Any, two: Any) -> bool:
    """True if two trees of tensors and numbers have the same values."""
    if isinstance(one, Tensor):
        is_nan = one.is_floating_point() and torch.allclose(one, two, 0, 0, equal_nan=True)
        return torch.equal(one, two) or is_nan
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    return not isinstance(one, int | float) or repr(one) == repr(two)
