"""NaN and inf in the loss or the gradient, including those the log hides."""

from collections.abc import Iterator

import numpy as np

from gradiometer.logs.log import Column, Log
from gradiometer.measurement.finding import Finding, Issue, State

GAUGE = "log_finite"

STUCK = 3
"""Number of zeros in a row, at the end of a positive loss, that count as a hidden NaN."""

FILTER = (
    "Hugging Face's Trainer omits NaN and inf from its average loss (`logging_nan_inf_filter`), so it logs 0 or an old "
    "value instead."
)


def finite_findings(log: Log) -> Iterator[Finding]:
    """NaN and inf in the losses and gradient norms, and zeros that may hide them."""
    losses, norms = log.losses, log.gradient_norms
    bad = [column for column in (losses, norms) if column is not None and not np.isfinite(column.values).all()]
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
    if norms is not None and np.isin(losses.steps[zero], norms.steps[~np.isfinite(norms.values)]).any():
        return True
    return len(zero) > STUCK and bool(zero[-STUCK:].all()) and bool((losses.values > 0).any())


def _not_finite(columns: list[Column], hidden: bool) -> Finding:
    places = []
    for column in columns:
        wrong = ~np.isfinite(column.values)
        first = int(column.steps[wrong].min())
        places.append(f"{column.name} in {int(wrong.sum()):,} of {len(column):,} values, first at step {first:,}")
    last = [bool(~np.isfinite(column.values[-1])) for column in columns]
    means = (
        "It lasted to the end: the parameters are no longer finite, and no step after it was useful."
        if any(last)
        else "It passed: the batches were skipped, as the loss scaling of mixed precision does."
    )
    return Finding(
        GAUGE,
        Issue.CONVERGENCE,
        State.ACT if any(last) else State.LOOK,
        f"Not a finite number: {'; '.join(places)}{'; the logged loss at these steps is 0' if hidden else ''}.",
        f"{means} {FILTER if hidden else ''}".strip(),
        "Go back to a checkpoint before that step; look at the examples of its batch; try a smaller learning rate, a "
        "warm-up, or float32 instead of half precision.",
        "If the log averages over steps, the true first step is earlier, by up to the steps between two lines.",
    )


def _zeros(losses: Column) -> Finding:
    first = int(losses.steps[np.flatnonzero(losses.values != 0)[-1] + 1])
    return Finding(
        GAUGE,
        Issue.CONVERGENCE,
        State.ACT,
        f"{losses.name} is exactly 0 from step {first:,} to the end, and was positive before.",
        f"It may hide a NaN. {FILTER}",
        "Print the loss of one batch from the last checkpoint; log the gradient norm, or set "
        "logging_nan_inf_filter=False.",
        "A loss that can reach zero, such as a hinge loss, looks the same.",
    )


def _all_well(losses: Column, norms: Column | None) -> Finding:
    also = f" and of {norms.name} ({len(norms):,})" if norms is not None else ""
    return Finding(
        GAUGE,
        Issue.CONVERGENCE,
        State.OK,
        f"Every value of {losses.name} ({len(losses):,}){also} is a finite number.",
        "There is no sign of NaN or inf.",
        caveat="" if norms is not None else "Without a gradient norm in the log, skipped batches cannot be seen.",
    )
