"""The order of the training examples: a pure function of the seed and the step."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.measurement.reading import Draw


@dataclass
class Order:
    """The examples in the batch of each step. It depends on the step only, so there is no state to save.

    Args:
        draw: RESHUFFLED: every epoch is a new permutation, and its last batch may be smaller.
            REPLACEMENT: independent draws, and all batches have the same size.
        examples: N, the size of the training set.
        batch_size: B.
        seed: The same seed gives the same order on any machine.

    Example:
        >>> from gradiometer.measurement import Order
        >>> from gradiometer import Draw
        >>> order = Order(Draw.RESHUFFLED, examples=5, batch_size=2)
        >>> [order.batch(step).tolist() for step in range(order.steps_per_epoch)]
        [[1, 3], [0, 4], [2]]
    """

    draw: Draw
    examples: int
    batch_size: int
    seed: int = 0
    _epoch: tuple[int, Int[Tensor, " drawn"]] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.examples:
            raise BadArgument(
                f"`batch_size` must lie between 1 and the {self.examples:,} training examples, got {self.batch_size:,}."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return -(-self.examples // self.batch_size)

    def batch(self, step: int) -> Int[Tensor, " chosen"]:
        """Positions of the examples in the batch of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self.epoch(epoch)
        return self._epoch[1][place * self.batch_size : (place + 1) * self.batch_size]

    def epoch(self, number: int) -> Int[Tensor, " drawn"]:
        """Positions of all examples of an epoch, batch after batch."""
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0]))
        if self.draw is Draw.RESHUFFLED:
            return torch.randperm(self.examples, generator=generator)
        drawn = self.steps_per_epoch * self.batch_size
        return torch.randint(self.examples, (drawn,), generator=generator)
