"""A statement of the lecture: its claim, its experiments, and their result.

An experiment is a quantity along a dial, predicted at every position before it is measured.
"""

import math
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache, cached_property
from importlib.resources import files
from types import SimpleNamespace
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import ArrayLike

from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean

# Confidence level of the lecture's intervals: more than a hundred are compared, and none should
# miss by chance.
LEVEL = 0.999

# Gives a number for a position of the dial; a plain float is exact.


@cache
def settings(statement: str) -> SimpleNamespace:
    """The numbers of a statement's experiments, from `settings.toml`."""
    text = (files("gradiometer_lab.lecture") / "settings.toml").read_text("utf-8")
    return SimpleNamespace(**tomllib.loads(text)[statement])


AtPoint = Callable[[Any], Estimate | SupportsFloat]


class Circumstance(StrEnum):
    """The kind of problem that an experiment uses."""

    # A problem small enough to have a closed form.
    KNOWN = "a known answer"
    REAL = "a real network, real data"
    # A case that the claim does not cover: the prediction differs from it, and says why.
    FAILS = "where it fails"


@dataclass(frozen=True)
class Rival:
    """A wrong theory of a quantity. A prediction that could not tell it from the right one would
    say nothing.

    Args:
        says: The theory, as a noun phrase: "a convex loss".
        at: The quantity by this theory at a position of the dial.
    """

    says: str
    at: Callable[[Any], float]


@dataclass(frozen=True)
class Experiment:
    """A quantity along a dial, with its prediction and its measurement at each position.

    Args:
        name: Unique within its statement: its place on the page, and its picture's file name.
        setting: The kind of problem.
        where: The problem in a few words, such as "the one-dimensional example".
        quantity: The predicted and measured quantity, with its symbol.
        dial: The quantity that varies, with its symbol.
        points: The dial's positions, in increasing order.
        predict: The prediction at a position: exact, or an interval if it uses measured numbers or
            is a bound.
        measure: The measurement at a position.
        says: The prediction in a sentence; if the claim fails, why.
        claim: If the claim fails, its value at a position, which the measurement must exclude.
        rival: A wrong theory, which both the prediction and the measurement must exclude somewhere
            along the dial.
        log_dial: Draw the dial on a logarithmic axis.
        log: Draw the quantity on a logarithmic axis.
    """

    name: str
    setting: Circumstance
    where: str
    quantity: str
    dial: str
    points: Sequence[float] | Sequence[int]
    predict: AtPoint
    measure: AtPoint
    says: str
    claim: Callable[[Any], float] | None = None
    rival: Rival | None = None
    log_dial: bool = True
    log: bool = True

    @cached_property
    def claimed(self) -> tuple[float, ...]:
        """The values of a claim that fails, at each position; empty if it does not fail."""
        return (
            () if self.claim is None else tuple(float(self.claim(point)) for point in self.points)
        )


@dataclass(frozen=True)
class ExperimentResult:
    """An experiment with its prediction, that of a wrong theory and, once made, its measurement."""

    experiment: Experiment
    predicted: tuple[Estimate, ...]
    measured: tuple[Estimate, ...] = ()
    rival: tuple[float, ...] = ()

    @property
    def points_held(self) -> tuple[bool, ...]:
        """Per position: True if the measured interval meets the prediction and excludes a claim
        that fails."""
        # A claim that does not fail excludes nothing.
        claimed: Sequence[float | None] = self.experiment.claimed or [None] * len(self.predicted)
        return tuple(
            meets(ours, theirs) and (claim is None or not bool(theirs.low <= claim <= theirs.high))
            for ours, theirs, claim in zip(self.predicted, self.measured, claimed, strict=True)
        )

    @property
    def held(self) -> bool:
        """True if every position held; False before the measurement."""
        return bool(self.measured) and all(self.points_held)

    @property
    def refuted(self) -> int:
        """Positions at which the wrong theory lies outside the prediction and outside the measured
        interval."""
        pairs = zip(self.rival, self.predicted, self.measured, strict=False)
        return sum(
            not (_holds(ours, rival) or _holds(theirs, rival)) for rival, ours, theirs in pairs
        )

    def to_dict(self) -> dict[str, Any]:
        """The numbers of the experiment, as `--json` prints them."""
        experiment = self.experiment
        names = ("name", "setting", "where", "quantity", "dial")
        return {
            **{name: str(getattr(experiment, name)) for name in names},
            "points": list(experiment.points),
            "predicted": [estimate.to_dict() for estimate in self.predicted],
            "measured": [estimate.to_dict() for estimate in self.measured],
            "claimed": list(experiment.claimed) or None,
            "rival": experiment.rival
            and {"says": experiment.rival.says, "values": list(self.rival)},
            "held": self.held,
        }


