"""The learning rate over a run: as the schedule gives it, as cooling changed it, or as it was measured."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from gradiometer.convergence.plateau.noise_floor import CUT, FINISH
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.convergence.theorem.theorem import Verdict, theorem
from gradiometer.errors import BadArgument
from gradiometer.run.planned import planned
from gradiometer.run.reader import Run

COOLED = 0.01
"""A last rate below this share of the largest counts as zero: the floor of the loss goes with η."""
SUMMED = 100_000
"""Steps of a schedule that are added up one by one; of a longer run one in so many."""


@dataclass(frozen=True)
class Rates:
    """The learning rate over a run.

    Args:
        steps: Steps, evenly spaced unless they are measured ones, and
        values: η there, which holds up to the next.
        end: η at the step after the last, where it is known: a linear fall is over only then.
        total: T, the steps of the run.
        now: The step it has come to.
        source: Where the rates come from, in words.
        schedule: The schedule, where it alone gives them.
        verdict: What the theorem says of it.
    """

    steps: Int[np.ndarray, " steps"]
    values: Float[np.ndarray, " steps"]
    end: float
    total: int
    now: int
    source: str
    schedule: Schedule | None = None
    verdict: Verdict | None = None

    @property
    def planned(self) -> bool:
        """Whether every rate to the end of the run is known."""
        return self.source != MEASURED

    @property
    def reaches_zero(self) -> bool:
        """Whether η ends below a hundredth of its peak, or would at the step after the last."""
        return bool(min(self.values[-1], self.end) < COOLED * self.values.max())

    def sums(self, start: int = 0) -> tuple[float, float]:
        """Σ η and Σ η² from a step to the end of the run."""
        first = max(int(np.searchsorted(self.steps, start, side="right")) - 1, 0)
        steps, values = self.steps[first:], self.values[first:]
        held = np.diff(steps, append=self.total)
        held[0] = max(held[0] - max(start - steps[0], 0), 0)
        weighted = held * values
        return float(weighted.sum()), float(weighted @ values)


GIVEN = "as the schedule gives it"
CUTS = "as the schedule and the cuts made of it"
MEASURED = "as it was at the measured steps"


def rates_of(run: Run) -> Rates | None:
    """As the schedule and cooling give them; in a loop of one's own as they were measured. None where there is none."""
    total, measured = run.manifest.get("steps"), _measured(run)
    if not isinstance(total, int) or not total >= 1:
        return measured
    schedule = planned(run.configuration, total)
    steps = np.arange(0, total, -(-total // SUMMED))
    try:
        values = np.array([schedule(int(step)) for step in steps])
        end = schedule(total)
    except BadArgument:  # a rate that is none: training says so
        return measured
    if not values.max() > 0:
        return None
    now = min(run.steps, total)
    if run.configuration.cool == "auto":
        made = Rates(steps, values * _cooling(run, steps, total), 0.0, total, now, CUTS)
    else:
        made = Rates(steps, values, end, total, now, GIVEN, schedule, _verdict(schedule))
    return made if measured is None or _agree(made, measured) else measured


def _cooling(run: Run, steps: Int[np.ndarray, " steps"], total: int) -> Float[np.ndarray, " steps"]:
    """What cuts and the linear end leave of the schedule's rate."""
    begun = [int(event["begins"]) for event in run.events if event["event"] == "finish"]
    finish = begun[-1] if begun else total - int(FINISH * total)
    left = np.clip((total - steps) / (total - finish), None, 1.0) if finish < total else np.ones(len(steps))
    for event in run.events:
        if event["event"] == "cut":
            left = left * np.where(steps >= event["step"], CUT, 1.0)
    factors: np.ndarray = left
    return factors


def _agree(made: Rates, measured: Rates) -> bool:
    """Whether measured rates are what was planned; of a long run, at the steps that were looked at."""
    places = np.searchsorted(made.steps, measured.steps, side="right") - 1
    exact = made.steps[places] == measured.steps
    return np.allclose(made.values[places][exact], measured.values[exact], rtol=1e-6)


def _measured(run: Run) -> Rates | None:
    """η at the steps the most frequent gauge was asked."""
    series = max((found for name in run.gauges if (found := run.series(name))), key=len, default=None)
    if series is None or not series.learning_rate.max() > 0:
        return None
    total = max(run.steps, int(series.steps[-1]) + 1)
    last = float(series.learning_rate[-1])
    return Rates(series.steps, series.learning_rate, last, total, run.steps, MEASURED)


@lru_cache(maxsize=64)
def _verdict(schedule: Schedule) -> Verdict:
    """Decided once: a formula may take a second."""
    return theorem(schedule)
