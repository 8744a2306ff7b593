"""The loss that a training without a given length would have if its rate went to zero now: forecast and scored."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gradiometer.convergence.plateau.noise_floor import FINISH, if_cooled
from gradiometer.loop.branches import Fork
from gradiometer.loop.changes.alternative import GoOn
from gradiometer.loop.changes.rates import Hold
from gradiometer.measurement.estimate import Estimate
from gradiometer.run.folder import RunFolder
from gradiometer.train.averaged import evaluated
from gradiometer.train.forking.cooling_fork import READOUT, fork_here, name_of
from gradiometer.train.forking.run_loop import loop_under_way
from gradiometer.train.training import Training

FIRST = 64
"""Step of the first forecast. The others follow at twice the step each, so that no length needs to be known."""

REPLICATES = 2
"""Data orders of each branch."""


@dataclass(frozen=True)
class CooledForecast:
    """A forecast, and what a fork has made of it.

    Args:
        averaged: The training loss at the averaged point.
        forecast: The loss if the rate went to zero over the next fifth of the steps so far; None at the first look.
        fork: Name of the fork that scores it; None if the budget does not pay for one.
        seen: Mean loss of its branches that were cooled; None without a fork.
        going_on: Mean loss of its branches that went on, at the averaged point.
        spent: What all forks have cost so far, in updates.
    """

    EVENT: ClassVar[str] = "cooled forecast"

    averaged: float
    forecast: Mapping[str, Any] | None
    fork: str | None
    seen: float | None
    going_on: float | None
    spent: float


class CooledForecasts:
    """Forecasts at steps 64, 128, 256, …, each scored by a fork if the budget pays for it.

    Args:
        budget: What the forks may cost, in units of the steps so far.
        steps: Most steps of the training.
    """

    def __init__(self, budget: float, steps: int) -> None:
        self.budget, self.steps, self.spent = budget, steps, 0.0
        self.asked: int | None = None
        self.before: tuple[int, float] | None = None

    def asks(self, step: int) -> bool:
        """True if there is a forecast to make before this step."""
        looks = step >= FIRST and step % FIRST == 0 and (step // FIRST).bit_count() == 1
        return looks and step != self.asked and step + length(step) <= self.steps

    def pass_over(self, events: Iterable[Mapping[str, Any]], step: int) -> None:
        """Take in the forecasts before a step that a training is resumed at."""
        for event in events:
            if event["event"] == CooledForecast.EVENT and event["step"] < step:
                self.before, self.spent = (event["step"], event["averaged"]), event["spent"]

    def decided(self, training: Training, folder: RunFolder, is_stopped: Callable[[], bool]) -> CooledForecast:
        """Make the forecast at the present step of a training, whose state is afterwards as before.

        A fork that was stopped continues from its finished branches.

        Args:
            training: The training.
            folder: The run, in which the fork is kept.
            is_stopped: True if the run was asked to stop.

        Raises:
            Stopped: The run was asked to stop, and the branches that are finished are kept.
            GradiometerError: A branch failed.
        """
        step, seed = training.step, training.configuration.seed
        loop = loop_under_way(training, seed)
        with evaluated(training):
            averaged = loop.readouts(training.model)[READOUT].mean
        known, self.before, self.asked = self.before, (step, averaged), step
        forecast = None
        if known is not None and 2 * known[0] == step and math.isfinite(averaged) and math.isfinite(known[1]):
            forecast = if_cooled(averaged, known[1], level=training.configuration.level)
        cost = 2 * REPLICATES * length(step)
        if forecast is None or self.spent + cost > self.budget * step:
            return CooledForecast(averaged, _dict(forecast), None, None, None, self.spent)
        found = fork_here(
            training, (Hold(0.0),), REPLICATES, until=step + length(step), tail="none", folder=folder,
            is_stopped=is_stopped,
        )  # fmt: skip
        self.spent += cost
        cooled, on = (_mean(found, name) for name in (Hold(0.0).name, GoOn().name))
        return CooledForecast(averaged, _dict(forecast), name_of(found), cooled, on, self.spent)


def length(step: int) -> int:
    """Steps in which the rate goes to zero, after so many."""
    return max(round(FINISH * step), 1)


def _mean(found: Fork, name: str) -> float | None:
    losses = [result.readouts[READOUT].mean for result in found.of(name) if result.diverged is None]
    return sum(losses) / len(losses) if losses else None


def _dict(forecast: Estimate | None) -> dict[str, Any] | None:
    return None if forecast is None else forecast.to_dict()
