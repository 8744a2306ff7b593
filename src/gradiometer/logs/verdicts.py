"""All findings about a log, and the limits of a log."""

from collections.abc import Iterator

from gradiometer.arguments import check_level
from gradiometer.logs.finite import finite_findings
from gradiometer.logs.log import Log
from gradiometer.logs.rate import rate_findings
from gradiometer.logs.spikes import spike_finding
from gradiometer.logs.staircase import staircase_finding
from gradiometer.logs.triage import triage_findings
from gradiometer.measurement.finding import Finding, Issue, State


def log_findings(log: Log, level: float = 0.9) -> tuple[Finding, ...]:
    """The findings about a log, the most urgent first. The last one lists what the log cannot show.

    Example:
        >>> import numpy as np
        >>> from gradiometer.logs import Log, log_findings
        >>> from gradiometer.logs.log import Column
        >>> losses = Column("loss", np.arange(3), np.array([2.0, 1.0, np.nan]))
        >>> log_findings(Log("made", "a test", {"loss": losses}))[0].claim
        'log_not_finite_at_end'
    """
    check_level(level)
    found = sorted(_findings(log, level), key=lambda finding: finding.state.rank)
    return (*found, _cannot_tell(log))


def _findings(log: Log, level: float) -> Iterator[Finding]:
    yield from finite_findings(log)
    yield from triage_findings(log)
    for finding in (spike_finding(log), staircase_finding(log, level)):
        if finding is not None:
            yield finding
    yield from rate_findings(log)


def _cannot_tell(log: Log) -> Finding:
    """The columns this log lacks, and the limits of every log."""
    columns = {
        "losses": log.losses,
        "gradient_norms": log.gradient_norms,
        "epochs": log.epochs,
        "learning_rates": log.learning_rates,
        "held_out_losses": log.held_out_losses,
    }
    missing = tuple(name for name, column in columns.items() if column is None)
    return Finding(
        "log_limits", Issue.ESTIMATION, "log_limits", State.CANNOT_TELL, facts={"missing": missing}
    )
