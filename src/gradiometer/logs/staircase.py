"""The staircase: a training loss that falls when an epoch begins, because the examples are seen
again."""

from itertools import pairwise

import numpy as np
from jaxtyping import Float

from gradiometer.logs.log import Column, Log
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.uncertainty.means import FEWEST_READINGS, mean

GAUGE = "log_staircase"

FEWEST = 4
"""The smallest number of values in an epoch that separates its beginning from its end."""

SHARE = 0.05
"""The smallest fall at the beginning of an epoch that is reported, relative to the loss."""


def staircase_finding(log: Log, level: float) -> Finding | None:
    """The fall of the loss at the beginning of epochs, minus its trend; None without losses or
    epochs."""
    losses, epochs = log.losses, log.epochs
    if losses is None or epochs is None:
        return None
    losses, epochs = losses.latest.finite, epochs.latest.finite
    if not (len(losses) and len(epochs)):
        return None
    falls, size = _falls(losses, epochs)
    if len(falls) < FEWEST_READINGS:
        return None
    fall = mean(falls, level=level, batches=len(falls))
    if fall.low > 0 and fall.value >= SHARE * size:
        claim, state = "log_staircase", State.LOOK
    elif fall.high < SHARE * size:
        claim, state = "log_no_staircase", State.OK
    else:
        claim, state = "log_staircase_unclear", State.CANNOT_TELL
    facts = {"loss": losses.name, "fall": fall, "mean_loss": size}
    return Finding(GAUGE, Issue.ESTIMATION, claim, state, facts=facts)


def _falls(losses: Column, epochs: Column) -> tuple[Float[np.ndarray, " boundaries"], float]:
    """The fall at every beginning of an epoch, apart from the trends of both epochs, and the mean
    loss."""
    number = np.ceil(np.interp(losses.steps, epochs.steps, epochs.values) - 1e-6)
    if np.array_equal(epochs.values, np.floor(epochs.values)):  # whole epochs, counted from 0 or 1
        place = np.searchsorted(epochs.steps, losses.steps, side="right") - 1
        number = epochs.values[np.maximum(place, 0)]
    parts = [np.flatnonzero(number == epoch) for epoch in np.unique(number)]
    whole = [part for part in parts if len(part) >= FEWEST]
    falls = []
    for one, other in pairwise(whole):
        if other[0] != one[-1] + 1:
            continue
        border = int(losses.steps[other[0]])
        before, after = _at(losses, one, border), _at(losses, other, border)
        falls.append(before - after)
    return np.array(falls), float(np.abs(losses.values).mean()) if len(losses) else 0.0


def _at(losses: Column, part: np.ndarray, step: int) -> float:
    """The straight line through the losses of an epoch, at a step."""
    steps, values = losses.steps[part].astype(np.float64), losses.values[part]
    away = steps - steps.mean()
    return float(values.mean() + (away @ values) / (away @ away) * (float(step) - steps.mean()))
