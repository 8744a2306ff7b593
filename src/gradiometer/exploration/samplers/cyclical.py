"""Cyclical sampling: every cycle explores at high learning rates and then samples at low ones."""

import math
from dataclasses import dataclass

from torch.optim.lr_scheduler import LRScheduler

from gradiometer.arguments import check_number
from gradiometer.convergence.schedules.cycles import SnapshotCycle
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.convergence.schedules.shapes import Constant
from gradiometer.errors import BadArgument
from gradiometer.exploration.samplers.sampler import Sampler


@dataclass(frozen=True)
class CyclicalSampling:
    """Cycles of a cosine learning rate: in each, SGD without noise, then draws at a temperature.

    In the first part of each cycle, a share `explore`, the temperature is 0, and the large rate moves the chain to
    another place. In the rest the temperature is `temperature`, and the iterates are draws. The sampler resets its
    record of the heat between the phases.

    Args:
        cycle: η over the run, stepped at every iteration.
        temperature: T of the sampling phases, in posterior units, positive.
        explore: Share of each cycle without noise, in [0, 1).

    Source: Zhang et al. (2020), Cyclical Stochastic Gradient MCMC for Bayesian Deep Learning, algorithm 1 (their β).

    Example:
        >>> from gradiometer import CyclicalSampling
        >>> from gradiometer.convergence.schedules.cycles import SnapshotCycle
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
        check_number("temperature", self.temperature, positive=True)
        if not 0 <= self.explore < 1:
            raise BadArgument(f"`explore` must lie in [0, 1), got {self.explore}.")
        if not self.exploring < self.cycle.length:
            length = self.cycle.length
            raise BadArgument(f"`explore` {self.explore} leaves no step to sample in a cycle of {length} steps.")

    @property
    def exploring(self) -> int:
        """Number of steps of each cycle without noise."""
        return math.ceil(self.explore * self.cycle.length)

    @property
    def temperatures(self) -> Schedule:
        """T at every step: 0 in the exploring phase."""
        if not self.exploring:
            return Constant(self.temperature)
        return Constant(0.0).then(self.exploring, self.temperature).repeated(self.cycle.length)

    def samples(self, step: int) -> bool:
        """True if the iterate after this step is a draw."""
        return step % self.cycle.length >= self.exploring

    def schedulers(self, sampler: Sampler) -> tuple[LRScheduler, LRScheduler]:
        """Two torch schedulers, of the rate and of the temperature. Call `step` of both after every step.

        A parameter group with its own `lr` keeps the ratio to the sampler's `lr`.
        """
        return self.cycle.scheduler(sampler), self.temperatures.scheduler(sampler, "temperature")
