"""The heat of SGD itself that a sampler records: its mean, by direction, and of a whole group."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import Diverged
from gradiometer.measurement.estimate import LEVEL, Estimate
from gradiometer.measurement.uncertainty.means import mean

# Blocks of the memory. Their means give the error of the mean.
BLOCKS = 10


@dataclass
class Heat:
    """A running mean of heat readings, in posterior units, with block means for its error.

    The weights of the mean grow as the cube of the step, so that a hot start is forgotten, until it
    covers `memory`
    readings. It is linear in the readings: if a sampler injects T minus this mean, the temperature
    is T in expectation for any memory, as long as the difference stays positive.

    Args:
        memory: Number of readings in the mean.
    """

    memory: int
    mean: float = 0.0
    readings: int = 0
    scale: float = 1.0
    blocks: list[float] = field(default_factory=list)
    partial: float = 0.0
    pending: int = 0

    def add(self, reading: float, scale: float = 1.0) -> bool:
        """Add a reading. `scale` converts it into a temperature, and may differ between steps.

        Returns:
            True if this completes a block.

        Raises:
            Diverged: The reading is not finite.
        """
        if not math.isfinite(reading):
            raise Diverged(
                f"the sampler's gradients are not finite at its step {self.readings:,}: try a "
                "smaller `lr`."
            )
        self.readings += 1
        self.scale = scale
        self.mean += (reading - self.mean) * max(4 / (self.readings + 3), 1 / self.memory)
        self.partial += reading * scale
        self.pending += 1
        if self.pending < max(self.memory // BLOCKS, 1):
            return False
        self.blocks = [*self.blocks[1 - BLOCKS :], self.partial / self.pending]
        self.partial = 0.0
        self.pending = 0
        return True

    @property
    def temperature(self) -> float:
        """The running mean as a temperature."""
        return self.mean * self.scale

    def estimate(self, level: float = LEVEL) -> Estimate:
        """The mean over the recorded blocks, with Student's interval."""
        return mean(np.array(self.blocks), level=level, batches=max(len(self.blocks), 4))

    @property
    def settled(self) -> bool:
        """True if all blocks are full and the newer half is not significantly below the
        older half."""
        if len(self.blocks) < BLOCKS:
            return False
        older, newer = np.array(self.blocks[: BLOCKS // 2]), np.array(self.blocks[BLOCKS // 2 :])
        return not mean(older - newer, level=0.9, batches=BLOCKS // 2).low > 0

    def above(self, temperature: float) -> bool:
        """True if the heat is significantly above a temperature, and not falling."""
        # The lower end behind an error is wrong in one of a thousand tests.
        return self.settled and self.estimate(0.998).low > temperature


# Steps between two eigendecompositions of the matrix, and of the first iteration for the hottest
# direction.
REFRESH = 20


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

    def colored_noise(
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


# By how much the hottest direction may be above the temperature, as a share of it, if the mean is
# held.
TOLERANCE = 0.05

# Largest heat of SGD itself along the hottest direction, as a share of T, if every direction is
# held. It is below 1 because 1,000 steps know this heat only to about 5 %.
ROOM = 0.9


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
            # Fewer readings, or a smaller excess, do not show that the heat is not even.
            known = self.hottest.heat.readings >= 50 and hottest > 1.5 * mean
            limit = TOLERANCE
            excess = max(hottest - mean, cold) if known else 0.0
        return limit * temperature / excess if excess > 0 else math.inf

    def clear(self) -> None:
        """Reset the record of all but the halves."""
        self.mean = Heat(self.mean.memory)
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
