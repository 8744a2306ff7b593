"""Parameters moved along their gradient for a second backward, as sharpness-aware minimisation
does."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
