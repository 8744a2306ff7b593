"""A sampler's record of the heat of SGD itself: its running mean, and a test if it exceeds a
temperature."""

import math
from dataclasses import dataclass, field

import numpy as np

from gradiometer.errors import Diverged
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean

BLOCKS = 10
"""Blocks of the memory. Their means give the error of the mean."""


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

    def estimate(self, level: float = 0.9) -> Estimate:
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
        # 0.998: level of the interval behind an error: its lower end is wrong in one of a thousand
        # tests.
        return self.settled and self.estimate(0.998).low > temperature

    def clear(self) -> None:
        """Reset the record."""
        self.mean = 0.0
        self.readings = 0
        self.partial = 0.0
        self.pending = 0
        self.blocks = []
