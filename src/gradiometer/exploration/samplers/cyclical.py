"""Cyclical sampling: every cycle explores at high learning rates and then samples at low ones."""

import logging
import math
from dataclasses import dataclass

from torch.optim.lr_scheduler import LRScheduler

from gradiometer.arguments import check_number
from gradiometer.convergence.schedules.cycles import SnapshotCycle
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.convergence.schedules.shapes import Constant
from gradiometer.errors import BadArgument
from gradiometer.exploration.samplers.sampler import Sampler

ENOUGH = 0.9
"""Share of the posterior variance below which a warning is logged."""

logger = logging.getLogger("gradiometer")


@dataclass(frozen=True)
class CyclicalSampling:
    """Cycles of a cosine learning rate: in each, SGD without noise, then noise at a temperature, then draws.

    In the first part of each cycle, a share `explore`, the temperature is 0, and the large rate moves the chain to
    another place. In the rest the temperature is `temperature`. SGD without noise has left the chain at a minimum, so
    for a share `settle` of the cycle it spreads again while the rate is still large; the iterates after that are draws.
    The sampler resets its record of the heat between the phases.

    With the defaults the draws have at least 0.9 of the posterior variance along every curvature h of the mean loss
    with η₀h × steps per cycle above 4.5, see `variance_share`. If all that is not exploring were draws, the last fifth
    of a cosine would draw 0.21 to 0.60 of it in cycles of 500 steps with η₀h of 0.05 to 0.2.

    Args:
        cycle: η over the run, stepped at every iteration.
        temperature: T of the sampling phases, in posterior units, positive.
        explore: Share of each cycle without noise, in [0, 1).
        settle: Share of each cycle with noise and without draws, in [0, 1 − explore).

    Source: Zhang et al. (2020), Cyclical Stochastic Gradient MCMC for Bayesian Deep Learning, algorithm 1 (their β is
        `explore`; they draw from all of the rest).

    Example:
        >>> from gradiometer.exploration.samplers.cyclical import CyclicalSampling
        >>> from gradiometer.convergence.schedules.cycles import SnapshotCycle
        >>> plan = CyclicalSampling(SnapshotCycle(0.1, steps=100, snapshots=4), explore=0.6, settle=0.2)
        >>> [step for step in range(50) if plan.samples(step)]
        [20, 21, 22, 23, 24, 45, 46, 47, 48, 49]
        >>> f"{plan.variance_share(1.0):.2f}, {CyclicalSampling(plan.cycle).variance_share(1.0):.2f}"
        '0.26, 0.86'
    """

    cycle: SnapshotCycle
    temperature: float = 1.0
    explore: float = 0.2
    settle: float = 0.4

    def __post_init__(self) -> None:
        if not isinstance(self.cycle, SnapshotCycle):
            raise BadArgument(f"`cycle` must be a SnapshotCycle, got {type(self.cycle).__name__}.")
        check_number("temperature", self.temperature, positive=True)
        if not 0 <= self.explore < 1:
            raise BadArgument(f"`explore` must lie in [0, 1), got {self.explore}.")
        if not 0 <= self.settle < 1 - self.explore:
            raise BadArgument(f"`settle` must lie in [0, 1 − explore) = [0, {1 - self.explore:g}), got {self.settle}.")
        if not self.exploring + self.settling < self.cycle.length:
            raise BadArgument(
                f"`explore` {self.explore} and `settle` {self.settle} leave no step to sample in a cycle of "
                f"{self.cycle.length} steps."
            )

    @property
    def exploring(self) -> int:
        """Number of steps of each cycle without noise."""
        return math.ceil(self.explore * self.cycle.length)

    @property
    def settling(self) -> int:
        """Number of steps of each cycle with noise and without draws."""
        return math.ceil(self.settle * self.cycle.length)

    @property
    def temperatures(self) -> Schedule:
        """T at every step: 0 in the exploring phase."""
        if not self.exploring:
            return Constant(self.temperature)
        return Constant(0.0).then(self.exploring, self.temperature).repeated(self.cycle.length)

    def samples(self, step: int) -> bool:
        """True if the iterate after this step is a draw."""
        return step % self.cycle.length >= self.exploring + self.settling

    def variance_share(self, curvature: float, momentum: float = 0.0) -> float:
        """Variance of the draws divided by the posterior's, along one direction of a quadratic loss.

        For small steps, in which the variance approaches its value as exp(−2hΣη/(1 − μ)), and after so many cycles
        that each ends as it began.

        Args:
            curvature: h of the mean loss along this direction, with the prior, positive.
            momentum: μ of the sampler.
        """
        check_number("curvature", curvature, positive=True)
        if not 0 <= momentum < 1:
            raise BadArgument(f"`momentum` must lie in [0, 1), got {momentum}.")
        slopes = [-2 * curvature * self.cycle(step) / (1 - momentum) for step in range(self.cycle.length)]

        def shares(start: float) -> list[float]:
            """After every step of a cycle."""
            found = [start]
            for step, slope in enumerate(slopes):
                found.append(found[-1] * math.exp(slope) - (math.expm1(slope) if step >= self.exploring else 0.0))
            return found[1:]

        stationary = shares(0.0)[-1] / -math.expm1(sum(slopes))  # a cycle that begins with this share ends with it
        drawn = shares(stationary)[self.exploring + self.settling :]
        return sum(drawn) / len(drawn)

    def schedulers(self, sampler: Sampler, curvature: float | None = None) -> tuple[LRScheduler, LRScheduler]:
        """Two torch schedulers, of the rate and of the temperature. Call `step` of both after every step.

        A parameter group with its own `lr` keeps the ratio to the sampler's `lr`. Logs a warning if the draws have
        less than 0.9 of the posterior variance along the flattest direction of a quadratic loss.

        Args:
            sampler: The sampler whose settings they change.
            curvature: The smallest curvature of the mean loss, with the prior. Default: that of the prior alone.
        """
        group = sampler.param_groups[0]
        flattest = group["weight_decay"] if curvature is None else curvature
        if curvature is not None or flattest > 0:
            share = self.variance_share(flattest, group["momentum"])
            if share < ENOUGH:
                logger.warning(
                    "Draws have %.2f of the posterior variance along curvature %.3g of the mean loss: use longer "
                    "cycles, a larger learning rate, or a smaller `explore`.",
                    share,
                    flattest,
                )
        return self.cycle.scheduler(sampler), self.temperatures.scheduler(sampler, "temperature")
