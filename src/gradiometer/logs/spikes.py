"""Spikes of the loss in a log."""

from dataclasses import replace
from functools import partial

import numpy as np

from gradiometer.drift.spikes.cause import explain
from gradiometer.drift.spikes.detection import find_spikes
from gradiometer.drift.spikes.finding import spikes_finding
from gradiometer.logs.log import Log
from gradiometer.measurement.finding import Finding

GAUGE = "log_spikes"


def spike_finding(log: Log) -> Finding | None:
    """The spikes of the training loss; None without any. A rise of the logged learning rate
    explains a rise."""
    if log.losses is None:
        return None
    losses = log.losses.latest.finite
    rates = None if log.learning_rates is None else log.learning_rates.latest.finite
    known = (
        None
        if rates is None or not len(rates)
        else np.interp(losses.steps, rates.steps, rates.values)
    )
    found = [
        replace(
            spike,
            first=int(losses.steps[spike.first]),
            peak=int(losses.steps[spike.peak]),
            last=int(losses.steps[spike.last]),
        )
        for spike in find_spikes(losses.values, rates=known)
    ]
    if not found:
        return None
    spacing = float(np.median(np.diff(losses.steps)))
    return replace(
        spikes_finding(found, partial(explain, batches=spacing), losses.name), gauge=GAUGE
    )
