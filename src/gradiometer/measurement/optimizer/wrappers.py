"""Models and optimizers without the wrappers that libraries put around them."""

from typing import Any

import torch
from torch import nn

# Wrappers that torch puts around a model, by class name (importing them takes seconds), and where
# they keep it.
WRAPPERS = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
}


def bare(model: nn.Module) -> nn.Module:
    """The model itself, without the wrappers of DDP and torch.compile."""
    while (place := WRAPPERS.get(type(model).__name__)) is not None:
        model = getattr(model, place)
    return model


def bare_optimizer(optimizer: Any) -> Any:
    """The torch optimizer in a wrapper, such as those of Accelerate and fastai. Other objects stay
    as they are."""
    for place in ("optimizer", "opt", "_optimizer"):
        inner = getattr(optimizer, place, None)
        if inner is not optimizer and isinstance(
            found := bare_optimizer(inner), torch.optim.Optimizer
        ):
            return found
    return optimizer
