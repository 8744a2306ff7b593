"""The laws of gauges and observers name what is broken, and pass what is right."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from gradiometer import Estimate, Finding, Gauge, Issue, Series, State, TrainingStep
from gradiometer.integrations.trackers import Trackers
from gradiometer.integrations.watch.observers.observer import Observer, Step, Update
from gradiometer.integrations.watch.observers.trackers import TrackerFeed
from gradiometer.measurement.gauge import NOTHING_KNOWN, RunFacts
from gradiometer.measurement.uncertainty import mean
from gradiometer.testing import check_gauge, check_observer, example_steps, training_state

FACTS = {"seen": "Its length is {length}."}


@dataclass(frozen=True)
class Length(Gauge):
    """The length of the gradient."""

    scale: float = 1.0

    name: ClassVar[str] = "length"
    issue: ClassVar[Issue] = Issue.DRIFT
    unit: ClassVar[str] = ""
    labels: ClassVar[Mapping[str, str]] = {"length": "length"}

    def measure(self, step: TrainingStep) -> Any:
        return {"squared": step.product_of(step.gradient, step.gradient)}

    def estimate(self, series: Series, level: float = 0.9) -> dict[str, Estimate]:
        return {"length": mean(series.moments["squared"], level=level)}

    def judge(self, estimates: Mapping[str, Estimate], run: RunFacts = NOTHING_KNOWN) -> Finding:
        return Finding(self.name, self.issue, "own", State.OK, dict(estimates), FACTS)


class Draws(Length):
    """Moves the random generator of training."""

    def measure(self, step: TrainingStep) -> Any:
        torch.rand(1)
        return super().measure(step)


class Writes(Length):
    """Changes a gradient of training."""

    def measure(self, step: TrainingStep) -> Any:
        found = super().measure(step)
        step.objective.parameters[0].grad.mul_(2)
        return found


class Counts(Length):
    """Measures something else each time."""

    def measure(self, step: TrainingStep) -> Any:
        return {"squared": float(np.random.default_rng().random())}


class Unlabelled(Length):
    """Has no label."""

    labels: ClassVar[Mapping[str, str]] = {}


class Elsewhere(Length):
    """Judges a number that it has not estimated."""

    def judge(self, estimates: Mapping[str, Estimate], run: RunFacts = NOTHING_KNOWN) -> Finding:
        numbers = {"length": Estimate.exact(3.0), "other": Estimate.exact(4.0)}
        return Finding(self.name, self.issue, "own", State.OK, numbers, FACTS)


class Undecided(Length):
    """Says NaN."""

    def judge(self, estimates: Mapping[str, Estimate], run: RunFacts = NOTHING_KNOWN) -> Finding:
        facts = {"seen": f"Its length is {float('nan')} in all."}
        return Finding(self.name, self.issue, "own", State.OK, dict(estimates), facts)


class Hidden(Length):
    """Its repr does not recreate it."""

    def __repr__(self) -> str:
        return "Hidden(scale=7.0)"


class Seldom(Length):
    """Has a reading of one step only."""

    def measure(self, step: TrainingStep) -> Any:
        return super().measure(step) if step.index == 0 else None


def test_a_gauge_that_meets_the_laws_passes() -> None:
    check_gauge(Length(scale=2.0))


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (Draws, "Draws leaves training unchanged"),
        (Writes, "Writes leaves training unchanged"),
        (Counts, "Counts measures the same of the same step"),
        (Unlabelled, "labels has a label for each quantity"),
        (Elsewhere, "finding of Elsewhere rests on its estimates: found .'other'."),
        (Undecided, "sentences of Undecided have no NaN"),
        (Hidden, "the repr of Hidden recreates it"),
        (Seldom, "Seldom has readings of at least two steps: found 1"),
    ],
)
def test_a_gauge_that_breaks_a_law_is_named_with_the_law(kind: type[Gauge], law: str) -> None:
    with pytest.raises(AssertionError, match=law):
        check_gauge(kind())


def test_steps_are_the_same_at_every_call_and_leave_the_random_generator_alone() -> None:
    state = torch.get_rng_state()
    first, second = (
        [training_state(step.objective.model)[0] for step in example_steps(5)] for _ in range(2)
    )
    assert first == second and first[0] != first[4]
    assert torch.get_rng_state().equal(state)


class Tenth(Observer):
    """Called at every tenth step and after its update."""

    next = 0

    def at_step(self, event: Step) -> None:
        self.next = event.index + 10
        self.awaits_update = True

    def updated(self, update: Update) -> None:
        self.awaits_update = False


class DrawsAtSteps(Tenth):
    def at_step(self, event: Step) -> None:
        super().at_step(event)
        torch.rand(1)


class Again(Tenth):
    def at_step(self, event: Step) -> None:
        pass


class Raises(Tenth):
    def updated(self, update: Update) -> None:
        raise ValueError("no update")


class RaisesAtTheEnd(Tenth):
    def close(self, error: BaseException | None) -> None:
        if error is not None:
            raise ValueError("no end")


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (DrawsAtSteps, "leaves training unchanged: its bits differ"),
        (Again, "asks for a later step: after step 0 `next` is 0"),
        (Raises, r"raises nothing: Raises.updated raised ValueError\('no update'\)"),
        (RaisesAtTheEnd, r"raises nothing: RaisesAtTheEnd.close raised ValueError\('no end'\)"),
    ],
)
def test_an_observer_that_breaks_a_law_is_named_with_the_law(
    kind: Callable[[], Observer], law: str
) -> None:
    with pytest.raises(AssertionError, match=law):
        check_observer(lambda watch: kind())


def test_observers_that_meet_the_laws_pass() -> None:
    check_observer(lambda watch: Tenth())
    sent = list[Any]()
    trackers = Trackers([lambda numbers, step: sent.append(step)], 0.9, print)
    check_observer(lambda watch: TrackerFeed(trackers, watch.losses))
    assert sent
