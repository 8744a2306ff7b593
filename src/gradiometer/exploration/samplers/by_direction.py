"""The heat of SGD itself by direction: the matrix of a small group, and the hottest direction of
any group."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.exploration.samplers.heat import Heat

SMALL = 64
"""Largest number of parameters of a group that is held in every direction."""

REFRESH = 20
"""Steps between two eigendecompositions of the matrix, and of the first iteration for the hottest
direction."""


@dataclass
class HeatMatrix:
    """The running mean of the heat of SGD itself as a matrix O: its heat along a unit vector v is
    vᵀOv.

    Noise of covariance T − O gives every direction the temperature T, for the reason that holds for
    one direction: see `Heat`, whose weights it uses. A direction that is hotter than T gets no
    noise. Readings are kept without their scale, so that O is that of the present learning rate
    under a schedule.

    Args:
        memory: Number of readings in the mean.
    """

    memory: int
    readings: int = 0
    mean: Tensor | None = None
    axes: tuple[Tensor, Tensor] | None = None

    def add(self, reading: Float[Tensor, "params params"]) -> None:
        """Add a reading, divided by the scale that converts it into a temperature."""
        self.readings += 1
        if self.mean is None:
            self.mean = torch.zeros_like(reading)
        self.mean += (reading - self.mean) * max(4 / (self.readings + 3), 1 / self.memory)
        if self.readings % REFRESH == 0:
            self.axes = None

    def colored(
        self, normal: Float[Tensor, " params"], temperature: float, scale: float
    ) -> Float[Tensor, " params"]:
        """Standard normal numbers times the root of T − O, of which a negative eigenvalue counts as
        zero."""
        # The mean changes little within `REFRESH` steps, and its axes cost more than a step.
        if self.axes is None:
            assert self.mean is not None
            values, vectors = torch.linalg.eigh(self.mean)
            self.axes = values, vectors
        values, vectors = self.axes
        return vectors @ ((temperature - scale * values).clamp(min=0).sqrt() * (vectors.T @ normal))


@dataclass
class Hottest:
    """The direction of the largest mean square of the gradients, and the heat along it.

    `direction` is empty before the first step.

    The first steps search it by power iteration on the second moments of the gradients. It then
    stays as it is, and later steps measure the heat along it, so the readings are not selected for
    being large. They are a lower bound of the heat of the hottest direction.

    Args:
        search: Number of steps of the search.
        heat: The record of the heat along the direction.
    """

    search: int
    heat: Heat
    steps: int = 0
    direction: Tensor = field(default_factory=lambda: torch.zeros(0))
    next: Tensor | None = None
    refresh: int = REFRESH

    def __post_init__(self) -> None:
        # 100: with fewer steps the direction is that of the noise of a few batches.
        self.search = max(self.search, 100)

    @property
    def found(self) -> bool:
        """True if the search has ended."""
        return self.steps >= self.search

    def look(self, gradient: Float[Tensor, " params"]) -> None:
        """A step of the search."""
        if self.next is None:
            self.next = torch.zeros_like(gradient)
        if not self.direction.any():  # the first step, or all gradients were zero until now
            self.direction = _unit(gradient)
        self.steps += 1
        self.next += gradient * (gradient @ self.direction)
        if self.steps >= self.refresh or self.found:
            self.direction = _unit(self.next)
            # 1.5: each iteration ends after 1.5 times the steps of all before it: few gradients
            # have large chance directions.
            self.refresh = round(1.5 * self.steps)
            self.next = None if self.found else torch.zeros_like(gradient)

    def along(self, vector: Float[Tensor, " params"]) -> float:
        """The square of the component of a vector along the direction."""
        return float(vector @ self.direction) ** 2


def _unit(vector: Float[Tensor, " params"]) -> Float[Tensor, " params"]:
    found: Tensor = vector / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny)
    return found
