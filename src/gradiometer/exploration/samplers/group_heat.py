"""All that a sampler records about the heat of one parameter group."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch

from gradiometer.exploration.samplers.by_direction import HeatMatrix, Hottest
from gradiometer.exploration.samplers.heat import Heat
from gradiometer.measurement.estimate import Estimate

TOLERANCE = 0.05
"""By how much the hottest direction may be above the temperature, as a share of it, if the mean is
held."""

ROOM = 0.9
"""Largest heat of SGD itself along the hottest direction, as a share of T, if every direction is
held. It is below 1 because 1,000 steps know this heat only to about 5 %."""

FEW, UNEVEN = 50, 1.5
"""From so many readings on, a direction that is so many times as hot as the mean shows that the
heat is not even."""


@dataclass(frozen=True)
class Balance:
    """The heat of one parameter group, in posterior units: asked = injected + own, at stationarity.

    Args:
        asked: The temperature asked for.
        injected: The temperature of the noise that is injected now.
        own: The heat of SGD itself, from mini-batch noise and finite steps together.
        minibatch: The heat of mini-batch noise alone. Unknown without calls of `halves`.
        hottest: The heat of SGD itself along its hottest direction, of SGNHT the temperature there.
            Known after `burn_in` steps.
    """

    asked: float
    injected: float
    own: Estimate
    minibatch: Estimate
    hottest: Estimate


class GroupHeat:
    """The heat of one parameter group: its mean over directions, the mini-batch's share, by
    direction, the hottest.

    Args:
        burn_in: Steps that search the hottest direction.
        memory: Number of readings in a mean.
    """

    def __init__(self, burn_in: int, memory: int) -> None:
        # 50: pairs of half-batch gradients over which the mini-batch heat is averaged.
        self.mean = Heat(memory)
        self.halves = Heat(50)
        self.matrix = HeatMatrix(memory)
        self.hottest = Hottest(burn_in, Heat(memory))

    def balance(self, asked: float, injected: float) -> Balance:
        """The heat now, beside the temperature asked for and the one injected."""
        return Balance(
            asked,
            injected,
            self.mean.estimate(),
            self.halves.estimate(),
            self.hottest.heat.estimate(),
        )

    def room(self, temperature: float, cold: float) -> float:
        """By what the learning rate must be multiplied for the hottest direction, as far as it is
        known by now.

        In a small group this is the largest eigenvalue of the matrix, which is rather too large
        than too small. In a large one nothing is known if the heat along the direction is not
        clearly above the mean: it may be even.

        Args:
            temperature: T.
            cold: By how much directions without heat of their own are below T, if the mean is held.
        """
        if self.matrix.mean is not None:
            limit = ROOM
            excess = self.mean.scale * float(torch.linalg.eigvalsh(self.matrix.mean)[-1])
        else:
            hottest, mean = self.hottest.heat.temperature, self.mean.temperature
            known = self.hottest.heat.readings >= FEW and hottest > UNEVEN * mean
            limit = TOLERANCE
            excess = max(hottest - mean, cold) if known else 0.0
        return limit * temperature / excess if excess > 0 else math.inf

    def clear(self) -> None:
        """Reset the record of all but the halves."""
        self.mean.clear()
        self.matrix = HeatMatrix(self.mean.memory)
        self.hottest = Hottest(self.hottest.search, Heat(self.mean.memory))

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return {
            "mean": asdict(self.mean),
            "halves": asdict(self.halves),
            "matrix": vars(self.matrix).copy(),
            "hottest": {
                name: value for name, value in vars(self.hottest).items() if name != "heat"
            },
            "along": asdict(self.hottest.heat),
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> "GroupHeat":
        """From a `state_dict`."""
        found = cls(state["hottest"]["search"], state["mean"]["memory"])
        found.mean = Heat(**state["mean"])
        found.halves = Heat(**state["halves"])
        found.matrix = HeatMatrix(**state["matrix"])
        found.hottest = Hottest(**state["hottest"], heat=Heat(**state["along"]))
        return found
