"""A training is not touched while branches are trained beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.loop.loop import Loop


@contextmanager
def guarded_copy(original: Loop, seed: int) -> Iterator[Loop]:
    """A copy of a training to start branches from. Gradients of the training are set aside inside.

    Args:
        original: The training.
        seed: Seed of the branches.

    Raises:
        BadArgument: At the end, if the user's functions have changed the training in place of the
            copies that they were called with. It is put back to what it was.
    """
    start = original.copy()
    start.seed = seed
    parameters = list(original.model.parameters())
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    try:
        yield start
    finally:
        touched = any(parameter.grad is not None for parameter in parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        changed = not _same(original.state(), start.state())
    if touched or changed:
        if changed:
            original.restore(start.state())
        raise BadArgument(
            "`loss`, `step`, `evaluate` or an alternative worked on the training itself: use only "
            "the model, optimizer and batch that the function is called with. The training was put "
            "back to what it was."
        )


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
