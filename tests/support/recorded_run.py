"""Gauges without a model, and a short training loop that a recorder writes."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gradiometer.measurement import Estimates, Finding, Gauge, Issue, Moments, Series
from gradiometer.measurement.gauge import NOTHING_KNOWN, RunFacts
from gradiometer.run import Configuration, Run
from gradiometer.run.budget import READINGS
from gradiometer.run.recorder import Recorder


@dataclass(frozen=True)
class Step:
    index: int
    batch_size: int = 32
    learning_rate: float = 0.1


@dataclass(frozen=True)
class Square(Gauge):
    """The square of the step, and a moment per layer."""

    name: ClassVar[str] = "square"
    one_in: ClassVar[int] = 1
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = ""

    def measure(self, step: Any) -> Moments:
        return {"square": float(step.index**2), "layers": [float(step.index), 0.1]}

    def estimate(self, series: Series, level: float = 0.9) -> Estimates:
        return {}

    def judge(self, estimates: Estimates, run: RunFacts = NOTHING_KNOWN) -> Finding | None:
        return None


@dataclass(frozen=True)
class Dear(Square):
    """Asked at one in sixteen steps that others measure."""

    name: ClassVar[str] = "dear"
    one_in: ClassVar[int] = 16


@dataclass(frozen=True)
class Wild(Square):
    """Not finite at every third step."""

    name: ClassVar[str] = "wild"
    one_in: ClassVar[int] = 1

    def measure(self, step: Any) -> Moments:
        value = (math.nan, math.inf, 1.0)[step.index % 3]
        return {
            "value": 1.0 if step.index % 3 else value,
            "layers": [1.0, -math.inf if step.index % 3 == 1 else 2.0],
        }


MANIFEST = {
    "configuration": Configuration().to_dict(),
    "sampling": {"draw": "reshuffled", "examples": 1437},
    "layers": ["weight", "bias"],
}


def loss_at(step: int) -> float:
    return 1 / (step + 1)


def train(recorder: Recorder, first: int, last: int) -> None:
    for step in range(first, last):
        if recorder.due(step):
            with recorder.budget.spending(READINGS):
                recorder.measure(Step(step))
        recorder.loss(step, loss_at(step))


def check_whole(run: Run, steps: int) -> None:
    """Every loss and every reading of every step, once, as it was."""
    seen, losses = run.losses
    assert np.array_equal(seen, np.arange(steps)) and np.array_equal(
        losses, [loss_at(step) for step in range(steps)]
    )
    series = run.series("square")
    assert series is not None
    assert np.array_equal(series.steps, np.arange(steps))
    assert np.array_equal(series.moments["square"], np.arange(steps) ** 2.0)
    assert np.array_equal(series.moments["layers"][:, 0], np.arange(steps))