def predict(experiment: Experiment) -> ExperimentResult:
    """The experiment with its prediction and that of the wrong theory only."""
    wrong = experiment.rival
    return ExperimentResult(
        experiment,
        _along(experiment, experiment.predict),
        rival=() if wrong is None else tuple(float(wrong.at(point)) for point in experiment.points),
    )


def measure(outcome: ExperimentResult) -> ExperimentResult:
    """The same with its measurement."""
    return replace(outcome, measured=_along(outcome.experiment, outcome.experiment.measure))


def meets(predicted: Estimate, measured: Estimate) -> bool:
    """True if the two intervals have a number in common; an unbounded measurement meets nothing.

    Two exact numbers are compared to nine digits, because they are computed in different ways.
    """
    # Two exact numbers are computed in different ways, and differ by rounding.
    slack = 1e-9 * abs(predicted.value) if predicted.method == measured.method == "exact" else 0.0
    return bool(
        measured.tells
        and predicted.low - slack <= measured.high
        and measured.low <= predicted.high + slack
    )


def _holds(estimate: Estimate, value: float) -> bool:
    return bool(estimate.low <= value <= estimate.high)


def mean_estimate(values: ArrayLike) -> Estimate:
    """The mean of independent values, at the lecture's level."""
    # As many batches as values: they are independent, so no correlation is looked for.
    independent = np.asarray(values, dtype=np.float64)
    return mean(independent, level=LEVEL, batches=len(independent))


def _along(experiment: Experiment, number: AtPoint) -> tuple[Estimate, ...]:
    found = (number(point) for point in experiment.points)
    return tuple(
        each if isinstance(each, Estimate) else Estimate.exact(float(each)) for each in found
    )


@dataclass(frozen=True)
class Statement:
    """One statement of the lecture; its formula is the template `formula_s01.html`, and so on.

    Args:
        name: "S1" to "S12".
        title: A few words.
        claim: The statement in our words.
        experiments: Makes the experiments: with a known answer, on a real network, and in a case in
            which it fails.
        limits: When it fails, and why.
        interactive: Name of the simulation on its page, if it has one.
    """

    name: str
    title: str
    claim: str
    experiments: tuple[Experiment, ...]
    limits: str
    interactive: str | None = None


@dataclass(frozen=True)
class Result:
    """A statement with the outcomes of its experiments."""

    statement: Statement
    outcomes: tuple[ExperimentResult, ...]

    @property
    def held(self) -> bool:
        """True if all experiments came out as predicted, including those in which the
        claim fails."""
        return bool(self.outcomes) and all(outcome.held for outcome in self.outcomes)

    @property
    def real(self) -> ExperimentResult:
        """The first experiment on a real network and real data."""
        return next(
            outcome for outcome in self.outcomes if outcome.experiment.setting is Circumstance.REAL
        )

    @property
    def headline(self) -> tuple[Estimate, Estimate]:
        """Predicted and measured at the last point of that experiment."""
        return self.real.predicted[-1], self.real.measured[-1]

    def to_dict(self) -> dict[str, Any]:
        """The statement as `--json` prints it: its headline, and the numbers of every
        experiment."""
        ours, theirs = self.headline
        # Of a bound, its finite end.
        ends = (ours.value, ours.low, ours.high)
        predicted = next((end for end in ends if math.isfinite(end)), ours.high)
        return {
            "statement": self.statement.name,
            "claim": self.statement.claim,
            "predicted": predicted,
            "predicted_low": ours.low,
            "predicted_high": ours.high,
            "measured": theirs.value,
            "low": theirs.low,
            "high": theirs.high,
            "held": self.held,
            "rival": self.real.rival[-1] if self.real.rival else None,
            "experiments": [outcome.to_dict() for outcome in self.outcomes],
        }


def run(statement: Statement) -> Iterator[ExperimentResult]:
    """First all predictions of a statement, then each one with its measurement."""
    outcomes = [predict(experiment) for experiment in statement.experiments]
    yield from outcomes
    for outcome in outcomes:
        yield measure(outcome)


def result(statement: Statement) -> Result:
    """Predict and then measure all experiments of a statement."""
    return Result(statement, tuple(outcome for outcome in run(statement) if outcome.measured))
