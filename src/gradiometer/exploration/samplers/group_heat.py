"""All that a sampler records about the heat of one parameter group."""

from dataclasses import asdict, dataclass
from typing import Any

from gradiometer.exploration.samplers.by_direction import HeatMatrix, Hottest
from gradiometer.exploration.samplers.heat import Heat
from gradiometer.measurement.estimate import Estimate

HALVES = 50
"""Pairs of half-batch gradients over which the mini-batch heat is averaged."""


@dataclass(frozen=True)
class Balance:
    """The heat of one parameter group, in posterior units: asked = injected + own, at stationarity.

    Args:
        asked: The temperature asked for.
        injected: The temperature of the noise that is injected now.
        own: The heat of SGD itself, from mini-batch noise and finite steps together.
        minibatch: The heat of mini-batch noise alone. Unknown without calls of `halves`.
        hottest: The heat of SGD itself along its hottest direction, of SGNHT the temperature there. Known after
            `burn_in` steps.
    """

    asked: float
    injected: float
    own: Estimate
    minibatch: Estimate
    hottest: Estimate


class GroupHeat:
    """The heat of one parameter group: its mean over directions, the mini-batch's share, by direction, the hottest.

    Args:
        burn_in: Steps that search the hottest direction.
        memory: Number of readings in a mean.
    """

    def __init__(self, burn_in: int, memory: int) -> None:
        self.mean, self.halves = Heat(memory), Heat(HALVES)
        self.matrix, self.hottest = HeatMatrix(memory), Hottest(burn_in, memory)

    def balance(self, asked: float, injected: float) -> Balance:
        """The heat now, beside the temperature asked for and the one injected."""
        return Balance(asked, injected, self.mean.estimate(), self.halves.estimate(), self.hottest.heat.estimate())

    def clear(self) -> None:
        """Reset the record of all but the halves."""
        self.mean.clear()
        self.matrix = HeatMatrix(self.mean.memory)
        self.hottest = Hottest(self.hottest.search, self.hottest.heat.memory)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors."""
        return {
            "mean": asdict(self.mean),
            "halves": asdict(self.halves),
            "matrix": self.matrix.state_dict(),
            "hottest": self.hottest.state_dict(),
            "along": asdict(self.hottest.heat),
        }

    @classmethod
    def of(cls, state: dict[str, Any]) -> "GroupHeat":
        """From a `state_dict`."""
        found = cls(state["hottest"]["search"], state["mean"]["memory"])
        found.mean, found.halves = Heat(**state["mean"]), Heat(**state["halves"])
        found.matrix = HeatMatrix.of(state["matrix"])
        found.hottest = Hottest.of(state["hottest"], Heat(**state["along"]))
        return found
