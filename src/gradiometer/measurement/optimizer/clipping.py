"""What happens to gradients and parameters around a step of an optimizer: clipping, and the ascent of
sharpness-aware minimisation."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Clipping:
    """A hook for `Optimizer.register_step_pre_hook`: gradients above a limit are clipped to it.

    Args:
        limit: The largest norm of all gradients together, which are scaled down to it.
        by_value: The limit is the largest absolute value of a number instead.
    """

    limit: float
    by_value: bool = False

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
        else:
            torch.nn.utils.clip_grad_norm_(parameters, limit)


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
