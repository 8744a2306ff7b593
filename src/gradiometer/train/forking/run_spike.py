"""Why the loss of a run went wrong: `spike_causes`, from branches that start just before a spike,
and `incident_cause`, from its updates made again with less and less left out."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from gradiometer.arguments import check_whole
from gradiometer.drift.spikes.cause import usual_norms
from gradiometer.drift.spikes.detection import Spike
from gradiometer.errors import BadArgument
from gradiometer.estimation.noise import GradientNoise
from gradiometer.jobs.pool import Pool
from gradiometer.loop.changes.alternative import Clip
from gradiometer.loop.forking import Progress, fork
from gradiometer.loop.incident_cause import cause_of, rise_of_rate
from gradiometer.loop.recorded.incidents import (
    BEFORE,
    HALF,
    LEAD,
    ORDERS,
    IncidentCause,
    SpikeCauses,
    incident_at,
    skipping,
    spikes_of,
    start_of,
)
from gradiometer.loop.recorded.record import ForkRecord, Plan
from gradiometer.measurement.estimate import counted
from gradiometer.problems.problem import Problem
from gradiometer.run.artifacts import save_artifact
from gradiometer.run.problem import configuration_of
from gradiometer.run.reader import Run
from gradiometer.train.restoring import loop_at


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
    """Why the loss spiked at a step: branches from 8 updates before, on the same batches and on
    others.

    On the run's own batches: again as it was, without the batches of the spike, at half the rate
    and, if the norms of gradients were measured, clipped to their usual norm. On four new orders of
    the data: as it was, and at half the rate. A smaller rate cannot lower the loss of a bad batch
    before the update, but it prevents a rise that the updates before have made. In the last steps
    of an epoch the new orders hold the examples of the spike again.

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
    configuration_of(run, "fork")
    check_whole("step", step, 0)
    spike = _spike_at(run, step)
    loop = loop_at(run, start_of(spike), problem=problem)
    assert loop.left is not None
    series = run.series(GradientNoise.name)
    usual = None if series is None else usual_norms(spike.first, series)
    norm = 0.0 if usual is None else math.sqrt(max(float(np.sum(usual)), 0.0))
    clipping = [Clip(float(f"{norm:.2g}"))] if 0 < norm < math.inf else []
    # Without its batches, an instability needs as many updates more to rise.
    wanted = spike.last + 1 - loop.index + max(spike.length, LEAD)
    tried = partial(
        fork,
        loop,
        horizon=f"{min(wanted, loop.left // loop.size)} updates",
        tail="none",
        seed=seed,
        pool=pool,
        threads=run.configuration.threads,
        out=run.path,
        begin=begin,
        progress=progress,
    )
    own = tried([skipping(spike), HALF, *clipping], replicates=1)
    other = tried([HALF], replicates=ORDERS)
    return SpikeCauses.of(run, spike, ForkRecord.of(own), ForkRecord.of(other))


def incident_cause(run: Run, step: int, *, problem: Problem | None = None) -> IncidentCause:
    """Why the loss went wrong at a step: an example, a batch, the rate or a layer. It is kept in
    the run, for its findings.

    Updates from before are made again on copies, each time with something left out, until what is
    left is the cause.

    Args:
        run: A run of `train`.
        step: A step of the incident, or near it.
        problem: The problem of the run, if it is loaded already.

    Raises:
        BadArgument: The loss did not rise there.
    """
    configuration_of(run, "fork")
    check_whole("step", step, 0)
    incident = incident_at(run, step)
    if incident is None:
        spikes = spikes_of(run)
        seen = f": {_found_at(spikes)}" if spikes else ""
        raise BadArgument(
            f"`spike` is {step:,}, where the loss of `{run.path}` did not rise{seen}."
        )
    loop = loop_at(run, max(incident.first - LEAD, 0), problem=problem)
    rose = None
    known = run.hyperparameters
    if known is not None:
        ends = [max(incident.first - BEFORE, 0), incident.first]
        first, last = np.searchsorted(known.steps, ends, side="right") - 1
        rose = rise_of_rate(known.rates[max(int(first), 0) : int(last) + 1])
    found = cause_of(loop, incident, rose)
    save_artifact(run, found)
    return found


def _spike_at(run: Run, step: int) -> Spike:
    found = spikes_of(run)
    for spike in found:
        if spike.first <= step <= spike.last:
            return spike
    if not found:
        raise BadArgument(f"`spike` is {step:,}, but the loss of `{run.path}` has no spike.")
    raise BadArgument(f"`spike` is {step:,}, where the loss has none: {_found_at(found)}.")


def _found_at(spikes: Sequence[Spike]) -> str:
    """How many spikes there are, and the steps of the first ones, as a part of a sentence."""
    places = ", ".join(f"{spike.peak:,}" for spike in spikes[:8])
    return f"{counted(len(spikes), 'spike')} found, at {places}"
