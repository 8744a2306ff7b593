"""Numbers that are none: a loss or a gradient that is not a number, shown or hidden."""

from collections.abc import Iterator

import numpy as np

from gradiometer.logs.log import Column, Log
from gradiometer.measurement.finding import Finding, Issue, State

GAUGE = "log_finite"

STUCK = 3
"""Values of exactly zero in a row, at the end of a loss that was above, that count as hidden."""

FILTER = (
    "Hugging Face's Trainer leaves a loss that is not a number out of its average (`logging_nan_inf_filter`), so that "
    "it logs 0 or an old value in its place."
)


def finite_findings(log: Log) -> Iterator[Finding]:
    """Whether every loss and gradient norm is a number, and what is behind a loss of zero."""
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
    """Zeros at the end of a loss that was above zero, or wherever the gradient is not a number."""
    zero = losses.values == 0
    if norms is not None and np.isin(losses.steps[zero], norms.steps[~np.isfinite(norms.values)]).any():
        return True
    return len(zero) > STUCK and bool(zero[-STUCK:].all()) and bool((losses.values > 0).any())


def _not_finite(columns: list[Column], hidden: bool) -> Finding:
    told = []
    for column in columns:
        wrong = ~np.isfinite(column.values)
        first = int(column.steps[wrong].min())
        told.append(f"{column.name} in {int(wrong.sum()):,} of {len(column):,} values, first at step {first:,}")
    last = [bool(~np.isfinite(column.values[-1])) for column in columns]
    means = (
        "It stayed so to the end: the parameters are not numbers any more, and nothing after that step was training."
        if any(last)
        else "It passed: the batches were skipped, or their gradients scaled away, as mixed precision does at times."
    )
    return Finding(
        GAUGE,
        Issue.CONVERGENCE,
        State.ACT if any(last) else State.LOOK,
        f"Not a finite number: {'; '.join(told)}{'; the loss beside it reads 0' if hidden else ''}.",
        f"{means} {FILTER if hidden else ''}".strip(),
        "Go back to a checkpoint before that step; look at the examples of its batch; a smaller learning rate, a "
        "warm-up, or float32 where it is half precision.",
        "A log that averages over steps dates it late, by up to the steps from one line to the next.",
    )


def _zeros(losses: Column) -> Finding:
    first = int(losses.steps[np.flatnonzero(losses.values != 0)[-1] + 1])
    return Finding(
        GAUGE,
        Issue.CONVERGENCE,
        State.ACT,
        f"{losses.name} is exactly 0 from step {first:,} to the end, and was above before.",
        f"A loss that is not a number may be hidden behind it. {FILTER}",
        "Print the loss of one batch from the last checkpoint; log the gradient norm, or set "
        "logging_nan_inf_filter=False.",
        "A loss that can reach zero, such as a hinge, may be meant.",
    )


def _all_well(losses: Column, norms: Column | None) -> Finding:
    also = f" and of {norms.name} ({len(norms):,})" if norms is not None else ""
    return Finding(
        GAUGE,
        Issue.CONVERGENCE,
        State.OK,
        f"Every value of {losses.name} ({len(losses):,}){also} is a finite number.",
        "No sign of a loss that is not a number.",
        caveat="" if norms is not None else "Without a gradient norm in the log, a batch that was skipped is not seen.",
    )
