"""The claims of triage as findings, for the one chain of a run."""

from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Doubt, Finding, Issue, State
from gradiometer.measurement.optimizer.hyperparameters import Hyperparameters
from gradiometer.verdict.claims import ISSUES, Claim, Claimed
from gradiometer.verdict.triage.triage import Triage

# The name under which triage has findings.
GAUGE = "triage"

# Beginnings of cures that a fork can try. The others are lines of the program.
CHANGES = ("rate ", "batch ", "momentum ", "weight decay ", "cool now", "clip ", "skip ", "follow ")


def findings_of(
    triage: Triage, settings: Hyperparameters | None = None, *, at_keyboard: bool = False
) -> tuple[Finding, ...]:
    """The claims as findings, in their order.

    Args:
        triage: The claims.
        settings: The settings of the optimizers, from which a change of the rate is written as a
            rate; None if unknown.
        at_keyboard: True for a training of the command line, whose rate is a flag.
    """
    return tuple(_finding(claimed, triage, settings, at_keyboard) for claimed in triage.claims)


def changes_of(claimed: Claimed) -> tuple[str, ...]:
    """The cures that a fork can try."""
    return tuple(change for change in claimed.cure if change.startswith(CHANGES))


def _finding(
    claimed: Claimed, triage: Triage, settings: Hyperparameters | None, at_keyboard: bool
) -> Finding:
    passes = claimed.claim in (Claim.HEALTHY, Claim.UNDECIDED, Claim.MAY_STOP)
    changes = changes_of(claimed)
    numbers = {
        name: value for name, value in claimed.numbers.items() if not isinstance(value, Estimate)
    }
    return Finding(
        GAUGE,
        ISSUES.get(claimed.claim, Issue.ESTIMATION),
        claimed.claim.value,
        State.OK if passes else State.ACT,
        numbers={
            name: value for name, value in claimed.numbers.items() if isinstance(value, Estimate)
        },
        facts={
            "numbers": numbers,
            "lines": tuple(line for line in claimed.cure if line not in changes),
            "rates": () if settings is None else tuple(settings.peaks),
            "at_keyboard": at_keyboard,
            "is_constant": settings is None or settings.is_constant,
            "unseen": {
                name: [claim.value for claim in claims] for name, claims in triage.unseen.items()
            }
            if passes
            else {},
        },
        cure=changes,
        doubts=tuple(Doubt(doubt) for doubt in claimed.doubts),
    )
