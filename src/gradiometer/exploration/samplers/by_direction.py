"""The heat of SGD itself by direction: the matrix of a small group, and the hottest direction of
any group."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.exploration.samplers.heat import Heat

SMALL = 64
"""Largest number of parameters of a group that is held in every direction."""

REFRESH = 20
"""Steps between two eigendecompositions of the matrix, and of the first iteration for the hottest
direction."""


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

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.readings = 0
        self.mean: Tensor | None = None
        self._axes: tuple[Tensor, Tensor] | None = None

    def add(self, reading: Float[Tensor, "params params"]) -> None:
        """Add a reading, divided by the scale that converts it into a temperature."""
        self.readings += 1
        if self.mean is None:
            self.mean = torch.zeros_like(reading)
        self.mean += (reading - self.mean) * max(4 / (self.readings + 3), 1 / self.memory)
        if self.readings % REFRESH == 0:
            self._axes = None

    def colored(
        self, normal: Float[Tensor, " params"], temperature: float, scale: float
    ) -> Float[Tensor, " params"]:
        """Standard normal numbers times the root of T − O, of which a negative eigenvalue counts as
        zero."""
        if self._axes is None:
            assert self.mean is not None
            values, vectors = torch.linalg.eigh(self.mean)
            self._axes = values, vectors
        values, vectors = self._axes
        return vectors @ ((temperature - scale * values).clamp(min=0).sqrt() * (vectors.T @ normal))

    def state_dict(self) -> dict[str, Any]:
        """Readings, mean and its eigendecomposition."""
        return {
            "memory": self.memory,
            "readings": self.readings,
            "mean": self.mean,
            "axes": self._axes,
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> "HeatMatrix":
        """From a `state_dict`."""
        found = cls(state["memory"])
        found.readings = state["readings"]
        found.mean = state["mean"]
        found._axes = state["axes"]
        return found


class Hottest:
    """The direction of the largest mean square of the gradients, and the heat along it.

    `direction` is empty before the first step.

    The first steps search it by power iteration on the second moments of the gradients. It then
    stays as it is, and later steps measure the heat along it, so the readings are not selected for
    being large. They are a lower bound of the heat of the hottest direction.

    Args:
        search: Number of steps of the search.
        memory: Number of readings in the mean.
    """

    def __init__(self, search: int, memory: int) -> None:
        # 100: least number of steps that search the hottest direction.
        self.search = max(search, 100)
        self.heat = Heat(memory)
        self.steps = 0
        self.direction = torch.zeros(0)
        self._next: Tensor | None = None
        self._refresh = REFRESH

    @property
    def found(self) -> bool:
        """True if the search has ended."""
        return self.steps >= self.search

    def look(self, gradient: Float[Tensor, " params"]) -> None:
        """A step of the search."""
        if self._next is None:
            self._next = torch.zeros_like(gradient)
        if not self.direction.any():  # the first step, or all gradients were zero until now
            self.direction = _unit(gradient)
        self.steps += 1
        self._next += gradient * (gradient @ self.direction)
        if self.steps >= self._refresh or self.found:
            self.direction = _unit(self._next)
            # 1.5: each iteration ends after 1.5 times the steps of all before it: few gradients
            # have large chance directions.
            self._refresh = round(1.5 * self.steps)
            self._next = None if self.found else torch.zeros_like(gradient)

    def along(self, vector: Float[Tensor, " params"]) -> float:
        """The square of the component of a vector along the direction."""
        return float(vector @ self.direction) ** 2

    def state_dict(self) -> dict[str, Any]:
        """The search and the direction."""
        return {
            "search": self.search,
            "steps": self.steps,
            "direction": self.direction,
            "next": self._next,
            "refresh": self._refresh,
        }

    @classmethod
    def of(cls, state: dict[str, Any], heat: Heat) -> "Hottest":
        """From a `state_dict` and the recorded heat."""
        found = cls(state["search"], heat.memory)
        found.steps = state["steps"]
        found.heat = heat
        found.direction = state["direction"]
        found._next = state["next"]
        found._refresh = state["refresh"]
        return found


def _unit(vector: Float[Tensor, " params"]) -> Float[Tensor, " params"]:
    found: Tensor = vector / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny)
    return found
