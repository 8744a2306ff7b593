"""Steps that are not those of one plain optimizer of torch: several optimizers as one, optimizers
that average their own iterates, and what changes gradients and parameters right before a step.

Optimizers that average, as schedule-free ones do, train at one point and end at another. They have
the methods `train` and `eval`, which move the parameters to the point where gradients are taken and
to the average. The average is what is evaluated, and what such a training ends with.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.errors import BadArgument


class SeveralOptimizers(torch.optim.Optimizer):
    """Several optimizers of one model as one, whose step is a step of each in their order.

    The parameter groups are those of the optimizers themselves, which stay what they are.

    Args:
        optimizers: The optimizers.

    >>> import torch
    >>> from gradiometer.measurement.optimizer.steps import SeveralOptimizers
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


def trained_ids(optimizers: Iterable[torch.optim.Optimizer]) -> set[int]:
    """`id` of every parameter that one of the optimizers holds."""
    return {
        id(parameter)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


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


@dataclass(frozen=True)
class Clipping:
    """A hook for `Optimizer.register_step_pre_hook`: gradients above a limit are clipped to it.

    Args:
        limit: The largest norm of all gradients together, which are scaled down to it.
        by_value: The limit is the largest absolute value of a number instead.
        adds_to_norm: False to leave out the 1e-6 that PyTorch adds to the norm: then a loss in
            another unit is clipped alike.
    """

    limit: float
    by_value: bool = False
    adds_to_norm: bool = True

    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Clip the gradients of an optimizer that is about to make its step."""
        # Set by a GradScaler that leaves the division to a fused optimizer.
        scale = getattr(optimizer, "grad_scale", None)
        limit = self.limit * (1.0 if scale is None else float(scale))
        parameters = [
            parameter for group in optimizer.param_groups for parameter in group["params"]
        ]
        if self.by_value:
            torch.nn.utils.clip_grad_value_(parameters, limit)
        elif self.adds_to_norm:
            torch.nn.utils.clip_grad_norm_(parameters, limit)
        else:
            gradients = [one.grad for one in parameters if one.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            factor = torch.clamp(limit / norm, max=1.0)
            for gradient in gradients:
                gradient.mul_(factor.to(gradient.device))


def clip_before_steps(
    optimizers: Iterable[torch.optim.Optimizer], norm: float | None, value: float | None
) -> None:
    """Clip gradients to a value, then to a norm, before every step of these optimizers."""
    for optimizer in optimizers:
        if value is not None:
            optimizer.register_step_pre_hook(Clipping(float(value), by_value=True))
        if norm is not None:
            optimizer.register_step_pre_hook(Clipping(float(norm)))


@contextmanager
def moved_up(optimizer: torch.optim.Optimizer, distance: float) -> Iterator[None]:
    """Inside, the parameters are a distance up along the present gradient, which is cleared; then
    back in their place.

    Source: Foret et al. (2021), Sharpness-Aware Minimization, equation 3. The arithmetic is that of
    the usual code.
    """
    moved = [
        one for group in optimizer.param_groups for one in group["params"] if one.grad is not None
    ]
    with torch.no_grad():
        norm = torch.norm(torch.stack([one.grad.norm(p=2) for one in moved]), p=2)
        before = [one.detach().clone() for one in moved]
        for one in moved:
            one.add_(one.grad * (distance / (norm + 1e-12)))
    optimizer.zero_grad(set_to_none=True)
    yield
    with torch.no_grad():
        for one, place in zip(moved, before, strict=True):
            one.copy_(place)
