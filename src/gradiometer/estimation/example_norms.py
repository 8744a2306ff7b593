"""The squared gradient norm of every example, to find the examples that make most of the noise."""

import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import Unsupported
from gradiometer.measurement.batch import Batch, batch_size, span
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.spread.apart import PER_EXAMPLE_NUMBERS
from gradiometer.measurement.spread.example_norms import example_norms


def squared_norms(objective: Objective, batch: Batch, *, seed: int = 0) -> Float[Tensor, " examples"]:
    """‖g_i‖² of every example, in (loss / parameter)², in double precision.

    A model of layers with a rule (see `ExampleNorms`) costs one forward and backward, and no per-example gradient is
    stored: a Linear layer contributes ‖δ_i‖²(‖a_i‖² + 1), with a_i its input, δ_i the gradient at its output, and 1 for
    its bias. This path is checked, not assumed: two examples are run alone. For any other model per-example gradients
    are computed by `vmap`, a few examples at a time.

    Args:
        objective: The model and its loss, in the mode the model is in.
        batch: The examples.
        seed: Seed for random numbers in the loss (Dropout).

    Raises:
        Unsupported: The loss couples the examples of a batch (batch statistics), so they have no separate gradients.

    Source: Goodfellow (2015), Efficient Per-Example Gradient Computations.

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
            "`loss` couples the examples of a batch (batch statistics, or weights normalised over the batch), so they "
            "have no separate gradients: measure in eval mode, or measure the noise from micro-batches (`noise`)."
        )
    found = example_norms(objective, batch, seed=seed)
    return _one_by_one(objective, batch, seed) if found is None else found[0].sum(dim=1)


def _one_by_one(objective: Objective, batch: Batch, seed: int) -> Float[Tensor, " examples"]:
    size, at_once = batch_size(batch), max(PER_EXAMPLE_NUMBERS // objective.dimension, 1)
    parts = []
    for start in range(0, size, at_once):
        part = span(batch, start, min(start + at_once, size))
        gradients = objective.per_example_gradients(part, seed=seed + start)
        parts.append(torch.stack([g.flatten(1).double().square().sum(1) for g in gradients]).sum(0))
    return torch.cat(parts)
