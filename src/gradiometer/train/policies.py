"""What a training decides on its way, by forks of itself: when its rate goes to zero, if it
changes, and the forecast of a training without a given length."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from gradiometer.convergence.plateau.noise_floor import FINISH, if_cooled
from gradiometer.errors import BadArgument
from gradiometer.jobs.pool import Here
from gradiometer.loop.branch import Tail
from gradiometer.loop.branches import Fork, outcome
from gradiometer.loop.changes.alternative import Alternative, GoOn, Hold, Rate
from gradiometer.loop.forking import train_plan
from gradiometer.loop.recorded.record import Plan
from gradiometer.run.configuration import Configuration
from gradiometer.run.folder import RunFolder
from gradiometer.train.cooling import Cooling
from gradiometer.train.forking.own_loop import examples_before, loop_under_way
from gradiometer.train.training import COOL, GO_ON, Training

# What the branches of a policy are compared by.
READOUT = "train_loss"


def fork_now(
    training: Training,
    folder: RunFolder,
    alternatives: tuple[Alternative, ...],
    replicates: int,
    *,
    until: int,
    tail: Tail = "linear",
) -> Fork:
    """Train branches from the present step of a training. Its state and all random states are
    afterwards as before.

    Args:
        training: The training.
        folder: The run, in which the forks are kept. Branches that are finished are not trained
            again.
        alternatives: What is tried.
        replicates: Number of data orders of each branch.
        until: Step at which the branches end.
        tail: How their rate ends.

    Raises:
        StopAsked: The run was asked to stop. The branches that are finished are kept.
        GradiometerError: A branch failed.
    """
    configuration = training.configuration
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
    return train_plan(loop, plan, Here(), out=folder.path, threads=configuration.threads)


class Policy(ABC):
    """Decides something before some of the steps of a training, by forks that a budget pays for.

    Args:
        budget: What the forks may cost, in units of the training.
        steps: Number of steps of the training.
    """

    # Name of the event that records a decision.
    event: ClassVar[str]
    # What the time of its forks is charged to.
    account: ClassVar[str] = "forks on the way"

    def __init__(self, budget: float, steps: int) -> None:
        self.budget = budget
        self.steps = steps
        self.spent = 0.0
        self.asked: int | None = None

    @abstractmethod
    def due(self, step: int) -> bool:
        """True if there is something to decide before this step."""

    @abstractmethod
    def decide(self, training: Training, folder: RunFolder) -> dict[str, Any]:
        """Decide, and change the training. Returns the fields of the event.

        Args:
            training: The training.
            folder: The run, in which forks are kept.

        Raises:
            StopAsked: The run was asked to stop, and nothing was decided.
        """

    def repeat(self, training: Training, event: Mapping[str, Any]) -> None:  # noqa: B027 (a forecast changes nothing)
        """Change a training as a decision on record did, when its steps are made again."""

    def remember(self, event: Mapping[str, Any]) -> None:
        """Take in a decision that was made before the step at which a run is resumed."""
        self.spent = event["spent"]


def remember(policies: Iterable[Policy], events: Iterable[Mapping[str, Any]], step: int) -> None:
    """Let policies take in their decisions before a step."""
    known = {policy.event: policy for policy in policies}
    for event in events:
        policy = known.get(event["event"])
        if policy is not None and event["step"] < step:
            policy.remember(event)


def name_of(found: Fork) -> str | None:
    """The number of a fork that is kept, such as 0001."""
    return None if found.path is None else found.path.name


class Cool(Policy):
    """Two branches at each mark: one whose rate goes to zero from here, and one that keeps it for a
    while.

    Args:
        cooling: The cooling of the training, which knows the marks and the budget. Its state is in
            the checkpoints.
    """

    event: ClassVar[str] = "cooling"
    account: ClassVar[str] = "cooling forks"

    def __init__(self, cooling: Cooling) -> None:
        super().__init__(cooling.budget, cooling.steps)
        self._cooling = cooling

    def due(self, step: int) -> bool:
        """True if there is something to decide before this step."""
        return self._cooling.asks(step)

    def decide(self, training: Training, folder: RunFolder) -> dict[str, Any]:
        """Decide from which step on the rate goes to zero.

        Returns:
            "begins", that step: the number of all steps if the rate stays to the end, None to ask
            again; "fork", the name of the fork that decided, None if the budget does not pay for
            one; its "outcome" in words; and what all forks have "spent", in units of the training.
        """
        cooling, step = self._cooling, training.step
        begins: int | None = step
        fork, shown = None, ""
        if cooling.pays(step):
            hold, replicates = cooling.hold(step), cooling.replicates(step)
            found = fork_now(training, folder, (hold,), replicates, until=cooling.stop(step))
            # a two-sided interval whose ends are one-sided bounds at the level
            (effect,) = found.effects(READOUT, level=2 * cooling.level - 1)
            if step not in cooling.marks:
                begins = step if effect.verdict in ("worse", "diverged") else None
            elif effect.verdict == "better":
                begins = training.steps if step == cooling.marks[-1] else None
            fork = name_of(found)
            shown = f"{effect.alternative} {outcome(effect)}"
        # The other processes take in the decision before the same step.
        training.ranks.told(GO_ON if begins is None else COOL, begins or 0)
        training.decide(begins, forked=fork is not None)
        return {"spent": cooling.spent, "begins": begins, "fork": fork, "outcome": shown}

    def repeat(self, training: Training, event: Mapping[str, Any]) -> None:
        """Let the rate go to zero from where it did."""
        training.decide(event["begins"], forked=event["fork"] is not None)


# Factors of the rate that are tried.
FACTORS = (0.5, 2.0)


# Data orders of each branch.
REPLICATES = 2


class RateForks(Policy):
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
        super().__init__(configuration.fork_budget, steps)
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

    def decide(self, training: Training, folder: RunFolder) -> dict[str, Any]:
        """Decide, and change the rate of the training.

        Returns:
            "factor", by which the rate is multiplied from here on; "fork", its name; its "outcome"
            in words; and what all forks have "spent", in units of the training.
        """
        step = training.step
        rates, until = tuple(map(Rate, FACTORS)), step + self.length(step)
        found = fork_now(training, folder, rates, REPLICATES, until=until)
        effects = found.effects(READOUT, level=2 * training.configuration.level - 1)
        self.asked = step
        self.spent += self.cost(step)
        shown = "; ".join(f"{effect.alternative} {outcome(effect)}" for effect in effects)
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


# Step of the first forecast. The others follow at twice the step each, so that no length needs to
# be known.
FIRST = 64


class Forecasts(Policy):
    """Forecasts at steps 64, 128, 256, …, each scored by a fork if the budget pays for it.

    Args:
        budget: What the forks may cost, in units of the steps so far.
        steps: Most steps of the training.
    """

    event: ClassVar[str] = "cooled forecast"
    # The step of the forecast before, and the loss at its averaged point.
    before: tuple[int, float] | None = None

    def due(self, step: int) -> bool:
        """True if there is a forecast to make before this step."""
        looks = step >= FIRST and step % FIRST == 0 and (step // FIRST).bit_count() == 1
        return looks and step != self.asked and step + length(step) <= self.steps

    def decide(self, training: Training, folder: RunFolder) -> dict[str, Any]:
        """Make the forecast. It changes nothing in the training.

        Returns:
            "averaged", the training loss at the averaged point; "forecast", the loss if the rate
            went to zero over the next fifth of the steps so far, None at the first look; "fork",
            the name of the fork that scores it, None if the budget does not pay for one; "seen" and
            "going_on", the mean losses of its branches that were cooled and that went on; and what
            all forks have "spent", in updates.
        """
        step = training.step
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
        found = fork_now(training, folder, (Hold(0.0),), REPLICATES, until=until, tail="none")
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


def policies_of(training: Training) -> tuple[Policy, ...]:
    """The policies of a training, in the order in which they decide.

    Schedule-free training needs no length, and has no rate to fall: its forks score forecasts.

    Raises:
        BadArgument: Several processes train, and forks are asked for.
    """
    configuration = training.configuration
    policies: list[Policy] = [] if training.cooling is None else [Cool(training.cooling)]
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
    return tuple(policies)
