"""`spike_causes`: why the loss of a run spiked, from branches that start just before the spike."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gradiometer.drift.spikes.cause import usual_norms
from gradiometer.drift.spikes.detection import Spike
from gradiometer.errors import BadArgument
from gradiometer.estimation.noise import GradientNoise
from gradiometer.forks.branch import BranchResult
from gradiometer.forks.recorded.growing import Progress
from gradiometer.forks.recorded.plan import Plan
from gradiometer.jobs.pool import Pool
from gradiometer.measurement.estimate import counted, significant
from gradiometer.problems.problem import Problem
from gradiometer.run.reader import Run
from gradiometer.run.spikes import spikes_of
from gradiometer.train.forking.run_fork import fork_run

LEAD = 8
"""Updates before the spike, in which a smaller rate can act, and after it."""

ORDERS = 4
"""Number of new orders of the data in which the spike is looked for."""

AGAIN, SLOWER, OTHER_DATA = "again", "half the rate", "other data"


@dataclass(frozen=True)
class Trial:
    """What became of the spike in one kind of branch.

    Args:
        name: What was changed.
        peaks: The highest loss of each branch; infinite if it diverged.
        spiked: Number of branches whose loss rose at least half as high as the spike.
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

    Args:
        spike: The spike.
        step: Step that the branches start from.
        trials: What became of the spike in each kind of branch.
        forks: Names of the forks in the run's folder.
    """

    spike: Spike
    step: int
    trials: tuple[Trial, ...]
    forks: tuple[str, ...]

    @property
    def cause(self) -> str:
        """ "these batches", "instability", "both", "chance" or "unknown"."""
        came = {trial.name: trial.has_spike for trial in self.trials}
        if not came[AGAIN]:
            return "chance"
        needs_batches, needs_rate = not came[self.skipping], not came[SLOWER]
        if needs_batches and needs_rate:
            return "both"
        if needs_batches:
            return "these batches"
        return "instability" if needs_rate or came[OTHER_DATA] else "unknown"

    @property
    def skipping(self) -> str:
        """Name of the trial without the batches of the spike."""
        return skipping(self.spike)

    @property
    def sentence(self) -> str:
        """The cause with its evidence, and what to do."""
        spike = self.spike
        where = f"step {spike.first:,}" if spike.length == 1 else f"steps {spike.first:,} to {spike.last:,}"
        seen = f"The loss spiked from {significant(spike.level)} to {significant(spike.height)} at {where}."
        gone = [trial.name for trial in self.trials if trial.name != AGAIN and not trial.has_spike]
        without = f"It did not come with {' or '.join(gone)}." if gone else "It came in all other branches too."
        return f"{seen} {_WORDS[self.cause]} {without if self.cause != 'chance' else ''}".strip()


_WORDS = {
    "these batches": "Cause: these batches. Look at their examples; without them the loss does not rise.",
    "instability": "Cause: instability. The rate was too high for the curvature there, whatever the batch.",
    "both": "Cause: these batches at this rate. Either a smaller rate or other batches avoid it.",
    "chance": "Cause: chance. The same batches from the same state did not bring it again.",
    "unknown": "Cause: not found. Neither other batches nor half the rate avoid it.",
}


def skipping(spike: Spike) -> str:
    """Name of the alternative without the batches of a spike."""
    return f"skip {spike.first}:{spike.last + 1}"


def spike_causes(
    run: Run,
    step: int,
    *,
    pool: Pool | str = "here",
    seed: int = 0,
    problem: Problem | None = None,
    begin: Callable[[Plan], object] | None = None,
    progress: Progress | None = None,
) -> SpikeCauses:
    """Why the loss spiked at a step: branches from 8 updates before, on the same batches and on others.

    On the run's own batches: again as it was, without the batches of the spike, at half the rate and, if the norms of
    gradients were measured, clipped to their usual norm. On four new orders of the data: as it was. A smaller rate
    cannot lower the loss of a bad batch before the update, but it prevents a rise that the updates before have made.

    Args:
        run: The run.
        step: A step of the spike.
        pool: Where the branches are trained.
        seed: Seed of the new orders.
        problem: The problem of the run, if it is loaded already.
        begin: Called with the plan before the first branch of each of two forks.
        progress: Called after every branch.

    Raises:
        BadArgument: The loss has no spike there.
    """
    spike = _spike_at(run, step)
    at = max(spike.first - LEAD, 0)
    steps = int(run.manifest["steps"])
    horizon = f"{min(spike.last + 1 + LEAD, steps) - at} updates"
    settings = {"at": at, "horizon": horizon, "seed": seed, "problem": problem, "begin": begin, "progress": progress}
    changes = [skipping(spike), "rate 0.5x", *_clipping(run, spike)]
    own = fork_run(run, changes, replicates=1, tail="none", pool=pool, **settings)  # type: ignore[arg-type]
    other = fork_run(run, ["rate 0.5x"], replicates=ORDERS, tail="none", pool=pool, **settings)  # type: ignore[arg-type]
    names = {"go on": AGAIN, "rate 0.5x": SLOWER}
    kept = own.record.fork
    trials = [_trial(names.get(name, name), kept.of(name), spike) for name in kept.names]
    trials.append(_trial(OTHER_DATA, other.record.fork.of("go on"), spike))
    return SpikeCauses(spike, at, tuple(trials), (own.record.name, other.record.name))


def _spike_at(run: Run, step: int) -> Spike:
    found = spikes_of(run)
    for spike in found:
        if spike.first <= step <= spike.last:
            return spike
    if not found:
        raise BadArgument(f"`spike` is {step:,}, but the loss of `{run.path}` has no spike.")
    places = ", ".join(f"{spike.peak:,}" for spike in found[:8])
    raise BadArgument(
        f"`spike` is {step:,}, where the loss has none: {counted(len(found), 'spike')} found, at {places}."
    )


def _clipping(run: Run, spike: Spike) -> list[str]:
    """Clipping to the usual norm of a batch's gradient before the spike, if it was measured."""
    series = run.series(GradientNoise.name)
    usual = None if series is None else usual_norms(spike.first, series)
    norm = 0.0 if usual is None else math.sqrt(max(float(np.sum(usual)), 0.0))
    return [f"clip {float(f'{norm:.2g}'):g}"] if norm > 0 else []


def _trial(name: str, results: Sequence[BranchResult], spike: Spike) -> Trial:
    high = spike.level + (spike.height - spike.level) / 2
    peaks = tuple(math.inf if result.diverged else max(loss for _, loss in result.curve) for result in results)
    return Trial(name, peaks, sum(peak >= high for peak in peaks))
