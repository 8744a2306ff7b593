"""The noise from random numbers in the model, from two runs of the same examples."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from gradiometer.measurement.batch import take

if TYPE_CHECKING:
    import gradiometer.measurement.step


def noise_of_draws(step: "gradiometer.measurement.step.TrainingStep") -> Float[np.ndarray, " layers"]:
    """b‖ĝ′ − ĝ″‖²/2 by layer, of a random half of b examples: unbiased for E tr Cov(g_i | x)."""
    part = torch.randperm(step.batch_size, generator=step.generator("repeated"), device="cpu").tensor_split(2)[0]
    batch = take(step.batch, part)
    first, second = (step.objective.gradient(batch, seed=step.derived_seed(f"draws {time}")) for time in range(2))
    squares = torch.stack([(a - b).double().square().sum() for a, b in zip(first, second, strict=True)])
    by_layer: np.ndarray = np.bincount(step.objective.layer_of, weights=squares.cpu().numpy())
    return by_layer * len(part) / 2
