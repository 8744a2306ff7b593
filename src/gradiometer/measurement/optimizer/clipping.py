"""Gradients clipped to a norm, or to a value, before every step of an optimizer."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Clipping:
    """A hook for `Optimizer.register_step_pre_hook`: gradients whose norm is above `norm` are
    scaled down to it.

    Args:
        norm: The largest norm of all gradients together.
    """

    norm: float

    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Clip the gradients of an optimizer that is about to make its step."""
        # Set by a GradScaler that leaves the division to a fused optimizer.
        scale = getattr(optimizer, "grad_scale", None)
        parameters = [
            parameter for group in optimizer.param_groups for parameter in group["params"]
        ]
        torch.nn.utils.clip_grad_norm_(
            parameters, self.norm * (1.0 if scale is None else float(scale))
        )


@dataclass(frozen=True)
class ValueClipping:
    """A hook for `Optimizer.register_step_pre_hook`: every number of a gradient is clipped to
    [-value, value].

    Args:
        value: The largest absolute value.
    """

    value: float

    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Clip the gradients of an optimizer that is about to make its step."""
        scale = getattr(optimizer, "grad_scale", None)
        parameters = [
            parameter for group in optimizer.param_groups for parameter in group["params"]
        ]
        torch.nn.utils.clip_grad_value_(
            parameters, self.value * (1.0 if scale is None else float(scale))
        )


def clip_before_steps(
    optimizers: Iterable[torch.optim.Optimizer], norm: float | None, value: float | None
) -> None:
    """Clip gradients to a value, then to a norm, before every step of these optimizers."""
    for optimizer in optimizers:
        if value is not None:
            optimizer.register_step_pre_hook(ValueClipping(float(value)))
        if norm is not None:
            optimizer.register_step_pre_hook(Clipping(float(norm)))
