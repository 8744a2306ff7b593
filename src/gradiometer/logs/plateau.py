"""Plateau or noise: does the training loss still fall, within its noise?"""

from typing import Any

import numpy as np

from gradiometer.logs.log import Log
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
    facts: dict[str, Any] = {"loss": losses.name, "values": len(values)}
    if len(values) < FEWEST or (values == values[0]).all():
        return Finding(GAUGE, Issue.CONVERGENCE, "log_too_short", State.CANNOT_TELL, facts=facts | {"fewest": FEWEST})
    trend = slope(steps, values, level)
    over, size = float(np.ptp(steps)) / 1000, float(np.abs(values).mean())
    if max(abs(trend.low), abs(trend.high)) * over <= SMALL * size:
        claim, state = "log_plateau", State.LOOK
    elif trend.high < 0:
        claim, state = "log_falling", State.OK
    elif trend.low > 0:
        claim, state = "log_rising", State.LOOK
    else:
        claim, state = "log_slope_unclear", State.CANNOT_TELL
    facts |= {"slope": trend, "first_step": int(steps[0]), "most": max(-trend.low, 0.0) * over}
    return Finding(GAUGE, Issue.CONVERGENCE, claim, state, facts=facts)
