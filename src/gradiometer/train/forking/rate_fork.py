"""Forks that may change the rate of a training: at most at 10, 30 and 60 % of its steps, within a budget."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gradiometer.errors import BadArgument
from gradiometer.loop.changes.rates import Rate
from gradiometer.loop.comparison.effects import Effect
from gradiometer.loop.recorded.words import outcome
from gradiometer.run.configuration import Configuration
from gradiometer.run.folder import RunFolder
from gradiometer.run.ranks import Ranks
from gradiometer.train.forking.cooling_fork import READOUT, fork_here, name_of
from gradiometer.train.guard import scale_rates
from gradiometer.train.training import Training

MARKS = (0.1, 0.3, 0.6)
"""Shares of the steps at which the rate may change."""

FACTORS = (0.5, 2.0)
"""Factors of the rate that are tried."""

HORIZON = 0.2
"""Length of a branch, as a share of what is left of the training. Shorter ones lean to small rates."""

REPLICATES = 2
"""Data orders of each branch."""


@dataclass(frozen=True)
class RateDecision:
    """What a fork has decided.

    Args:
        factor: The rate is multiplied by this from here on.
        fork: Name of the fork; None if the budget does not pay for one.
        outcome: What the fork has shown, in words.
        spent: What all forks have cost so far, in units of the training.
    """

    EVENT: ClassVar[str] = "rate fork"

    factor: float
    fork: str | None
    outcome: str
    spent: float


class RateForks:
    """Decides at marks of a training if its rate is halved or doubled from there on.

    Branches with half the rate, with the rate, and with twice the rate are trained from the mark for a fifth of what is
    left, each with its rate linear to zero. The rate changes only if a branch is shown to end at a lower training loss
    than going on, with a one-sided bound at the level of the run. A fork is made only if the budget pays for it.

    Args:
        configuration: The configuration of the run; `fork_budget` is what the forks may cost.
        steps: Steps of the training.
        ranks: The processes that train.

    Raises:
        BadArgument: Several processes train.
    """

    def __init__(self, configuration: Configuration, steps: int, ranks: Ranks) -> None:
        if configuration.fork_budget and not ranks.alone:
            raise BadArgument("`fork_budget` is for training in one process: leave it out, or fork the run afterwards.")
        self.budget, self.steps, self.spent = configuration.fork_budget, steps, 0.0
        self.marks = {max(round(share * steps), 1) for share in MARKS} if self.budget else set()
        self.asked: int | None = None

    def length(self, step: int) -> int:
        """Updates of a branch from this step."""
        return max(round(HORIZON * (self.steps - step)), 1)

    def cost(self, step: int) -> float:
        """Cost of a fork at this step, in units of the training."""
        return (1 + len(FACTORS)) * REPLICATES * self.length(step) / self.steps

    def asks(self, step: int) -> bool:
        """True if there is something to decide before this step."""
        pays = self.spent + self.cost(step) <= self.budget * (1 + 1e-9)
        return step in self.marks and step != self.asked and pays

    def pass_over(self, events: Iterable[Mapping[str, Any]], step: int) -> None:
        """Take in the decisions before a step that a training is resumed at."""
        spent = [event["spent"] for event in events if event["event"] == RateDecision.EVENT and event["step"] < step]
        self.spent = max(spent, default=0.0)

    def decided(self, training: Training, folder: RunFolder, is_stopped: Callable[[], bool]) -> RateDecision:
        """Decide before the present step of a training, and change its rate.

        A fork that was stopped continues from its finished branches.

        Args:
            training: The training.
            folder: The run, in which the fork is kept.
            is_stopped: True if the run was asked to stop.

        Raises:
            Stopped: The run was asked to stop, and the branches that are finished are kept.
            GradiometerError: A branch failed.
        """
        step = training.step
        rates = tuple(Rate(factor) for factor in FACTORS)
        until = step + self.length(step)
        found = fork_here(training, rates, REPLICATES, until=until, folder=folder, is_stopped=is_stopped)
        effects = found.effects(READOUT, level=2 * training.configuration.level - 1)
        factor = factor_of(effects)
        self.asked, self.spent = step, self.spent + self.cost(step)
        change_rate(training, factor)
        shown = "; ".join(f"{effect.alternative} {outcome(effect)}" for effect in effects)
        return RateDecision(factor, name_of(found), shown, self.spent)


def factor_of(effects: Iterable[Effect]) -> float:
    """The factor of the rate that is shown to end lowest; 1 if none is shown to end lower."""
    better = [effect for effect in effects if effect.verdict == "better"]
    if not better:
        return 1.0
    best = min(better, key=lambda effect: effect.estimate.value)
    return next(factor for factor in FACTORS if Rate(factor).name == best.alternative)


def change_rate(training: Training, factor: float) -> None:
    """Multiply the rate of this and of all later steps."""
    if factor != 1 and math.isfinite(factor):
        scale_rates(training.optimizer, training.scheduler, factor)
