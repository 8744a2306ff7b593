"""The configurational temperature of a run, ⟨(Φ − c)·∇U⟩/d about the run's mean position c, with
its error."""

from collections.abc import Sequence

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
    """Sums for ⟨(Φ − c)·∇U⟩/d of every block of a run. c is the mean Φ of the run, known only at
    its end.

    As c is the mean of the run and not the minimum, the temperature is biased low by about τ/steps
    of T, with the integrated autocorrelation time τ = 1 + 2Σ_k ρ_k.

    Args:
        like: Flat parameters, for their size, type and device.
        steps: The number of steps that will be added, at least one per block.
        sizes: Numbers of parameters of the parameter tensors, in order; default: one tensor.
    """

    def __init__(
        self, like: Float[Tensor, " params"], steps: int, sizes: Sequence[int] | None = None
    ) -> None:
        self.steps = steps
        self.added = 0
        self.sizes = [len(like)] if sizes is None else list(sizes)
        self.products = np.zeros((BLOCKS, len(self.sizes)))
        self.counts = np.zeros(BLOCKS)
        self.gradients = torch.zeros(BLOCKS, len(like), dtype=like.dtype, device=like.device)
        self.positions = torch.zeros(len(like), dtype=torch.float64, device=like.device)

    def add(self, position: Float[Tensor, " params"], gradient: Float[Tensor, " params"]) -> None:
        """Add a step: Φ, and at Φ the gradient of the mean loss and the prior, from an independent
        batch."""
        block = self.added * BLOCKS // self.steps
        pieces = zip(position.split(self.sizes), gradient.split(self.sizes), strict=True)
        products = np.array([float(here @ there) for here, there in pieces])
        if not np.isfinite(products).all():
            raise Diverged(
                f"the parameters or gradients are not finite at step {self.added:,}: use a smaller "
                "rate."
            )
        self.products[block] += products
        self.gradients[block] += gradient
        self.positions += position
        self.counts[block] += 1
        self.added += 1

    def temperature(self, examples: int, level: float = 0.9) -> Estimate:
        """N⟨(Φ − c)·ĝ⟩/d, in posterior units, with its error from the blocks."""
        return mean(
            examples * self._virials().sum(axis=1) / (sum(self.sizes) * self.counts), level=level
        )

    def by_tensor(self, examples: int, level: float = 0.9) -> list[Estimate]:
        """The same for each parameter tensor. All intervals cover together at this level
        (Bonferroni)."""
        virials = examples * self._virials() / (np.array(self.sizes) * self.counts[:, None])
        return [mean(each, level=1 - (1 - level) / len(self.sizes)) for each in virials.T]

    def _virials(self) -> Float[np.ndarray, "blocks tensors"]:
        """Σ (Φ − c)·ĝ over the steps of each block."""
        center = (self.positions / self.steps).to(self.gradients.dtype)
        pieces = zip(self.gradients.split(self.sizes, dim=1), center.split(self.sizes), strict=True)
        shifts = torch.stack(
            [gradients @ mean_position for gradients, mean_position in pieces], dim=1
        )
        virials: np.ndarray = self.products - shifts.double().cpu().numpy()
        return virials
