"""The loss that a training without a given length would have if its rate went to zero now: forecast
and scored."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from gradiometer.convergence.plateau.noise_floor import FINISH, if_cooled
from gradiometer.loop.branches import Fork
from gradiometer.loop.changes.alternative import GoOn
from gradiometer.loop.changes.rates import Hold
from gradiometer.train.averaged import evaluated
from gradiometer.train.forking.own_loop import loop_under_way
from gradiometer.train.policies.policy import READOUT, ForkPoint, name_of
from gradiometer.train.training import Training

# Step of the first forecast. The others follow at twice the step each, so that no length needs to
# be known.
FIRST = 64

# Data orders of each branch.
REPLICATES = 2


class Forecasts:
    """Forecasts at steps 64, 128, 256, …, each scored by a fork if the budget pays for it.

    Args:
        budget: What the forks may cost, in units of the steps so far.
        steps: Most steps of the training.
    """

    event: ClassVar[str] = "cooled forecast"
    account: ClassVar[str] = "forks on the way"

    def __init__(self, budget: float, steps: int) -> None:
        self.budget = budget
        self.steps = steps
        self.spent = 0.0
        self.asked: int | None = None
        self.before: tuple[int, float] | None = None

    def due(self, step: int) -> bool:
        """True if there is a forecast to make before this step."""
        looks = step >= FIRST and step % FIRST == 0 and (step // FIRST).bit_count() == 1
        return looks and step != self.asked and step + length(step) <= self.steps

    def decide(self, here: ForkPoint) -> dict[str, Any]:
        """Make the forecast. It changes nothing in the training.

        Returns:
            "averaged", the training loss at the averaged point; "forecast", the loss if the rate
            went to zero over the next fifth of the steps so far, None at the first look; "fork",
            the name of the fork that scores it, None if the budget does not pay for one; "seen" and
            "going_on", the mean losses of its branches that were cooled and that went on; and what
            all forks have "spent", in updates.
        """
        training = here.training
        step = training.step
        loop = loop_under_way(training, training.configuration.seed)
        with evaluated(training):
            averaged = loop.readouts(training.model)[READOUT].mean
        known = self.before
        self.before = (step, averaged)
        self.asked = step
        forecast = None
        if (
            known is not None
            and 2 * known[0] == step
            and math.isfinite(averaged)
            and math.isfinite(known[1])
        ):
            forecast = if_cooled(averaged, known[1], level=training.configuration.level)
        decision: dict[str, Any] = {
            "averaged": averaged,
            "forecast": None,
            "fork": None,
            "seen": None,
        }
        decision |= {"going_on": None, "spent": self.spent}
        if forecast is None:
            return decision
        decision["forecast"] = forecast.to_dict()
        cost = 2 * REPLICATES * length(step)
        if self.spent + cost > self.budget * step:
            return decision
        found = here.fork((Hold(0.0),), REPLICATES, until=step + length(step), tail="none")
        self.spent += cost
        return decision | {
            "fork": name_of(found),
            "seen": _mean(found, Hold(0.0).name),
            "going_on": _mean(found, GoOn().name),
            "spent": self.spent,
        }

    def repeat(self, training: Training, event: Mapping[str, Any]) -> None:
        """A forecast changes nothing."""

    def remember(self, event: Mapping[str, Any]) -> None:
        """Take in a forecast, from which the next one looks back."""
        self.before = event["step"], event["averaged"]
        self.spent = event["spent"]


def length(step: int) -> int:
    """Steps in which the rate goes to zero, after so many."""
    return max(round(FINISH * step), 1)


def _mean(found: Fork, name: str) -> float | None:
    losses = [result.readouts[READOUT].mean for result in found.of(name) if result.diverged is None]
    return sum(losses) / len(losses) if losses else None
