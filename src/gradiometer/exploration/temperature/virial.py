"""The configurational temperature of a run, ⟨(Φ − c)·∇U⟩/d about the run's mean position c, with its error."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import Diverged
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean

BLOCKS = 48
"""Blocks of a run. The spread of their temperatures gives the error."""


class Virial:
    """Sums for ⟨(Φ − c)·∇U⟩/d of every block of a run. c is the mean Φ of the run, known only at its end.

    As c is the mean of the run and not the minimum, the temperature is biased low by about τ/steps of T, with the
    integrated autocorrelation time τ = 1 + 2Σ_k ρ_k.

    Args:
        like: Flat parameters, for their size, type and device.
        steps: The number of steps that will be added, at least one per block.
    """

    def __init__(self, like: Float[Tensor, " params"], steps: int) -> None:
        self.steps, self.added = steps, 0
        self.products, self.counts = np.zeros(BLOCKS), np.zeros(BLOCKS)
        self.gradients = torch.zeros(BLOCKS, len(like), dtype=like.dtype, device=like.device)
        self.positions = torch.zeros(len(like), dtype=torch.float64, device=like.device)

    def add(self, position: Float[Tensor, " params"], gradient: Float[Tensor, " params"]) -> None:
        """Add a step: Φ, and at Φ the gradient of the mean loss and the prior, from an independent batch."""
        block, product = self.added * BLOCKS // self.steps, float(position @ gradient)
        if not math.isfinite(product):
            raise Diverged(f"the parameters or gradients are not finite at step {self.added:,}: use a smaller rate.")
        self.products[block] += product
        self.gradients[block] += gradient
        self.positions += position
        self.counts[block] += 1
        self.added += 1

    def temperature(self, examples: int, level: float = 0.9) -> Estimate:
        """N⟨(Φ − c)·ĝ⟩/d, in posterior units, with its error from the blocks."""
        center = (self.positions / self.steps).to(self.gradients.dtype)
        virials = self.products - (self.gradients @ center).double().cpu().numpy()
        return mean(examples * virials / (len(center) * self.counts), level=level)
