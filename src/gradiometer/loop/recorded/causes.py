"""`SpikeCauses`: why the loss of a run spiked, from forks that start just before the spike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from gradiometer.drift.spikes.detection import Spike
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.changes.alternative import Rate, Skip
from gradiometer.loop.recorded.record import ForkRecord, forks_of
from gradiometer.measurement.estimate import significant
from gradiometer.run.reader import Run

# Updates before the spike, in which a smaller rate can act, and the fewest after it.
LEAD = 8

# Number of new orders of the data in which the spike is looked for.
ORDERS = 4

# A loss that rises at least by this share of the spike's rise is the spike again.
SHARE = 0.5

# A rise by a smaller share than this is not mentioned.
LOWER = 0.1

HALF = Rate(0.5)

AGAIN, SLOWER, OTHER_DATA, OTHER_SLOWER = (
    "again",
    "half the rate",
    "other data",
    "half the rate on other data",
)


@dataclass(frozen=True)
class CauseTrial:
    """What became of the spike in one kind of branch.

    Args:
        name: What was changed.
        peaks: The highest loss of each branch, or the highest mean of `SpikeCauses.window` losses;
            infinite if the branch diverged.
        spiked: Number of branches in which it rose at least half as high as in the run.
    """

    name: str
    peaks: tuple[float, ...]
    spiked: int

    @property
    def has_spike(self) -> bool:
        """True if the spike came in at least half of the branches."""
        return 2 * self.spiked >= len(self.peaks)


@dataclass(frozen=True)
class SpikeCauses:
    """Why a loss spiked.

    Clipping is a trial, but it does not decide the cause: it limits both a bad batch and an
    instability.

    Args:
        spike: The spike.
        step: Step that the branches start from.
        trials: What became of the spike in each kind of branch. The trial without the batches of
            the spike is left out if the run ends too soon after them.
        forks: Names of the forks in the run's folder.
        window: Number of successive losses whose mean shows the spike: 1, or its length if single
            losses before it were about as high.
    """

    spike: Spike
    step: int
    trials: tuple[CauseTrial, ...]
    forks: tuple[str, ...]
    window: int = 1

    @classmethod
    def of(cls, run: Run, spike: Spike, own: ForkRecord, other: ForkRecord) -> "SpikeCauses":
        """From a finished fork on the run's own batches and one on new orders of the data."""
        kept, names = own.fork, {own.fork.names[0]: AGAIN, HALF.name: SLOWER}
        tried = [(names.get(name, name), kept.of(name)) for name in kept.names]
        tried += [
            (OTHER_DATA, other.fork.of(other.fork.names[0])),
            (OTHER_SLOWER, other.fork.of(HALF)),
        ]
        window, high = _threshold(run, spike, own.fork.of(own.fork.names[0])[0].updates)
        needed = spike.peak + 1 - own.plan.step
        trials = tuple(
            _trial(name, results, window, high)
            for name, results in tried
            if name != skipping(spike).name
            or results[0].diverged is not None
            or results[0].updates >= needed
        )
        return cls(spike, own.plan.step, trials, (own.name, other.name), window)

    @property
    def cause(self) -> str:
        """ "these batches", "instability", "both", "chance" or "unknown"."""
        came = {trial.name: trial.has_spike for trial in self.trials}
        if not came[AGAIN]:
            return "chance"
        without = came.get(skipping(self.spike).name)
        if not came[SLOWER]:
            return "instability" if without or came[OTHER_DATA] else "both"
        if without is False:
            return "these batches"
        return "instability" if came[OTHER_DATA] else "unknown"

    @property
    def words(self) -> str:
        """The cause with its evidence, and what to do."""
        came = {trial.name: trial.has_spike for trial in self.trials}
        shown = [
            name for name in came if name != AGAIN and (name != OTHER_SLOWER or came[OTHER_DATA])
        ]
        lower = [
            trial.name for trial in self.trials if trial.name in shown and self._is_lower(trial)
        ]
        gone = [name for name in shown if not came[name] and name not in lower]
        said = [f"It did not come with {' or '.join(gone)}."] if gone else []
        said += [f"It came less than half as high with {' or '.join(lower)}."] if lower else []
        said = said or ["It came in all other branches too."]
        return " ".join([_WORDS[self.cause], *(said if self.cause != "chance" else ())])

    def _is_lower(self, trial: CauseTrial) -> bool:
        """True if single losses rose in half of the branches, but not by `SHARE` of the rise in the
        run."""
        risen = self.spike.level + LOWER * (self.spike.height - self.spike.level)
        high = sum(peak >= risen for peak in trial.peaks)
        return self.window == 1 and not trial.has_spike and 2 * high >= len(trial.peaks)

    @property
    def sentence(self) -> str:
        """The spike, and its cause in words."""
        spike = self.spike
        where = (
            f"step {spike.first:,}"
            if spike.length == 1
            else f"steps {spike.first:,} to {spike.last:,}"
        )
        return (
            f"The loss spiked from {significant(spike.level)} to {significant(spike.height)} at "
            f"{where}. {self.words}"
        )


