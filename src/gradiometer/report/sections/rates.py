"""The learning rate over a run: from the schedule, from the schedule and the forks, or
as measured."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from gradiometer.convergence.plateau.noise_floor import FINISH
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.convergence.theorem.theorem import TheoremVerdict, theorem
from gradiometer.errors import BadArgument
from gradiometer.run.configuration import Configuration
from gradiometer.run.planned import planned
from gradiometer.run.reader import Run

COOLED = 0.01
"""A last rate below this share of the largest counts as zero, because the floor of the loss is
proportional to η."""
SUMMED = 100_000
"""Maximum number of steps in a sum over a schedule. A longer run uses evenly spaced steps."""


@dataclass(frozen=True)
class RateCurve:
    """The learning rate over a run.

    Args:
        steps: Steps, evenly spaced unless the rates were measured.
        values: η at these steps, constant up to the next one.
        end: η at the step after the last if it is known: a linear schedule reaches zero only there.
        total: T, the number of steps of the run.
        now: The current step.
        source: Source of the rates: `GIVEN`, `FORKED` or `MEASURED`.
        schedule: The schedule, if all rates come from it.
        verdict: The theorem's verdict on the schedule.
    """

    steps: Int[np.ndarray, " steps"]
    values: Float[np.ndarray, " steps"]
    end: float
    total: int
    now: int
    source: str
    schedule: Schedule | None = None
    verdict: TheoremVerdict | None = None

    @property
    def planned(self) -> bool:
        """True if every rate up to the end of the run is known."""
        return self.source != MEASURED

    @property
    def reaches_zero(self) -> bool:
        """True if η is below a hundredth of its peak at the last step or the step after it."""
        return bool(min(self.values[-1], self.end) < COOLED * self.values.max())

    def sums(self, start: int = 0) -> tuple[float, float]:
        """Σ η and Σ η² from a step to the end of the run."""
        first = max(int(np.searchsorted(self.steps, start, side="right")) - 1, 0)
        steps, values = self.steps[first:], self.values[first:]
        counts = np.diff(steps, append=self.total)
        counts[0] = max(counts[0] - max(start - steps[0], 0), 0)
        weighted = counts * values
        return float(weighted.sum()), float(weighted @ values)


GIVEN = "from the schedule"
FORKED = "from the schedule and the forks"
MEASURED = "as recorded"


def rates_of(run: Run) -> RateCurve | None:
    """The rates from schedule and forks if they agree with the measured ones, else the measured
    ones, if any."""
    total, measured = run.manifest.get("steps"), _measured(run)
    configuration = run.configuration
    if total is None or not isinstance(configuration, Configuration):
        return measured
    schedule = planned(configuration, total)
    steps = np.arange(0, total, -(-total // SUMMED))
    try:
        values = np.array([schedule(int(step)) for step in steps])
        end = schedule(total)
    except BadArgument:  # the schedule gives an invalid rate, which training reports
        return measured
    if not values.max() > 0:
        return None
    now = min(run.steps, total)
    if configuration.cool == "auto":
        begins = _begins(run, total)
        left = np.clip((total - steps - 0.5) / max(total - begins, 1), 0.0, 1.0)
        values = values * np.where(steps < begins, 1.0, left)
        made = RateCurve(steps, values, 0.0 if begins < total else end, total, now, FORKED)
    else:
        made = RateCurve(steps, values, end, total, now, GIVEN, schedule, _verdict(schedule))
    return made if measured is None or _agree(made, measured) else measured


def _begins(run: Run, total: int) -> int:
    """The step from which a run that cools itself goes to zero, as far as it is decided."""
    decided = [event["begins"] for event in run.events if event["event"] == "cooling"]
    if not decided:
        return total - int(FINISH * total)
    return total if decided[-1] is None else int(decided[-1])


def _agree(made: RateCurve, measured: RateCurve) -> bool:
    """True if the measured rates equal the planned ones at the steps that both have."""
    places = np.searchsorted(made.steps, measured.steps, side="right") - 1
    exact = made.steps[places] == measured.steps
    return np.allclose(made.values[places][exact], measured.values[exact], rtol=1e-6)


def _measured(run: Run) -> RateCurve | None:
    """η as it was recorded: the largest one of the groups."""
    settings = run.hyperparameters
    if settings is None or not (settings.recorded and settings.rates.max() > 0):
        return None
    steps = np.array(settings.steps, dtype=np.int64)
    total = max(run.steps, int(steps[-1]), 1)
    return RateCurve(steps, settings.rates, float(settings.rates[-1]), total, run.steps, MEASURED)


@lru_cache(maxsize=64)
def _verdict(schedule: Schedule) -> TheoremVerdict:
    """Cached, because a formula may take a second."""
    return theorem(schedule)
