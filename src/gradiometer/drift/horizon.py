"""Gradient drift over a horizon of many steps, with the noise removed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import Batch, batch_size, take
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.gradient_graph import flat
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.uncertainty.means import mean, ratio_of_means

UNIT = "(loss / parameter)²"


@dataclass(frozen=True)
class HorizonDrift:
    """How far the gradient has moved since it was anchored.

    Args:
        relative: ‖g(Φ′) − g(Φ)‖² / ‖g(Φ)‖², Fieller's interval over pairs of probes.
        squared: ‖g(Φ′) − g(Φ)‖².
    """

    relative: Estimate
    squared: Estimate


class Anchor:
    """The gradient where training stands now, so that one can ask later how far it has moved.

    The probe is dealt out into 2k parts. Each is differentiated here and again later, on the same examples and draws;
    ⟨ĝ_i(Φ′) − ĝ_i(Φ), ĝ_j(Φ′) − ĝ_j(Φ)⟩ of two different parts is unbiased for the squared drift, whatever the
    noise, as long as the probe's examples did not make the steps between. Examples training has seen a few times
    among many thousands bias it little; the batches of the horizon itself do, by half or more.

    Costs one gradient of the probe now and one at every question; keeps 2k gradients.

    Args:
        objective: The model and its loss.
        probe: The examples, at least 2k.
        pairs: k, at least 4: what the interval rests on.
        seed: Of the dealing, and of what the loss draws.
    """

    def __init__(self, objective: Objective, probe: Batch, *, pairs: int = 8, seed: int = 0) -> None:
        if not pairs >= 4:
            raise BadArgument(f"`pairs` must be at least 4, got {pairs}: fewer hardly show a spread.")
        size = batch_size(probe)
        if not size >= 2 * pairs:
            raise BadArgument(f"`probe` holds {size} examples, at least {2 * pairs} are needed for {pairs} pairs.")
        self.objective, self.pairs, self.seed = objective, pairs, seed
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed), device="cpu")
        self._parts = [take(probe, part) for part in order.tensor_split(2 * pairs)]
        self._before = self._gradients()

    def drift(self, level: float = 0.9) -> HorizonDrift:
        """How far the gradient has moved from the anchor to where the model is now."""
        moved, norm_squared = self.moments()
        settings: dict[str, Any] = {"level": level, "batches": self.pairs}
        return HorizonDrift(
            relative=ratio_of_means(moved, norm_squared, **settings), squared=mean(moved, unit=UNIT, **settings)
        )

    def moments(self) -> tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
        """Squared drift and ‖g(Φ)‖² of every pair, each unbiased."""
        change = self._gradients() - self._before
        return _across(change), _across(self._before)

    def _gradients(self) -> Float[Tensor, "parts params"]:
        return torch.stack(
            [flat(self.objective.gradient(part, seed=self.seed + place)) for place, part in enumerate(self._parts)]
        )


def _across(vectors: Float[Tensor, "parts params"]) -> Float[np.ndarray, " pairs"]:
    """The product of the two vectors of every pair."""
    products: np.ndarray = (vectors[0::2].double() * vectors[1::2].double()).sum(dim=1).cpu().numpy()
    return products
