"""What a statement is put to: an experiment whose prediction is drawn before its measurement."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate

LEVEL = 0.999
"""Of the intervals of the lecture: more than a hundred are compared, and none should miss by chance."""


class Setting(StrEnum):
    """What an experiment is made on, and what for."""

    KNOWN = "a known answer"
    """A problem small enough to have a closed form."""
    REAL = "a real network, real data"
    FAILS = "where it fails"
    """A setting outside of the claim: something else is predicted there, and why."""


@dataclass(frozen=True)
class Experiment:
    """A quantity along a dial: what is predicted at each of its points, and what is measured there.

    Args:
        name: Unique within its statement: its place on the page, and its picture's file name.
        setting: What it is made on.
        where: The problem, in words: "the one-dimensional example".
        quantity: What is predicted and measured, with its symbol.
        dial: What is turned, with its symbol.
        points: The dial's positions, in increasing order.
        predict: The prediction at each point: exact, or an interval where it rests on measured numbers or is a bound.
        measure: The measurement at each point.
        says: The prediction in a sentence; where the claim fails, why.
        claimed: What the claim would say at each point, where it fails: the measurement has to exclude it.
        log_dial: Whether the dial is drawn on a logarithmic axis.
        log: Whether the quantity is.
    """

    name: str
    setting: Setting
    where: str
    quantity: str
    dial: str
    points: Sequence[float] | Sequence[int]
    predict: Callable[[], Sequence[Estimate]]
    measure: Callable[[], Sequence[Estimate]]
    says: str
    claimed: Sequence[float] | None = None
    log_dial: bool = True
    log: bool = True

    def __post_init__(self) -> None:
        if not len(self.points) >= 1:
            raise BadArgument(f"`points` of {self.name} is empty: a dial has at least one position.")


@dataclass(frozen=True)
class Outcome:
    """An experiment with its prediction and, once made, its measurement."""

    experiment: Experiment
    predicted: tuple[Estimate, ...]
    measured: tuple[Estimate, ...] = ()

    @property
    def points_held(self) -> tuple[bool, ...]:
        """Per point: the interval measured meets what was predicted and, where the claim fails, excludes the claim."""
        claimed: Sequence[float | None] = self.experiment.claimed or [None] * len(self.predicted)
        return tuple(
            meets(ours, theirs) and (claim is None or not bool(theirs.low <= claim <= theirs.high))
            for ours, theirs, claim in zip(self.predicted, self.measured, claimed, strict=True)
        )

    @property
    def held(self) -> bool:
        """Whether every point held; nothing holds before it is measured."""
        return bool(self.measured) and all(self.points_held)


def predicted(experiment: Experiment) -> Outcome:
    """The experiment with its prediction only."""
    return Outcome(experiment, _checked(experiment, "predict", experiment.predict()))


def measured(outcome: Outcome) -> Outcome:
    """The same with its measurement."""
    experiment = outcome.experiment
    return Outcome(experiment, outcome.predicted, _checked(experiment, "measure", experiment.measure()))


def meets(predicted: Estimate, measured: Estimate) -> bool:
    """Whether the two intervals have a number in common; what tells nothing meets nothing.

    Exact numbers on both sides are compared to nine digits, since they are computed in different ways.
    """
    slack = 1e-9 * abs(predicted.value) if predicted.method == measured.method == "exact" else 0.0
    return bool(measured.tells and predicted.low - slack <= measured.high and measured.low <= predicted.high + slack)


def _checked(experiment: Experiment, which: str, estimates: Sequence[Estimate]) -> tuple[Estimate, ...]:
    if len(estimates) != len(experiment.points):
        raise BadArgument(
            f"`{which}` of {experiment.name} gave {len(estimates)} estimates for {len(experiment.points)} points."
        )
    return tuple(estimates)
