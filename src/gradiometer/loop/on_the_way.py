"""Forks on the way: a training asks its policies before each step, and a policy decides by forks of
the training as it is then."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable


@runtime_checkable
class Host(Protocol):
    """A training that policies decide about. How it is forked is its own matter: each kind of
    training has a method for that, which its policies call."""

    @property
    def step(self) -> int:
        """The number of updates so far."""

    def charged(self, account: str) -> AbstractContextManager[object]:
        """A context whose time is charged to an account, outside of the share for measuring."""

    def record(self, event: str, decision: Mapping[str, Any]) -> None:
        """Keep a decision as an event of the run."""


Decided = TypeVar("Decided", bound=Host)


class Policy(ABC, Generic[Decided]):
    """Decides something before some of the steps of a training, by forks that a budget pays for.

    Args:
        budget: What the forks may cost, in units of the training.
    """

    # Name of the event that records a decision.
    event: ClassVar[str]
    # What the time of its forks is charged to.
    account: ClassVar[str] = "forks on the way"
    # The step before which there is nothing to decide. A policy that knows its next step sets it,
    # so that a step that nobody waits for costs one comparison.
    next: int = 0

    def __init__(self, budget: float) -> None:
        self.budget = budget
        # What the forks have cost so far.
        self.spent = 0.0
        # The step of the newest decision.
        self.asked: int | None = None

    @abstractmethod
    def due(self, step: int) -> bool:
        """True if there is something to decide before this step."""

    @abstractmethod
    def decide(self, host: Decided) -> Mapping[str, Any] | None:
        """Decide, and change the training. Returns the fields of the event; None if there is
        nothing to record.

        Raises:
            StopAsked: The run was asked to stop, and nothing was decided.
        """

    def repeat(self, host: Decided, event: Mapping[str, Any]) -> None:
        """Change a training as a decision on record did, when its steps are made again."""

    def remember(self, event: Mapping[str, Any]) -> None:
        """Take in a decision that was made before the step at which a run is resumed."""
        self.spent = event["spent"]


class Policies(Generic[Decided]):
    """The policies of a training, asked in their order.

    >>> from contextlib import nullcontext
    >>> from gradiometer.loop.on_the_way import Policies, Policy
    >>> class Training:
    ...     step, rate, events = 0, 0.1, []
    ...     def charged(self, account):
    ...         return nullcontext()
    ...     def record(self, event, decision):
    ...         self.events.append((event, self.step, decision))
    >>> class HalveAt(Policy):
    ...     event, next = "halved", 3
    ...     def due(self, step):
    ...         return step == 3
    ...     def decide(self, training):
    ...         training.rate /= 2
    ...         return {"rate": training.rate, "spent": self.spent}
    >>> training, policies = Training(), Policies([HalveAt(budget=1.0)])
    >>> for training.step in range(5):
    ...     policies.ask(training)
    >>> training.events
    [('halved', 3, {'rate': 0.05, 'spent': 0.0})]
    """

    def __init__(self, policies: Sequence[Policy[Decided]]) -> None:
        self._policies = tuple(policies)

    @property
    def next(self) -> int | None:
        """The step before which no policy has anything to decide; None without policies."""
        return min((policy.next for policy in self._policies), default=None)

    def ask(self, host: Decided) -> None:
        """Let each policy decide what there is to decide before the present step.

        Raises:
            StopAsked: The run was asked to stop. The decisions before it are recorded.
        """
        for policy in self._policies:
            if host.step < policy.next or not policy.due(host.step):
                continue
            with host.charged(policy.account):
                decision = policy.decide(host)
            if decision is not None:
                host.record(policy.event, decision)

    def remember(self, events: Iterable[Mapping[str, Any]], step: int) -> None:
        """Let the policies take in their decisions before a step at which a run is resumed."""
        known = {policy.event: policy for policy in self._policies}
        for event in events:
            policy = known.get(event["event"])
            if policy is not None and event["step"] < step:
                policy.remember(event)

    def repeating(self, events: Iterable[Mapping[str, Any]]) -> Callable[[Decided], None]:
        """What changes a training before its present step as the decisions on record did, when
        steps are made again. Of several decisions of a policy before a step the newest counts.

        Args:
            events: The events of the run, in order.
        """
        decisions = {(event["event"], event["step"]): event for event in events}

        def repeat(host: Decided) -> None:
            for policy in self._policies:
                decision = decisions.get((policy.event, host.step))
                if decision is not None:
                    policy.repeat(host, decision)

        return repeat
