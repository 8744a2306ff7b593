"""The model of a problem: a new one, and the statistics of its BatchNorm."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from gradiometer.convergence.averaging import refresh_batch_norm
from gradiometer.errors import Unsupported, UserCodeFailed
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.objective import WITHOUT_PARAMETERS
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem
from gradiometer.problems.user_code import user_code


def new_model(problem: Problem) -> nn.Module:
    """A new model whose gradients can be read."""
    with user_code("model"):
        model: Any = problem.model()
    if not isinstance(model, nn.Module):
        raise UserCodeFailed(
            f"`model` made a {type(model).__name__}, a torch.nn.Module was expected."
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise Unsupported(WITHOUT_PARAMETERS)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise Unsupported(
                f"`model` has {name} on the meta device, which holds no numbers: make it on the "
                "CPU."
            )
        if is_lazy(parameter):
            raise Unsupported(
                f"`model` has no shape yet for {name}: run it once on a batch before it is "
                "returned."
            )
        if parameter.is_complex():
            raise Unsupported(
                f"`model` has the complex parameter {name}: use two real parameters instead."
            )
    for name, module in model.named_modules():
        if getattr(module, "sparse", False) is True:
            raise Unsupported(
                f"`model` makes sparse gradients in {name or 'itself'}: build it with sparse=False."
            )
    return model


def refresh(problem: Problem, data: Examples, model: nn.Module, *, size: int) -> None:
    """Re-estimate BatchNorm's statistics on all training data, in random batches of equal size."""
    with user_code("loss", "while BatchNorm's statistics were re-estimated"):
        refresh_batch_norm(model, _shuffled(data, size), problem.loss)


def _shuffled(data: Examples, size: int) -> Iterator[Batch]:
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    for part in order.split(size):
        if len(part) == min(size, len(data)):
            yield data.batch(part)
