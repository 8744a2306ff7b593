"""`Policy`: something that a training decides on its way, by forks of itself."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from gradiometer.jobs.choice import opened
from gradiometer.loop.branch import Tail
from gradiometer.loop.branches import Fork
from gradiometer.loop.changes.alternative import Alternative
from gradiometer.loop.recorded.growing import train_plan
from gradiometer.loop.recorded.plan import Plan
from gradiometer.run.folder import RunFolder
from gradiometer.train.forking.order import examples_before
from gradiometer.train.forking.own_loop import loop_under_way
from gradiometer.train.training import Training

# What the branches of a policy are compared by.
READOUT = "train_loss"


@dataclass(frozen=True)
class ForkPoint:
    """The present step of a training, from which a policy makes its forks.

    Args:
        training: The training.
        folder: The run, in which the forks are kept. Branches that are finished are not trained
            again.
    """

    training: Training
    folder: RunFolder

    def fork(
        self,
        alternatives: tuple[Alternative, ...],
        replicates: int,
        *,
        until: int,
        tail: Tail = "linear",
    ) -> Fork:
        """Train branches. The state of the training and all random states are afterwards as before.

        Args:
            alternatives: What is tried.
            replicates: Number of data orders of each branch.
            until: Step at which the branches end.
            tail: How their rate ends.

        Raises:
            StopAsked: The run was asked to stop. The branches that are finished are kept.
            GradiometerError: A branch failed.
        """
        training = self.training
        step, configuration = training.step, training.configuration
        before, end, last = (
            examples_before(training.order, at) for at in (step, until, training.steps)
        )
        plan = Plan(
            step,
            alternatives,
            replicates,
            end - before,
            tail,
            seed=configuration.seed,
            left=last - before,
        )
        loop = loop_under_way(training, plan.seed)
        threads = configuration.threads
        # Training waits for its forks, so they may have its processor.
        with opened("here") as pool:
            return train_plan(loop, plan, pool, out=self.folder.path, threads=threads)


@runtime_checkable
class Policy(Protocol):
    """Decides something before some of the steps of a training."""

    # Name of the event that records a decision.
    event: ClassVar[str]

    # What the time of its forks is charged to.
    account: ClassVar[str]

    def due(self, step: int) -> bool:
        """True if there is something to decide before this step."""

    def decide(self, here: ForkPoint) -> dict[str, Any]:
        """Decide, and change the training. Returns the fields of the event.

        Raises:
            StopAsked: The run was asked to stop. The branches that are finished are kept.
            GradiometerError: A branch failed.
        """

    def repeat(self, training: Training, event: Mapping[str, Any]) -> None:
        """Change a training as a decision on record did, when its steps are made again."""

    def remember(self, event: Mapping[str, Any]) -> None:
        """Take in a decision that was made before the step at which a run is resumed."""


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
