"""Plateau or noise: does the training loss still fall, as far as its noise lets one see?"""

import numpy as np

from gradiometer.logs.log import Log
from gradiometer.measurement.estimate import significant
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.uncertainty.slopes import slope

GAUGE = "log_plateau"

LATE = 0.5
"""Share of the values, the latest, that are looked at."""

FEWEST = 12
"""Values below which nothing is said."""

SMALL = 0.05
"""Change over the window, in shares of the loss, below which the loss is called level, whichever way it goes."""


def plateau_finding(log: Log, level: float) -> Finding | None:
    """The slope of the loss over the latest half of the log, with its interval; None without losses."""
    losses = log.losses
    if losses is None:
        return None
    latest = losses.latest.finite
    window = slice(int(len(latest) * (1 - LATE)), None)
    steps, values = latest.steps[window], latest.values[window]
    if len(values) < FEWEST or (values == values[0]).all():
        why = f"{len(values)} values" if len(values) < FEWEST else "values that never change"
        return Finding(
            GAUGE,
            Issue.CONVERGENCE,
            State.CANNOT_TELL,
            f"Whether {losses.name} still falls cannot be told from the latest {why}.",
            f"It takes at least {FEWEST} different ones in the latest half of the log.",
        )
    trend = slope(steps, values, level)
    over, size = float(np.ptp(steps)) / 1000, float(np.abs(values).mean())
    change = f"{trend}, over {len(values):,} values from step {int(steps[0]):,}"
    most = significant(max(-trend.low, 0.0) * over)
    if max(abs(trend.low), abs(trend.high)) * over <= SMALL * size:
        state = State.LOOK
        means = f"A plateau: at this learning rate another such stretch gains {most} at most."
        advice = "Cut the learning rate, or average the iterates: what is left is noise, or the floor."
    elif trend.high < 0:
        state, means, advice = State.OK, "It still falls, beyond what noise makes of a level loss.", ""
    elif trend.low > 0:
        state, means = State.LOOK, "It rises, beyond what noise makes of a level loss."
        advice = "A smaller learning rate, and a look at what changed there."
    else:
        state = State.CANNOT_TELL
        means = f"Noise hides whether it is a plateau: another such stretch may gain up to {most}."
        advice = "Log the mean over more steps, or go on."
    return Finding(
        GAUGE,
        Issue.CONVERGENCE,
        state,
        f"The slope of {losses.name} is {change}.",
        means,
        advice,
        "A straight line over a stretch that still bends shows the mean of its slopes.",
    )
