"""The rules of triage on a log: the same as for a run, with the quantities that a log has."""

import numpy as np

from gradiometer.logs.log import Log
from gradiometer.measurement.finding import Finding
from gradiometer.verdict.claims import Claim
from gradiometer.verdict.triage.findings import findings_of
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.triage import triage_of


def triage_findings(log: Log) -> tuple[Finding, ...]:
    """What limits the training, as far as its log shows it; none without a training loss."""
    signs = signs_of(log)
    if signs is None:
        return ()
    found = findings_of(triage_of(signs))
    return tuple(each for each in found if each.claim != Claim.UNDECIDED)


def signs_of(log: Log) -> Signs | None:
    """The signs in a log, one place for each of its losses; None without losses."""
    if log.losses is None:
        return None
    losses = log.losses.latest.finite
    if not len(losses):
        return None
    rates = np.array([])
    if log.learning_rates is not None:
        logged = log.learning_rates.latest.finite
        if len(logged):
            rates = np.interp(losses.steps, logged.steps, logged.values)
    evaluated, test = np.array([], dtype=np.int64), np.array([])
    if log.held_out_losses is not None:
        held_out = log.held_out_losses.latest.finite
        evaluated, test = np.searchsorted(losses.steps, held_out.steps), held_out.values
    return Signs(
        losses=losses.values,
        rates=rates,
        evaluated=evaluated,
        test=test,
        train=np.full(len(test), np.nan),
        logged=losses.steps,
    )
