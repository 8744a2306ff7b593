"""What a training decides on its way, by forks of itself: when its rate goes to zero, if it
changes, and the forecast of a training without a given length."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from gradiometer.convergence.plateau.noise_floor import FINISH, if_cooled
from gradiometer.errors import BadArgument
from gradiometer.jobs.pool import Here
from gradiometer.loop.branch import Tail
from gradiometer.loop.branches import Fork, outcome
from gradiometer.loop.changes.alternative import Alternative, GoOn, Hold, Rate
from gradiometer.loop.forking import train_plan
from gradiometer.loop.on_the_way import Policies, Policy
from gradiometer.loop.recorded.record import Plan
from gradiometer.measurement.estimate import counted
from gradiometer.run.configuration import Configuration
from gradiometer.run.recorder import Recorder
from gradiometer.train.cooling import Cooling
from gradiometer.train.forking.own_loop import examples_before, loop_under_way
from gradiometer.train.training import COOL, GO_ON, Training

# What the branches of a policy are compared by.
READOUT = "train_loss"


@dataclass(frozen=True)
class ForkedTraining:
    """A training of ours, as its policies see it.

    Args:
        training: The training.
        path: The folder of the run, in which the forks are kept.
        recorder: Records the decisions; None if steps are made again, whose decisions are on record.
    """

    training: Training
    path: Path
    recorder: Recorder | None = None

    @property
    def step(self) -> int:
        """The number of updates so far."""
        return self.training.step

    def charged(self, account: str) -> AbstractContextManager[object]:
        """A context whose time is charged to an account, outside of the share for measuring."""
        return self.training.budget.spending(account, outside=True)

    def record(self, event: str, decision: Mapping[str, Any]) -> None:
        """Keep a decision as an event of the run."""
        if self.recorder is not None:
            self.recorder.event(event, self.step, **decision)

    def fork(
        self,
        alternatives: tuple[Alternative, ...],
        replicates: int,
        *,
        until: int,
        tail: Tail = "linear",
    ) -> Fork:
        """Train branches from the present step. The state of the training and all random states are
        afterwards as before.

        Args:
            alternatives: What is tried. Branches that are finished are not trained again.
            replicates: Number of data orders of each branch.
            until: Step at which the branches end.
            tail: How their rate ends.

        Raises:
            StopAsked: The run was asked to stop. The branches that are finished are kept.
            GradiometerError: A branch failed.
        """
        training, configuration = self.training, self.training.configuration
        before, end, last = (
            examples_before(training.order, at) for at in (training.step, until, training.steps)
        )
        plan = Plan(
            training.step,
            alternatives,
            replicates,
            end - before,
            tail,
            seed=configuration.seed,
            left=last - before,
        )
        loop = loop_under_way(training, plan.seed)
        # Training waits for its forks, so they may have its processor.
        return train_plan(loop, plan, Here(), out=self.path, threads=configuration.threads)


def name_of(found: Fork) -> str | None:
    """The number of a fork that is kept, such as 0001."""
    return None if found.path is None else found.path.name


class Cool(Policy[ForkedTraining]):
    """Two branches at each mark: one whose rate goes to zero from here, and one that keeps it for a
    while.

    Args:
        cooling: The cooling of the training, which knows the marks and the budget. Its state is in
            the checkpoints.
    """

    event: ClassVar[str] = "cooling"
    account: ClassVar[str] = "cooling forks"

    def __init__(self, cooling: Cooling) -> None:
        super().__init__(cooling.budget)
        self._cooling = cooling

    def due(self, step: int) -> bool:
        """True if there is something to decide before this step."""
        return self._cooling.asks(step)

    def decide(self, host: ForkedTraining) -> dict[str, Any]:
        """Decide from which step on the rate goes to zero.

        Returns:
            "begins", that step: the number of all steps if the rate stays to the end, None to ask
            again; "fork", the name of the fork that decided, None if the budget does not pay for
            one; its "outcome" in words; and what all forks have "spent", in units of the training.
        """
        training, cooling = host.training, self._cooling
        step = training.step
        begins: int | None = step
        fork, shown = None, ""
        if cooling.pays(step):
            hold, replicates = cooling.hold(step), cooling.replicates(step)
            found = host.fork((hold,), replicates, until=cooling.stop(step))
            # a two-sided interval whose ends are one-sided bounds at the level
            (effect,) = found.effects(READOUT, level=2 * cooling.level - 1)
            if step not in cooling.marks:
                begins = step if effect.verdict in ("worse", "diverged") else None
            elif effect.verdict == "better":
                begins = training.steps if step == cooling.marks[-1] else None
            fork = name_of(found)
            shown = f"{effect.alternative} {outcome(effect, is_at_end=found.shows_end)}"
        # The other processes take in the decision before the same step.
        training.ranks.told(GO_ON if begins is None else COOL, begins or 0)
        training.decide(begins, forked=fork is not None)
        return {"spent": cooling.spent, "begins": begins, "fork": fork, "outcome": shown}

    def repeat(self, host: ForkedTraining, event: Mapping[str, Any]) -> None:
        """Let the rate go to zero from where it did."""
        host.training.decide(event["begins"], forked=event["fork"] is not None)


# Factors of the rate that are tried.
FACTORS = (0.5, 2.0)


# Data orders of each branch.
REPLICATES = 2


class RateForks(Policy[ForkedTraining]):
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

    def __init__(self, configuration: Configuration, steps: int) -> None:
        super().__init__(configuration.fork_budget)
        self.steps = steps
        # Steps at which the rate may change.
        self.marks = [max(round(share * steps), 1) for share in (0.1, 0.3, 0.6)]

    def length(self, step: int) -> int:
        """Updates of a branch from this step."""
        # Shorter branches than a fifth of what is left lean to small rates.
        return max(round(0.2 * (self.steps - step)), 1)

    def cost(self, step: int) -> float:
        """Cost of a fork at this step, in units of the training."""
        return (1 + len(FACTORS)) * REPLICATES * self.length(step) / self.steps

    def due(self, step: int) -> bool:
        """True if there is something to decide before this step."""
        if step not in self.marks or step == self.asked:
            return False
        return self.spent + self.cost(step) <= self.budget * (1 + 1e-9)

    def decide(self, host: ForkedTraining) -> dict[str, Any]:
        """Decide, and change the rate of the training.

        Returns:
            "factor", by which the rate is multiplied from here on; "fork", its name; its "outcome"
            in words; and what all forks have "spent", in units of the training.
        """
        step = host.step
        rates, until = tuple(map(Rate, FACTORS)), step + self.length(step)
        found = host.fork(rates, REPLICATES, until=until)
        effects = found.effects(READOUT, level=2 * host.training.configuration.level - 1)
        self.asked = step
        self.spent += self.cost(step)
        parts = (f"{one.alternative} {outcome(one, is_at_end=False)}" for one in effects)
        shown = f"after {counted(self.length(step), 'update')} {'; '.join(parts)}"
        # the rate that is shown to end lowest
        better = [
            (effect.estimate.value, factor)
            for effect, factor in zip(effects, FACTORS, strict=True)
            if effect.verdict == "better"
        ]
        decision = {
            "factor": min(better)[1] if better else 1.0,
            "fork": name_of(found),
            "outcome": shown,
            "spent": self.spent,
        }
        self.repeat(host, decision)
        return decision

    def repeat(self, host: ForkedTraining, event: Mapping[str, Any]) -> None:
        """Multiply the rate of this and of all later steps."""
        training = host.training
        factor = event["factor"]
        if factor != 1:
            for group in training.optimizer.param_groups:
                group["lr"] *= factor
                group["initial_lr"] *= factor
            scheduler = training.scheduler
            scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]


# Step of the first forecast. The others follow at twice the step each, so that no length needs to
# be known.
FIRST = 64


class Forecasts(Policy[ForkedTraining]):
    """Forecasts at steps 64, 128, 256, …, each scored by a fork if the budget pays for it.

    Args:
        budget: What the forks may cost, in units of the steps so far.
        steps: Most steps of the training.
    """

    event: ClassVar[str] = "cooled forecast"

    def __init__(self, budget: float, steps: int) -> None:
        super().__init__(budget)
        self.steps = steps
        # The step of the forecast before, and the loss at its averaged point.
        self.before: tuple[int, float] | None = None

    def due(self, step: int) -> bool:
        """True if there is a forecast to make before this step."""
        looks = step >= FIRST and step % FIRST == 0 and (step // FIRST).bit_count() == 1
        return looks and step != self.asked and step + length(step) <= self.steps

    def decide(self, host: ForkedTraining) -> dict[str, Any]:
        """Make the forecast. It changes nothing in the training.

        Returns:
            "averaged", the training loss at the averaged point; "forecast", the loss if the rate
            went to zero over the next fifth of the steps so far, None at the first look; "fork",
            the name of the fork that scores it, None if the budget does not pay for one; "seen" and
            "going_on", the mean losses of its branches that were cooled and that went on; and what
            all forks have "spent", in updates.
        """
        training, step = host.training, host.step
        loop = loop_under_way(training, training.configuration.seed)
        with training.at_average():
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
        decision = {
            "averaged": averaged,
            "forecast": None if forecast is None else forecast.to_dict(),
            "fork": None,
            "seen": None,
            "going_on": None,
            "spent": self.spent,
        }
        cost = 2 * REPLICATES * length(step)
        if forecast is None or self.spent + cost > self.budget * step:
            return decision
        until = step + length(step)
        found = host.fork((Hold(0.0),), REPLICATES, until=until, tail="none")
        self.spent += cost
        return decision | {
            "fork": name_of(found),
            "seen": _mean(found, Hold(0.0).name),
            "going_on": _mean(found, GoOn().name),
            "spent": self.spent,
        }

    def remember(self, event: Mapping[str, Any]) -> None:
        """Take in a forecast, from which the next one looks back."""
        super().remember(event)
        self.before = event["step"], event["averaged"]


def length(step: int) -> int:
    """Steps in which the rate goes to zero, after so many."""
    return max(round(FINISH * step), 1)


def _mean(found: Fork, name: str) -> float | None:
    losses = [result.readouts[READOUT].mean for result in found.of(name) if result.diverged is None]
    return sum(losses) / len(losses) if losses else None


def policies_of(training: Training) -> Policies[ForkedTraining]:
    """The policies of a training, in the order in which they decide.

    Schedule-free training needs no length, and has no rate to fall: its forks score forecasts.

    Raises:
        BadArgument: Several processes train, and forks are asked for.
    """
    configuration = training.configuration
    policies: list[Policy[ForkedTraining]] = (
        [] if training.cooling is None else [Cool(training.cooling)]
    )
    if not training.ranks.alone:
        if configuration.fork_budget:
            raise BadArgument(
                "`fork_budget` is for training in one process: leave it out, or fork the run "
                "afterwards."
            )
    elif configuration.optimizer == "schedulefree":
        policies.append(Forecasts(configuration.fork_budget, training.steps))
    else:
        policies.append(RateForks(configuration, training.steps))
    return Policies(policies)
