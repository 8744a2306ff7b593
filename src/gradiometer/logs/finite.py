"""NaN and inf in the loss or the gradient, including those the log hides."""

from collections.abc import Iterator

import numpy as np

from gradiometer.logs.log import Column, Log
from gradiometer.measurement.finding import Doubt, Finding, Issue, State

GAUGE = "log_finite"

STUCK = 3
"""Number of zeros in a row, at the end of a positive loss, that count as a hidden NaN."""


def finite_findings(log: Log) -> Iterator[Finding]:
    """NaN and inf in the losses and gradient norms, and zeros that may hide them."""
    losses, norms = log.losses, log.gradient_norms
    bad = [
        column
        for column in (losses, norms)
        if column is not None and not np.isfinite(column.values).all()
    ]
    hidden = losses is not None and _hidden(losses, norms)
    if bad:
        yield _not_finite(bad, losses is not None and hidden)
    elif hidden and losses is not None:
        yield _zeros(losses)
    elif losses is not None:
        yield _all_well(losses, norms)


def _hidden(losses: Column, norms: Column | None) -> bool:
    """True for zeros at the end of a positive loss, or at a gradient that is not finite."""
    zero = losses.values == 0
    if (
        norms is not None
        and np.isin(losses.steps[zero], norms.steps[~np.isfinite(norms.values)]).any()
    ):
        return True
    return len(zero) > STUCK and bool(zero[-STUCK:].all()) and bool((losses.values > 0).any())


def _not_finite(columns: list[Column], hidden: bool) -> Finding:
    places = []
    for column in columns:
        wrong = ~np.isfinite(column.values)
        places.append((column.name, int(wrong.sum()), len(column), int(column.steps[wrong].min())))
    lasted = any(not np.isfinite(column.values[-1]) for column in columns)
    claim, state = (
        ("log_not_finite_at_end", State.ACT) if lasted else ("log_not_finite", State.LOOK)
    )
    facts = {"places": tuple(places), "logged_as_zero": hidden}
    return Finding(GAUGE, Issue.CONVERGENCE, claim, state, facts=facts)


def _zeros(losses: Column) -> Finding:
    first = int(losses.steps[np.flatnonzero(losses.values != 0)[-1] + 1])
    facts = {"loss": losses.name, "first_step": first}
    return Finding(GAUGE, Issue.CONVERGENCE, "log_zero_at_end", State.ACT, facts=facts)


def _all_well(losses: Column, norms: Column | None) -> Finding:
    columns = [losses] if norms is None else [losses, norms]
    facts = {"columns": tuple((column.name, len(column)) for column in columns)}
    doubts = (Doubt("no_gradient_norm"),) if norms is None else ()
    return Finding(GAUGE, Issue.CONVERGENCE, "log_finite", State.OK, facts=facts, doubts=doubts)
