"""Plateau or noise: does the training loss still fall, within its noise?"""

import numpy as np

from gradiometer.logs.log import Log
from gradiometer.measurement.estimate import significant
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.uncertainty.slopes import slope

GAUGE = "log_plateau"

LATE = 0.5
"""Share of the values that are used, the latest ones."""

FEWEST = 12
"""The smallest number of values for a verdict."""

SMALL = 0.05
"""A change over the window, relative to the loss, below which the loss counts as flat."""


def plateau_finding(log: Log, level: float) -> Finding | None:
    """The slope of the loss over the latest half of the log, with its interval; None without losses."""
    losses = log.losses
    if losses is None:
        return None
    latest = losses.latest.finite
    window = slice(int(len(latest) * (1 - LATE)), None)
    steps, values = latest.steps[window], latest.values[window]
    if len(values) < FEWEST or (values == values[0]).all():
        why = f"{len(values)} values" if len(values) < FEWEST else "values, which are all equal"
        return Finding(
            GAUGE,
            Issue.CONVERGENCE,
            State.CANNOT_TELL,
            f"Too few values to see if {losses.name} still falls: the latest half has {why}.",
            f"At least {FEWEST} values that differ are needed in the latest half of the log.",
        )
    trend = slope(steps, values, level)
    over, size = float(np.ptp(steps)) / 1000, float(np.abs(values).mean())
    change = f"{trend}, over {len(values):,} values from step {int(steps[0]):,}"
    most = significant(max(-trend.low, 0.0) * over)
    if max(abs(trend.low), abs(trend.high)) * over <= SMALL * size:
        state = State.LOOK
        means = f"A plateau: at this learning rate, the same number of steps again gains at most {most}."
        advice = "Cut the learning rate, or average the iterates: the rest is noise, or the floor of the loss."
    elif trend.high < 0:
        state, means, advice = State.OK, "It still falls, by more than the noise explains.", ""
    elif trend.low > 0:
        state, means = State.LOOK, "It rises, by more than the noise explains."
        advice = "Try a smaller learning rate, and check what changed there."
    else:
        state = State.CANNOT_TELL
        means = f"The noise is too large to see a plateau: the same number of steps again may gain up to {most}."
        advice = "Log the mean over more steps, or train longer."
    return Finding(
        GAUGE,
        Issue.CONVERGENCE,
        state,
        f"The slope of {losses.name} is {change}.",
        means,
        advice,
        "If the loss is still curved, this is the mean of its slopes.",
    )
