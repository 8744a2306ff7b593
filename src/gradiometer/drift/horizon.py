"""The drift of the gradient over many steps, with the noise removed."""

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
    """The change of the gradient since the anchor was set.

    Args:
        relative: ‖g(Φ′) − g(Φ)‖² / ‖g(Φ)‖², with Fieller's interval over pairs of parts.
        squared: ‖g(Φ′) − g(Φ)‖².
    """

    relative: Estimate
    squared: Estimate


class Anchor:
    """The gradient at the present parameters, to measure later how far it has moved.

    The probe is divided into 2k random parts. Each is differentiated now and again later, on the same examples and with
    the same random numbers. For two different parts ⟨ĝ_i(Φ′) − ĝ_i(Φ), ĝ_j(Φ′) − ĝ_j(Φ)⟩ is unbiased for the squared
    drift, for any noise, as long as the probe's examples were not used in the steps between. Examples that training has
    seen a few times among many thousands bias it little; batches of the steps between bias it by half or more.

    Costs one gradient of the probe now and one per call of `drift`; keeps 2k gradients.

    Args:
        objective: The model and its loss.
        probe: The examples, at least 2k.
        pairs: k, at least 4. The interval rests on their spread.
        seed: Seed for the division into parts and for random numbers in the loss.

    Example:
        >>> from gradiometer import Objective, supervised
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> objective = Objective(model, supervised(torch.nn.MSELoss()))
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> anchor = Anchor(objective, (torch.ones(16, 1), torch.zeros(16, 1)))  # the loss is w², its gradient 2 w
        >>> _ = torch.nn.init.constant_(model.weight, 0.9)
        >>> print(anchor.drift().relative)
        0.0100 [0.0100, 0.0100]
    """

    def __init__(self, objective: Objective, probe: Batch, *, pairs: int = 8, seed: int = 0) -> None:
        if not pairs >= 4:
            raise BadArgument(f"`pairs` must be at least 4, got {pairs}: the interval needs their spread.")
        size = batch_size(probe)
        if not size >= 2 * pairs:
            raise BadArgument(f"`probe` must have at least {2 * pairs} examples for {pairs} pairs, got {size}.")
        self.objective, self.pairs, self.seed = objective, pairs, seed
        order = torch.randperm(size, generator=torch.Generator().manual_seed(seed), device="cpu")
        self._parts = [take(probe, part) for part in order.tensor_split(2 * pairs)]
        self._before = self._gradients()

    def drift(self, level: float = 0.9) -> HorizonDrift:
        """The change of the gradient from the anchor to the present parameters."""
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
    """The inner product of the two vectors of every pair."""
    products: np.ndarray = (vectors[0::2].double() * vectors[1::2].double()).sum(dim=1).cpu().numpy()
    return products
