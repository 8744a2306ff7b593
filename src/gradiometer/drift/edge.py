"""A warning before training starts if the learning rate is above the edge of stability."""

from gradiometer.drift.curvature import AT_ONCE, Curvature
from gradiometer.drift.stability import PLAIN, MomentumRule, largest_stable_rate, stability_limit
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.estimate import significant
from gradiometer.measurement.objective import Objective


def edge_warning(
    objective: Objective,
    batch: Batch,
    *,
    learning_rate: float,
    kind: MomentumRule = PLAIN,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> str | None:
    """A sentence if η λ_max is above its limit at the model's present parameters, else None.

    λ_max of the given examples is computed to a residual of 1 %, at the cost of ten to twenty
    gradients of them. Parameters, `.grad`, buffers and random states are not changed.

    Args:
        objective: The model and its loss.
        batch: A few hundred examples.
        learning_rate: η of the first step.
        kind: Plain, heavy-ball or Nesterov.
        weight_decay: Added to the curvature.
        seed: Seed for the random start of Lanczos and for random numbers in the loss.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from gradiometer import Objective, supervised
        >>> torch.manual_seed(0)
        <torch._C.Generator object at ...>
        >>> objective = Objective(nn.Linear(1, 1, bias=False), supervised(nn.MSELoss()))
        >>> batch = 3 * torch.ones(8, 1), torch.zeros(8, 1)  # the curvature of (3 w)² is 18
        >>> print(edge_warning(objective, batch, learning_rate=0.1))
        None
        >>> print(edge_warning(objective, batch, learning_rate=0.2))
        the learning rate 0.200 is 1.8 times beyond the edge of stability at the start ...
    """
    sharpness = Curvature.of(objective, batch, at_once=AT_ONCE, seed=seed).eigenvalues().sharpness
    limit = stability_limit(learning_rate, kind, weight_decay=weight_decay)
    if not sharpness.low > limit:
        return None
    rate = largest_stable_rate(sharpness, kind, weight_decay=weight_decay)
    return (
        f"the learning rate {significant(learning_rate)} is "
        f"{significant(sharpness.value / limit, 2)} times beyond the edge of stability at the "
        f"start (sharpness {sharpness}, {kind.formula} = {significant(limit)}): on a quadratic the "
        "loss would diverge; a network often reaches a flatter region first. If it diverges, try "
        f"--lr {rate.low:.2g} or a warm-up."
    )
