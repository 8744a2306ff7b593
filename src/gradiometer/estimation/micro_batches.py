"""Gradients of micro-batches of one step: their inner products, and the noise from random numbers
in the model."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import BadArgument, Unsupported
from gradiometer.measurement.batch import Batch, batch_size, span, take
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.parts import difference
from gradiometer.measurement.step import PER_EXAMPLE_NUMBERS

if TYPE_CHECKING:
    import gradiometer.measurement.step


# Most numbers in the gradients of all micro-batches together: 512 MiB in single precision.
MOST_NUMBERS = 2**27


def inner_products(
    step: "gradiometer.measurement.step.TrainingStep", parts: int
) -> tuple[Float[np.ndarray, "parts parts"], int]:
    """⟨ĝ_i, ĝ_j⟩ of random micro-batches of equal size, and the number of examples in each.

    Raises:
        BadArgument: There are too few examples, or their gradients would take too much memory.
    """
    size = step.batch_size // parts
    coupled = step.objective.traits(step.batch, seed=step.seed_for("probe")).coupled
    if not size >= 1 + coupled:
        needed = (
            "2 examples, since the loss couples the examples of a batch" if coupled else "1 example"
        )
        raise BadArgument(
            f"`parts` is {parts} for a batch of {step.batch_size}, but each part needs at least "
            f"{needed}: use fewer parts or a larger batch."
        )
    if not parts * step.objective.dimension <= MOST_NUMBERS:
        raise BadArgument(
            f"`parts` is {parts} for a model of {step.objective.dimension:,} parameters: that many "
            f"gradients are more than {MOST_NUMBERS:,} numbers; use fewer parts."
        )
    if step.example_of is not None:
        raise Unsupported(
            "`groups` keeps rows together, for which this gauge has no parts: leave one of them "
            "out."
        )
    order = torch.randperm(step.batch_size, generator=step.generator("shape"), device="cpu")
    dealt = order[: size * parts].view(parts, size)
    if size == 1:
        stacked = step.objective.per_example_gradients(
            take(step.batch, order[:parts]), seed=step.seed_for("shape")
        )
    else:
        each = [
            step.objective.gradient(take(step.batch, part), seed=step.seed_for(f"shape {place}"))
            for place, part in enumerate(dealt)
        ]
        stacked = [torch.stack(gradients) for gradients in zip(*each, strict=True)]
    # In double precision, one parameter at a time.
    wide = (gradients.flatten(1).double() for gradients in stacked)
    gram = torch.stack([rows @ rows.T for rows in wide]).sum(dim=0)
    return gram.cpu().numpy(), size


def noise_of_draws(
    step: "gradiometer.measurement.step.TrainingStep",
) -> Float[np.ndarray, " layers"]:
    """b‖ĝ′ − ĝ″‖²/2 by layer, of a random half of b examples: unbiased for E tr Cov(g_i | x)."""
    part = torch.randperm(
        step.batch_size, generator=step.generator("repeated"), device="cpu"
    ).tensor_split(2)[0]
    batch = take(step.batch, part)
    first, second = (
        step.objective.gradient(batch, seed=step.seed_for(f"draws {time}")) for time in range(2)
    )
    apart = difference(first, second)
    return step.products_by_layer(apart, apart) * len(part) / 2


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
