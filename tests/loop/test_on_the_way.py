"""Forks on the way: policies are asked before each step, and what they decide is recorded, repeated
and remembered."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from gradiometer.interruption import StopAsked
from gradiometer.loop.on_the_way import Policies, Policy


class Training:
    """A training with a rate and nothing else."""

    def __init__(self) -> None:
        self.step = 0
        self.rate = 1.0
        self.events: list[dict[str, Any]] = []
        self.accounts: list[str] = []

    @contextmanager
    def charged(self, account: str) -> Iterator[None]:
        self.accounts.append(account)
        yield

    def record(self, event: str, decision: Mapping[str, Any]) -> None:
        self.events.append({"event": event, "step": self.step, **decision})


class Halve(Policy[Training]):
    """Halves the rate before some steps, each at a cost of 1."""

    event = "halved"
    account = "halving"

    def __init__(self, *steps: int) -> None:
        super().__init__(budget=2.0)
        self.steps = steps
        self.looked: list[int] = []
        self.next = min(steps)

    def due(self, step: int) -> bool:
        self.looked.append(step)
        return step in self.steps and self.spent < self.budget

    def decide(self, host: Training) -> dict[str, Any]:
        self.spent += 1
        self.repeat(host, {})
        return {"spent": self.spent}

    def repeat(self, host: Training, event: Mapping[str, Any]) -> None:
        host.rate /= 2


class Stops(Halve):
    event = "stopped"

    def decide(self, host: Training) -> dict[str, Any]:
        raise StopAsked


class Waits(Halve):
    event = "waited"

    def decide(self, host: Training) -> None:  # type: ignore[override]
        return None


def trained(policies: Policies[Training], first: int = 0, last: int = 8) -> Training:
    training = Training()
    for training.step in range(first, last):
        policies.ask(training)
    return training


def test_a_decision_is_recorded_and_its_time_is_charged() -> None:
    training = trained(Policies([Halve(3, 5, 6)]))
    assert training.rate == 1 / 4, "the budget pays for two"
    assert training.events == [
        {"event": "halved", "step": 3, "spent": 1.0},
        {"event": "halved", "step": 5, "spent": 2.0},
    ]
    assert training.accounts == ["halving", "halving"]


def test_no_policy_is_asked_before_its_next_step() -> None:
    late = Halve(5)
    policies = Policies([Halve(3), late])
    assert policies.next == 3 and Policies[Training]([]).next is None
    trained(policies)
    assert late.looked == [5, 6, 7]


def test_a_policy_that_has_decided_nothing_leaves_no_event() -> None:
    assert trained(Policies([Waits(2)])).events == []


def test_a_stop_leaves_the_decisions_before_it() -> None:
    policies, training = Policies([Halve(4), Stops(4)]), Training()
    training.step = 4
    with pytest.raises(StopAsked):
        policies.ask(training)
    assert [event["event"] for event in training.events] == ["halved"]


def test_decisions_on_record_are_repeated_and_remembered() -> None:
    events = trained(Policies([Halve(3, 5)])).events
    policy = Halve(3, 5, 6)
    policies, again = Policies([policy]), Training()
    repeat = policies.repeating(events)
    for again.step in range(5):
        repeat(again)
    assert again.rate == 1 / 2 and not again.events, "that of step 5 is not made yet"
    policies.remember(events, step=5)
    assert policy.spent == 1
    resumed = trained(policies, first=5)
    assert [event["step"] for event in resumed.events] == [5]