_WORDS = {
    "these batches": (
        "Cause: these batches. Look at their examples; without them the loss does not rise."
    ),
    "instability": (
        "Cause: instability. The rate was too high for the curvature there, whatever the batch."
    ),
    "both": "Cause: these batches at this rate. Either a smaller rate or other batches avoid it.",
    "chance": "Cause: chance. The same batches from the same state did not bring it again.",
    "unknown": (
        "Cause: not found. Half the rate does not avoid it, and other data do: look also at the "
        "batches before."
    ),
}


def skipping(spike: Spike) -> Skip:
    """The alternative without the batches of a spike."""
    return Skip(spike.first, spike.last + 1)


def start_of(spike: Spike) -> int:
    """Step that the branches start from."""
    return max(spike.first - LEAD, 0)


def causes_of(run: Run, spike: Spike) -> SpikeCauses | None:
    """Why a loss spiked, from the newest forks of the run that have tried it; None if it was not
    tried.

    Args:
        run: The run.
        spike: One of its spikes.
    """
    at_it = [
        record
        for record in reversed(forks_of(run))
        if record.finished
        and (record.plan.step, record.plan.tail) == (start_of(spike), "none")
        and len(record.fork.results) == len(record.plan.branches)
    ]
    for own in at_it:
        if own.plan.replicates != 1 or not {skipping(spike), HALF} <= set(own.plan.alternatives):
            continue
        for other in at_it:
            plan = other.plan
            if (plan.alternatives, plan.replicates, plan.horizon) == (
                (HALF,),
                ORDERS,
                own.plan.horizon,
            ):
                return SpikeCauses.of(run, spike, own, other)
    return None


def _threshold(run: Run, spike: Spike, updates: int) -> tuple[int, float]:
    """The number of losses whose mean shows the spike, and the mean from which on it is the spike.

    The losses before it, as many as branches on new orders have, show how high noise comes.
    """
    steps, losses = run.losses
    known = np.isfinite(losses)
    before = losses[known & (steps < spike.first)][-ORDERS * updates :]
    inside = losses[known & (steps >= spike.first) & (steps <= spike.last)]
    for window in (1, spike.length):
        noise, risen = _highest_mean(before, window), _highest_mean(inside, window)
        high = spike.level + SHARE * (risen - spike.level)
        if noise < high:
            return window, high
    return window, max(noise, high) if noise < risen else high


def _trial(name: str, results: Sequence[BranchResult], window: int, high: float) -> CauseTrial:
    peaks = tuple(_peak(result, window) for result in results)
    return CauseTrial(name, peaks, sum(peak >= high for peak in peaks))


def _peak(result: BranchResult, window: int) -> float:
    """The highest mean of so many losses. A point of the curve of a long branch is a mean of
    several losses."""
    if result.diverged is not None:
        return math.inf
    if window == 1:
        return result.highest
    points = np.array([loss for _, loss in result.curve])
    return _highest_mean(points, round(window * len(points) / max(result.updates, 1)))


def _highest_mean(losses: Float[np.ndarray, " losses"], window: int) -> float:
    """The highest mean of so many successive losses, or of all if there are fewer; NaN
    without any."""
    if not len(losses):
        return math.nan
    return float(sliding_window_view(losses, min(max(window, 1), len(losses))).mean(axis=1).max())
