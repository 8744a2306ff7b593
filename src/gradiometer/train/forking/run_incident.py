"""Why the loss of a run went wrong: its updates made again, each time with something left out."""

from collections.abc import Sequence

import numpy as np

from gradiometer.arguments import check_whole
from gradiometer.drift.spikes.detection import Spike
from gradiometer.errors import BadArgument
from gradiometer.loop.incident_cause import cause_of, rise_of_rate
from gradiometer.loop.recorded.incidents import (
    BEFORE,
    LEAD,
    IncidentCause,
    incident_at,
    spikes_of,
)
from gradiometer.measurement.estimate import counted
from gradiometer.problems.problem import Problem
from gradiometer.run.artifacts import save_artifact
from gradiometer.run.problem import configuration_of
from gradiometer.run.reader import Run
from gradiometer.train.restoring import loop_at


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


def _found_at(spikes: Sequence[Spike]) -> str:
    """How many spikes there are, and the steps of the first ones, as a part of a sentence."""
    places = ", ".join(f"{spike.peak:,}" for spike in spikes[:8])
    return f"{counted(len(spikes), 'spike')} found, at {places}"
