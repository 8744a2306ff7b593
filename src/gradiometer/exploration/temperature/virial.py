"""The configurational temperature of a run, with its error: ⟨(Φ − c)·∇U⟩/d, about where the run has been."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean

BLOCKS = 48
"""Parts of a run whose gradients are summed, so that the temperature has an error."""


class Virial:
    """Sums that give ⟨(Φ − c)·∇U⟩/d of every block of a run, for a c that is only known at its end: its mean Φ.

    That c lies where the run has been, not in the minimum, so that it reads low by the share of the run in which the
    draws forget: by about τ/steps of T with an integrated autocorrelation time τ = 1 + 2Σ_k ρ_k.

    Args:
        like: Parameters, flat: of them the size, the type and the device are taken.
        steps: That will be added, at least one a block.
    """

    def __init__(self, like: Float[Tensor, " params"], steps: int) -> None:
        self.steps, self.added = steps, 0
        self.products, self.counts = np.zeros(BLOCKS), np.zeros(BLOCKS)
        self.gradients = torch.zeros(BLOCKS, len(like), dtype=like.dtype, device=like.device)
        self.positions = torch.zeros(len(like), dtype=torch.float64, device=like.device)

    def add(self, position: Float[Tensor, " params"], gradient: Float[Tensor, " params"]) -> None:
        """The next step: Φ, and the gradient there of the mean loss and the prior, from a batch drawn since."""
        block = self.added * BLOCKS // self.steps
        self.products[block] += float(position @ gradient)
        self.gradients[block] += gradient
        self.positions += position
        self.counts[block] += 1
        self.added += 1

    def temperature(self, examples: int, level: float = 0.9) -> Estimate:
        """N⟨(Φ − c)·ĝ⟩/d in posterior units, with the error from blocks."""
        center = (self.positions / self.steps).to(self.gradients.dtype)
        virials = self.products - (self.gradients @ center).double().cpu().numpy()
        return mean(examples * virials / (len(center) * self.counts), level=level)
