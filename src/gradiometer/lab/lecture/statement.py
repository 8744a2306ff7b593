"""A statement of the lecture: its claim, its experiments, and their result."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradiometer.jobs.job import Job
from gradiometer.jobs.pool import Here, Pool
from gradiometer.lab.lecture.experiment import (
    Circumstance,
    Experiment,
    ExperimentResult,
    measured,
    predicted,
)
from gradiometer.measurement.estimate import Estimate


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
    experiments: Callable[[], tuple[Experiment, ...]]
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
        return {
            "statement": self.statement.name,
            "claim": self.statement.claim,
            "predicted": _middle(ours),
            "predicted_low": ours.low,
            "predicted_high": ours.high,
            "measured": theirs.value,
            "low": theirs.low,
            "high": theirs.high,
            "held": self.held,
            "rival": self.real.rival[-1] if self.real.rival else None,
            "experiments": [_numbers(outcome) for outcome in self.outcomes],
        }


def run(statement: Statement) -> Iterator[ExperimentResult]:
    """First all predictions of a statement, then each one with its measurement."""
    outcomes = [predicted(experiment) for experiment in statement.experiments()]
    yield from outcomes
    for outcome in outcomes:
        yield measured(outcome)


def run_all(
    statements: Sequence[Statement], pool: Pool
) -> Iterator[tuple[Statement, Iterator[ExperimentResult]]]:
    """Each statement in order, with what `run` gives: in this process as it goes on, else when it
    is finished."""
    # In one process the predictions are shown before the measurements begin.
    if isinstance(pool, Here):
        yield from ((statement, run(statement)) for statement in statements)
        return
    # Only numbers are sent back: the lambdas of an experiment cannot be pickled.
    jobs = [Job(statement.name, _numbers_of, (statement,)) for statement in statements]
    for statement, numbers in zip(statements, pool.in_order(jobs), strict=True):
        later = [
            ExperimentResult(one, *its)
            for one, its in zip(statement.experiments(), numbers, strict=True)
        ]
        yield statement, iter([*(replace(outcome, measured=()) for outcome in later), *later])


def _numbers_of(
    statement: Statement,
) -> list[tuple[tuple[Estimate, ...], tuple[Estimate, ...], tuple[float, ...]]]:
    """Predicted and measured numbers of each experiment, and those of its wrong theory."""
    return [
        (outcome.predicted, outcome.measured, outcome.rival)
        for outcome in result(statement).outcomes
    ]


def result(statement: Statement) -> Result:
    """Predict and then measure all experiments of a statement."""
    return Result(statement, tuple(outcome for outcome in run(statement) if outcome.measured))


def _middle(estimate: Estimate) -> float:
    """The prediction as one number; for a bound, its finite end."""
    if math.isfinite(estimate.value):
        return estimate.value
    return estimate.low if math.isfinite(estimate.low) else estimate.high


def _numbers(outcome: ExperimentResult) -> dict[str, Any]:
    experiment = outcome.experiment
    return {
        **{
            name: str(getattr(experiment, name))
            for name in ("name", "setting", "where", "quantity", "dial")
        },
        "points": list(experiment.points),
        "predicted": [estimate.to_dict() for estimate in outcome.predicted],
        "measured": [estimate.to_dict() for estimate in outcome.measured],
        "claimed": list(experiment.claimed) or None,
        "rival": experiment.rival
        and {"says": experiment.rival.says, "values": list(outcome.rival)},
        "held": outcome.held,
    }
