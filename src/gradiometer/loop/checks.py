"""Checks of what a person gives as a training loop."""

import inspect
from types import FunctionType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument, Unsupported
from gradiometer.loop.evaluation import examples_of, is_test_set
from gradiometer.loop.parts import RateByHand
from gradiometer.measurement.optimizer.steps import as_one, bare_optimizer, optimizers_in
from gradiometer.measurement.untouched import used_by

# Most batches whose gradients one update adds up: with so many of 16 examples, an update of a model
# with ten parameters takes four seconds.
MOST_MICROBATCHES = 2**16


def check_functions(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    loss: Any,
    step: Any,
    evaluate: Any,
    scaler: Any,
    accumulation: int,
) -> None:
    """Raise unless these arguments of a loop fit together."""
    check_whole("accumulation", accumulation, 1)
    if not accumulation <= MOST_MICROBATCHES:
        raise BadArgument(
            f"`accumulation` must be at most {MOST_MICROBATCHES:,}, got {accumulation:,}."
        )
    if (loss is None) == (step is None):
        raise BadArgument("`loss` or `step` must be given, and not both.")
    for name, function, arguments in (
        ("loss", loss, "(model, batch)"),
        ("step", step, "(model, optimizer, batch)"),
    ):
        if isinstance(function, nn.modules.loss._Loss):
            raise BadArgument(
                f"`{name}` must be a function of {arguments}, got {type(function).__name__}, a "
                "criterion on (prediction, target): write "
                f"supervised(nn.{type(function).__name__}(reduction='none'))."
            )
        if not (function is None or callable(function)):
            raise BadArgument(
                f"`{name}` must be a function of {arguments}, got {type(function).__name__}."
            )
    if step is not None and (accumulation != 1 or scaler is not None):
        raise BadArgument(
            "`step` makes a whole update: use `accumulation` and `scaler` with `loss`, or inside "
            "of it."
        )
    if step is not None and (evaluate is None or is_test_set(evaluate)):
        raise BadArgument(
            "`evaluate` must be a function of the model with `step`, since no loss is known for it."
        )
    if loss is not None:
        check_steps_alone(optimizer)
    if is_test_set(evaluate):
        examples_of(evaluate)
    for name, function in (("loss", loss), ("step", step), ("evaluate", evaluate)):
        if not isinstance(function, FunctionType):
            continue
        # branches train a copy
        if any(one is model for one in used_by(function)):
            raise BadArgument(
                f"`{name}` uses the model from outside of it: use the one it is called with, a "
                "copy."
            )


def check_steps_alone(optimizer: torch.optim.Optimizer) -> None:
    """Raise if an optimizer calls the loss itself, as LBFGS does."""
    for one in optimizers_in(optimizer):
        closure = inspect.signature(one.step).parameters.get("closure")
        if closure is not None and closure.default is closure.empty:
            raise BadArgument(
                f"`optimizer` {type(one).__name__} calls the loss itself: give `step`, which "
                "makes a whole update with its closure, in place of `loss`."
            )


def check_trainable(model: nn.Module) -> None:
    """Raise unless copies of a model can be trained here.

    Raises:
        BadArgument: It is in eval mode.
        Unsupported: Its parameters are spread over processes, or not made yet.
    """
    if not model.training:
        raise BadArgument(
            "`model` is in eval mode, and branches train it: call model.train() before."
        )
    if dist.is_available() and dist.is_initialized():
        for module in model.modules():
            if isinstance(module, nn.SyncBatchNorm):
                raise Unsupported(
                    "`model` has SyncBatchNorm, which needs all processes, and branches train on "
                    "one."
                )
    if any(type(parameter.data).__name__ == "DTensor" for parameter in model.parameters()):
        raise Unsupported(
            "`model` is sharded (FSDP or tensor parallel), and branches train a whole copy on one "
            "process."
        )
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise Unsupported("`model` has parameters without a shape: run it once on a batch before.")


def optimizer_from(model: nn.Module, given: Any) -> torch.optim.Optimizer:
    """The optimizer that a person gives, without its wrapper; several as one. Raise unless they are
    optimizers of parameters of the model."""
    several = given if isinstance(given, list | tuple) and given else [given]
    optimizers = [bare_optimizer(one) for one in several]
    own = {id(parameter) for parameter in model.parameters()}
    for one in optimizers:
        if not isinstance(one, torch.optim.Optimizer):
            raise BadArgument(
                "`optimizer` must be a torch.optim.Optimizer or a list of them, got "
                f"{type(one).__name__}."
            )
        trained = [parameter for group in one.param_groups for parameter in group["params"]]
        if not own.issuperset(map(id, trained)):
            raise Unsupported(
                "`optimizer` trains a parameter that is not in `model`, so that a copy of the "
                "model would not train it: put all trained modules into one, such as "
                "nn.ModuleDict, and give that as `model`."
            )
    return as_one(optimizers)


def check_scheduler(scheduler: Any, optimizer: torch.optim.Optimizer) -> None:
    """Raise unless this is a scheduler of the optimizer that can be stepped in a copy."""
    if isinstance(scheduler, RateByHand):
        return
    if isinstance(scheduler, ReduceLROnPlateau):
        raise Unsupported(
            "`scheduler` is ReduceLROnPlateau, which needs a metric at every step: leave it out, "
            "and the rate stays what it is now."
        )
    if not isinstance(scheduler, LRScheduler):
        raise BadArgument(
            "`scheduler` must be a scheduler of torch, or a function of the number of an update "
            f"that returns its rate, got {type(scheduler).__name__}."
        )
    if bare_optimizer(scheduler.optimizer) not in optimizers_in(optimizer):
        raise BadArgument(
            "`scheduler` belongs to another optimizer than the one given as `optimizer`."
        )
