"""The inner products of micro-batch gradients of one step: all that the shape of the noise needs of them."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import take
from gradiometer.measurement.objective import Gradients

if TYPE_CHECKING:
    import gradiometer.measurement.step

MOST_NUMBERS = 2**27
"""Most numbers held at once, the gradients of all micro-batches: 512 MiB in single precision."""


def inner_products(
    step: "gradiometer.measurement.step.TrainingStep", parts: int
) -> tuple[Float[np.ndarray, "parts parts"], int]:
    """⟨ĝ_i, ĝ_j⟩ of micro-batches of equal size, dealt out at random, and how many examples each of them has.

    Raises:
        BadArgument: There are too few examples, or their gradients would take too much memory.
    """
    size, coupled = step.batch_size // parts, _coupled(step)
    if not size >= 1 + coupled:
        why = ", since the loss couples the examples of a batch" if coupled else ""
        raise BadArgument(
            f"`parts` is {parts} for a batch of {step.batch_size}: at least {1 + coupled} "
            f"{'examples' if coupled else 'example'} each are needed{why}; lower it, or raise B."
        )
    if not parts * step.objective.dimension <= MOST_NUMBERS:
        raise BadArgument(
            f"`parts` is {parts} for a model of {step.objective.dimension:,} parameters: so many "
            f"gradients at once are more than {MOST_NUMBERS:,} numbers; lower it."
        )
    order = torch.randperm(step.batch_size, generator=step.generator("shape"), device="cpu")
    dealt = order[: size * parts].view(parts, size)
    if size == 1:
        chosen = take(step.batch, order[:parts])
        stacked = step.objective.per_example_gradients(chosen, seed=step.derived_seed("shape"))
    else:
        each = [
            step.objective.gradient(take(step.batch, part), seed=step.derived_seed(f"shape {place}"))
            for place, part in enumerate(dealt)
        ]
        stacked = [torch.stack(gradients) for gradients in zip(*each, strict=True)]
    return _gram(stacked).cpu().numpy(), size


def _coupled(step: "gradiometer.measurement.step.TrainingStep") -> bool:
    return step.objective.traits(step.batch, seed=step.derived_seed("probe")).coupled


def _gram(stacked: Gradients) -> Float[Tensor, "parts parts"]:
    """Summed over parameters in double precision, one parameter at a time."""
    wide = (gradients.flatten(1).double() for gradients in stacked)
    return torch.stack([rows @ rows.T for rows in wide]).sum(dim=0)
