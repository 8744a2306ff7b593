"""The squared gradient norm of every example, to find the examples that make most of the noise."""

import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import Unsupported
from gradiometer.measurement.apart import PER_EXAMPLE_NUMBERS
from gradiometer.measurement.batch import Batch, batch_size, span
from gradiometer.measurement.objective import Objective


def squared_norms(
    objective: Objective, batch: Batch, *, seed: int = 0
) -> Float[Tensor, " examples"]:
    """‖g_i‖² of every example, in (loss / parameter)², in double precision.

    Per-example gradients are computed by `vmap`, a few examples at a time.

    Args:
        objective: The model and its loss, in the mode the model is in.
        batch: The examples.
        seed: Seed for random numbers in the loss (Dropout).

    Raises:
        Unsupported: The loss couples the examples of a batch (batch statistics), so they have no
            separate gradients.

    Example:
        >>> from gradiometer import Objective, supervised
        >>> from torch import nn
        >>> model = nn.Linear(1, 1, bias=False)  # the gradient of (w x - y)² is 2 (w x - y) x
        >>> _ = nn.init.zeros_(model.weight)
        >>> objective = Objective(model, supervised(lambda output, target: (output - target).square().sum(1)))
        >>> inputs, targets = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0], [0.5], [0.0]])
        >>> squared_norms(objective, (inputs, targets)).round(decimals=4).tolist()
        [4.0, 4.0, 0.0]
    """
    if objective.traits(batch, seed=seed).coupled:
        raise Unsupported(
            "`loss` couples the examples of a batch (batch statistics, or weights normalised over "
            "the batch), so they have no separate gradients: measure in eval mode, or measure the "
            "noise from micro-batches (`noise`)."
        )
    size, at_once = batch_size(batch), max(PER_EXAMPLE_NUMBERS // objective.dimension, 1)
    parts = []
    for start in range(0, size, at_once):
        part = span(batch, start, min(start + at_once, size))
        gradients = objective.per_example_gradients(part, seed=seed + start)
        parts.append(torch.stack([g.flatten(1).double().square().sum(1) for g in gradients]).sum(0))
    return torch.cat(parts)
