"""All findings about a log, and the limits of a log."""

from collections.abc import Iterator

from gradiometer.arguments import check_level
from gradiometer.logs.finite import finite_findings
from gradiometer.logs.log import Log
from gradiometer.logs.plateau import plateau_finding
from gradiometer.logs.rate import rate_findings
from gradiometer.logs.spikes import spike_finding
from gradiometer.logs.staircase import staircase_finding
from gradiometer.measurement.finding import Finding, Issue, State


def log_findings(log: Log, level: float = 0.9) -> tuple[Finding, ...]:
    """The findings about a log, the most urgent first. The last one lists what the log cannot show.

    Example:
        >>> import numpy as np
        >>> from gradiometer.logs import Column, Log, log_findings
        >>> losses = Column("loss", np.arange(3), np.array([2.0, 1.0, np.nan]))
        >>> log_findings(Log("made", "a test", {"loss": losses}))[0].seen
        'Not a finite number: loss in 1 of 3 values, first at step 2.'
    """
    check_level(level)
    found = sorted(_findings(log, level), key=lambda finding: finding.state.rank)
    return (*found, _cannot_tell(log))


def _findings(log: Log, level: float) -> Iterator[Finding]:
    yield from finite_findings(log)
    for finding in (spike_finding(log), staircase_finding(log, level), plateau_finding(log, level)):
        if finding is not None:
            yield finding
    yield from rate_findings(log)


def _cannot_tell(log: Log) -> Finding:
    """The columns this log lacks, and the limits of every log."""
    missing = [
        f"{what} ({why})"
        for column, what, why in (
            (log.losses, "no training loss", "name its column with --loss"),
            (log.gradient_norms, "no gradient norm", "NaN and inf in the gradient stay hidden"),
            (log.epochs, "no epoch", "a staircase cannot be seen"),
            (log.learning_rates, "no learning rate", "the schedule and a broken resume cannot be seen"),
        )
        if column is None
    ]
    return Finding(
        "log_limits",
        Issue.ESTIMATION,
        State.CANNOT_TELL,
        f"This log has {'; '.join(missing)}."
        if missing
        else "This log has a loss, a gradient norm, epochs and a rate.",
        "A log cannot show how accurate the batch gradient is, if the batch is too small, if the learning rate is at "
        "its limit, or what a cut would gain: this needs gradients of two parts of a batch, during training.",
        "Use gradiometer train, or gradiometer.watch in your training loop.",
    )
