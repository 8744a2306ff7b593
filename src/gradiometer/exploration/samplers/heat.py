"""The heat SGD makes by itself, as a sampler records it: what is left to inject, and when there is too much already."""

import math
from dataclasses import dataclass, field

import numpy as np

from gradiometer.errors import Diverged
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean

BLOCKS = 10
"""Parts of the memory whose means give the error of the whole."""

SURE = 0.998
"""Level of the interval on which a refusal rests: its lower end is wrong once in a thousand looks."""


@dataclass
class Heat:
    """A running mean of heat readings, in posterior units, and the block means that say how sure it is.

    The mean has weights that grow as the cube of the step, so that a hot start is forgotten, until it spans `memory`
    readings. It is linear in the readings: where a sampler injects what it leaves of the temperature asked for,
    the temperature holds in expectation for any memory, as long as nothing is cut off at zero.

    Args:
        memory: Readings the mean spans.
    """

    memory: int
    mean: float = 0.0
    readings: int = 0
    scale: float = 1.0
    blocks: list[float] = field(default_factory=list)
    partial: float = 0.0
    pending: int = 0

    def add(self, reading: float, scale: float = 1.0) -> bool:
        """Take in a reading; `scale` turns it into a temperature, and may change from step to step.

        Returns:
            Whether a block is complete, so that there is something new to judge.

        Raises:
            Diverged: The mean is not finite any more. Looked at once a block.
        """
        self.readings += 1
        self.scale = scale
        self.mean += (reading - self.mean) * max(4 / (self.readings + 3), 1 / self.memory)
        self.partial += reading * scale
        self.pending += 1
        if self.pending < max(self.memory // BLOCKS, 1):
            return False
        if not math.isfinite(self.partial):
            raise Diverged(
                f"the sampler's gradients have not been finite since about {self.pending:,} steps ago: "
                "try a smaller `lr`."
            )
        self.blocks = [*self.blocks[1 - BLOCKS :], self.partial / self.pending]
        self.partial, self.pending = 0.0, 0
        return True

    @property
    def temperature(self) -> float:
        """The running mean as a temperature."""
        return self.mean * self.scale

    def estimate(self, level: float = 0.9) -> Estimate:
        """The mean over the blocks remembered, with Student's interval."""
        return mean(np.array(self.blocks), level=level, batches=max(len(self.blocks), 4))

    @property
    def settled(self) -> bool:
        """Whether there are all blocks, and the newer half of them is not seen to lie below the older."""
        if len(self.blocks) < BLOCKS:
            return False
        older, newer = np.array(self.blocks[: BLOCKS // 2]), np.array(self.blocks[BLOCKS // 2 :])
        return not mean(older - newer, level=0.9, batches=BLOCKS // 2).low > 0

    def above(self, temperature: float) -> bool:
        """Whether it is surely above a temperature, and not on its way down."""
        return self.settled and self.estimate(SURE).low > temperature

    def clear(self) -> None:
        """Forget all."""
        self.mean, self.readings, self.partial, self.pending = 0.0, 0, 0.0, 0
        self.blocks = []
