"""Everything that is to be said of a log, and what a log cannot tell."""

from collections.abc import Iterator

from gradiometer.arguments import check_level
from gradiometer.logs.finite import finite_findings
from gradiometer.logs.log import Log
from gradiometer.logs.plateau import plateau_finding
from gradiometer.logs.rate import rate_findings
from gradiometer.logs.staircase import staircase_finding
from gradiometer.measurement.finding import Finding, Issue, State


def log_findings(log: Log, level: float = 0.9) -> tuple[Finding, ...]:
    """What the log shows, the most urgent first, and last what it cannot tell."""
    check_level(level)
    found = sorted(_findings(log, level), key=lambda finding: finding.state.rank)
    return (*found, _cannot_tell(log))


def _findings(log: Log, level: float) -> Iterator[Finding]:
    yield from finite_findings(log)
    for finding in (staircase_finding(log, level), plateau_finding(log, level)):
        if finding is not None:
            yield finding
    yield from rate_findings(log)


def _cannot_tell(log: Log) -> Finding:
    """What is not in this log, and what is in none."""
    missing = [
        f"{what} ({why})"
        for column, what, why in (
            (log.losses, "no training loss", "name its column with --loss"),
            (log.gradient_norms, "no gradient norm", "a gradient that is not a number stays hidden"),
            (log.epochs, "no epoch", "a staircase cannot be looked for"),
            (log.learning_rates, "no learning rate", "its schedule and a broken resume cannot be seen"),
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
        "No log tells how accurate the batch gradient is, whether the batch is too small or the learning rate at its "
        "edge, or what a cut of it would gain: that takes gradients of two parts of a batch, at the time of training.",
        "gradiometer train, or gradiometer.watch in a loop of your own.",
    )
