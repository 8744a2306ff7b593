"""Cyclical sampling: hot phases that explore, cold phases that sample, over and over."""

import math
from dataclasses import dataclass

from torch.optim.lr_scheduler import LRScheduler

from gradiometer.convergence.schedules.cycles import SnapshotCycle
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.convergence.schedules.shapes import Constant
from gradiometer.errors import BadArgument
from gradiometer.exploration.samplers.sampler import Sampler


@dataclass(frozen=True)
class CyclicalSampling:
    """In every cycle of a cosine learning rate, first SGD without noise, then draws at the temperature asked for.

    The rate is that of the snapshot cycle, stepped every iteration. During the share `explore` of each cycle the
    temperature is 0: a large rate moves the chain to another place. In the rest it is `temperature`, and the iterates
    are draws. The sampler forgets the heat of one phase before the next.

    Args:
        cycle: η over the run.
        temperature: T of the sampling phases, in posterior units, positive.
        explore: Share of each cycle spent exploring, in [0, 1).

    Source: Zhang et al. (2020), Cyclical Stochastic Gradient MCMC for Bayesian Deep Learning, algorithm 1 (their β).

    Example:
        >>> plan = CyclicalSampling(SnapshotCycle(0.1, steps=100, snapshots=4), explore=0.8)
        >>> [step for step in range(50) if plan.samples(step)]
        [20, 21, 22, 23, 24, 45, 46, 47, 48, 49]
    """

    cycle: SnapshotCycle
    temperature: float = 1.0
    explore: float = 0.8

    def __post_init__(self) -> None:
        if not isinstance(self.cycle, SnapshotCycle):
            raise BadArgument(f"`cycle` must be a SnapshotCycle, got {type(self.cycle).__name__}.")
        if not 0 < self.temperature < math.inf:
            raise BadArgument(f"`temperature` must be positive and finite, got {self.temperature}.")
        if not 0 <= self.explore < 1:
            raise BadArgument(f"`explore` must lie in [0, 1), got {self.explore}.")
        if not self.exploring < self.cycle.length:
            raise BadArgument(
                f"`explore` {self.explore} leaves none of the {self.cycle.length} steps of a cycle to sample in."
            )

    @property
    def exploring(self) -> int:
        """Steps of each cycle spent exploring."""
        return math.ceil(self.explore * self.cycle.length)

    @property
    def temperatures(self) -> Schedule:
        """T at every step: 0 while exploring."""
        if not self.exploring:
            return Constant(self.temperature)
        return Constant(0.0).then(self.exploring, self.temperature).repeated(self.cycle.length)

    def samples(self, step: int) -> bool:
        """Whether the iterate after this step is a draw."""
        return step % self.cycle.length >= self.exploring

    def schedulers(self, sampler: Sampler) -> tuple[LRScheduler, LRScheduler]:
        """Torch's schedulers of the rate and of the temperature: call `step` of both after every step.

        Args:
            sampler: A group that was given an `lr` of its own keeps its ratio to the sampler's.
        """
        return self.cycle.scheduler(sampler), self.temperatures.scheduler(sampler, "temperature")
