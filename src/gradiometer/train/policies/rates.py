"""Forks that may change the rate of a training: at most at 10, 30 and 60 % of its steps, within a
budget."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from gradiometer.loop.changes.rates import Rate
from gradiometer.loop.comparison.effects import Effect
from gradiometer.loop.comparison.words import outcome
from gradiometer.run.configuration import Configuration
from gradiometer.train.policies.policy import READOUT, ForkPoint, name_of
from gradiometer.train.training import Training

# Shares of the steps at which the rate may change.
MARKS = (0.1, 0.3, 0.6)

# Factors of the rate that are tried.
FACTORS = (0.5, 2.0)

# Length of a branch, as a share of what is left of the training. Shorter ones lean to small rates.
HORIZON = 0.2

# Data orders of each branch.
REPLICATES = 2


class RateForks:
    """Decides at marks of a training if its rate is halved or doubled from there on.

    Branches with half the rate, with the rate, and with twice the rate are trained from the mark
    for a fifth of what is left, each with its rate linear to zero. The rate changes only if a
    branch is shown to end at a lower training loss than going on, with a one-sided bound at the
    level of the run. A fork is made only if the budget pays for it.

    Args:
        configuration: The configuration of the run; `fork_budget` is what the forks may cost.
        steps: Steps of the training.
    """

    event: ClassVar[str] = "rate fork"
    account: ClassVar[str] = "forks on the way"

    def __init__(self, configuration: Configuration, steps: int) -> None:
        self.budget = configuration.fork_budget
        self.steps = steps
        self.spent = 0.0
        self.marks = {max(round(share * steps), 1) for share in MARKS} if self.budget else set()
        self.asked: int | None = None

    def length(self, step: int) -> int:
        """Updates of a branch from this step."""
        return max(round(HORIZON * (self.steps - step)), 1)

    def cost(self, step: int) -> float:
        """Cost of a fork at this step, in units of the training."""
        return (1 + len(FACTORS)) * REPLICATES * self.length(step) / self.steps

    def due(self, step: int) -> bool:
        """True if there is something to decide before this step."""
        pays = self.spent + self.cost(step) <= self.budget * (1 + 1e-9)
        return step in self.marks and step != self.asked and pays

    def decide(self, here: ForkPoint) -> dict[str, Any]:
        """Decide, and change the rate of the training.

        Returns:
            "factor", by which the rate is multiplied from here on; "fork", its name; its "outcome"
            in words; and what all forks have "spent", in units of the training.
        """
        training = here.training
        step = training.step
        found = here.fork(tuple(map(Rate, FACTORS)), REPLICATES, until=step + self.length(step))
        effects = found.effects(READOUT, level=2 * training.configuration.level - 1)
        self.asked = step
        self.spent += self.cost(step)
        shown = "; ".join(f"{effect.alternative} {outcome(effect)}" for effect in effects)
        decision = {
            "factor": factor_of(effects),
            "fork": name_of(found),
            "outcome": shown,
            "spent": self.spent,
        }
        self.repeat(training, decision)
        return decision

    def repeat(self, training: Training, event: Mapping[str, Any]) -> None:
        """Multiply the rate of this and of all later steps."""
        factor = event["factor"]
        if factor != 1:
            for group in training.optimizer.param_groups:
                group["lr"] *= factor
                group["initial_lr"] *= factor
            scheduler = training.scheduler
            scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]

    def remember(self, event: Mapping[str, Any]) -> None:
        """Take in what the forks have cost."""
        self.spent = event["spent"]


def factor_of(effects: Iterable[Effect]) -> float:
    """The factor of the rate that is shown to end lowest; 1 if none is shown to end lower."""
    better = [effect for effect in effects if effect.verdict == "better"]
    if not better:
        return 1.0
    best = min(better, key=lambda effect: effect.estimate.value)
    return next(factor for factor in FACTORS if Rate(factor).name == best.alternative)
