"""All findings about a log, and the limits of a log."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gradiometer.arguments import check_level
from gradiometer.drift.spikes.cause import explain, spikes_finding
from gradiometer.drift.spikes.detection import SMALLEST, find_spikes
from gradiometer.logs.log import Column, Log
from gradiometer.measurement.estimate import LEVEL
from gradiometer.measurement.finding import Doubt, Finding, Issue, State
from gradiometer.measurement.uncertainty.means import FEWEST_READINGS, mean
from gradiometer.verdict.claims import Claim
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.triage import findings_of, triage_of

FINITE = "log_finite"

# Number of zeros in a row, at the end of a positive loss, that count as a hidden NaN.
STUCK = 3


def finite_findings(log: Log) -> Iterator[Finding]:
    """NaN and inf in the losses and gradient norms, and zeros that may hide them."""
    losses, norms = log.losses, log.gradient_norms
    columns = [column for column in (losses, norms) if column is not None]
    places = []
    for column in columns:
        wrong = ~np.isfinite(column.values)
        if wrong.any():
            first = int(column.steps[wrong].min())
            places.append((column.name, int(wrong.sum()), len(column), first))
    hidden = losses is not None and _hides_zeros(losses, norms)
    if places:
        lasted = any(not np.isfinite(column.values[-1]) for column in columns if len(column.values))
        claim, state = "log_not_finite", State.LOOK
        if lasted:
            claim, state = "log_not_finite_at_end", State.ACT
        facts: dict[str, Any] = {"places": tuple(places), "logged_as_zero": hidden}
        yield Finding(FINITE, Issue.CONVERGENCE, claim, state, facts=facts)
    elif hidden and losses is not None:
        first = int(losses.steps[np.flatnonzero(losses.values != 0)[-1] + 1])
        facts = {"loss": losses.name, "first_step": first}
        yield Finding(FINITE, Issue.CONVERGENCE, "log_zero_at_end", State.ACT, facts=facts)
    elif losses is not None:
        facts = {"columns": tuple((column.name, len(column)) for column in columns)}
        doubts = (Doubt("no_gradient_norm"),) if norms is None else ()
        yield Finding(FINITE, Issue.CONVERGENCE, "log_finite", State.OK, facts=facts, doubts=doubts)


def _hides_zeros(losses: Column, norms: Column | None) -> bool:
    """True for zeros at the end of a positive loss, or at a gradient that is not finite."""
    zero = losses.values == 0
    if norms is not None:
        wrong = norms.steps[~np.isfinite(norms.values)]
        if np.isin(losses.steps[zero], wrong).any():
            return True
    return len(zero) > STUCK and bool(zero[-STUCK:].all()) and bool((losses.values > 0).any())


def triage_findings(log: Log) -> tuple[Finding, ...]:
    """What limits the training, as far as its log shows it; none without a training loss."""
    signs = signs_of(log)
    if signs is None:
        return ()
    return tuple(each for each in findings_of(triage_of(signs)) if each.claim != Claim.UNDECIDED)


def signs_of(log: Log) -> Signs | None:
    """The signs in a log, one place for each of its losses; None without losses."""
    if log.losses is None:
        return None
    losses = log.losses.latest.finite
    if not len(losses):
        return None
    evaluated, test = np.array([], dtype=np.int64), np.array([])
    if log.held_out_losses is not None:
        held_out = log.held_out_losses.latest.finite
        evaluated, test = np.searchsorted(losses.steps, held_out.steps), held_out.values
    return Signs(
        losses=losses.values,
        rates=_rates_at(log, losses.steps),
        evaluated=evaluated,
        test=test,
        train=np.full(len(test), np.nan),
        logged=losses.steps,
    )


def _rates_at(log: Log, steps: Int[np.ndarray, " logged"]) -> Float[np.ndarray, " rates"]:
    """The learning rate at some steps, between those at which it was logged; empty if it was
    not."""
    logged = None if log.learning_rates is None else log.learning_rates.latest.finite
    if logged is None or not len(logged):
        return np.array([])
    return np.asarray(np.interp(steps, logged.steps, logged.values))


SPIKES = "log_spikes"


def spike_finding(log: Log) -> Finding | None:
    """The spikes of the training loss; None without any. A rise of the logged learning rate
    explains a rise."""
    if log.losses is None:
        return None
    losses = log.losses.latest.finite
    rates = _rates_at(log, losses.steps)
    spikes = find_spikes(losses.values, rates=rates if len(rates) else None)
    found = [spike.at(losses.steps) for spike in spikes]
    if not found:
        return None
    spacing = float(np.median(np.diff(losses.steps)))
    return replace(
        spikes_finding(found, partial(explain, batches=spacing), losses.name), gauge=SPIKES
    )


STAIRCASE = "log_staircase"


def staircase_finding(log: Log, level: float) -> Finding | None:
    """The fall of the loss at the beginning of epochs, minus its trend; None without losses or
    epochs."""
    losses, epochs = log.losses, log.epochs
    if losses is None or epochs is None:
        return None
    losses, epochs = losses.latest.finite, epochs.latest.finite
    if not (len(losses) and len(epochs)):
        return None
    falls, size = _falls(losses, epochs)
    # A loss that is zero throughout, as where all labels are masked, has no share to fall by.
    if len(falls) < FEWEST_READINGS or size == 0:
        return None
    fall = mean(falls, level=level, batches=len(falls))
    if fall.low > 0 and fall.value >= SMALLEST * size:
        claim, state = "log_staircase", State.LOOK
    elif fall.high < SMALLEST * size:
        claim, state = "log_no_staircase", State.OK
    else:
        claim, state = "log_staircase_unclear", State.CANNOT_TELL
    facts = {"loss": losses.name, "fall": fall, "mean_loss": size}
    return Finding(STAIRCASE, Issue.ESTIMATION, claim, state, facts=facts)


def _falls(losses: Column, epochs: Column) -> tuple[Float[np.ndarray, " boundaries"], float]:
    """The fall at every beginning of an epoch, apart from the trends of both epochs, and the mean
    loss."""
    number = np.ceil(np.interp(losses.steps, epochs.steps, epochs.values) - 1e-6)
    if np.array_equal(epochs.values, np.floor(epochs.values)):  # whole epochs, counted from 0 or 1
        place = np.searchsorted(epochs.steps, losses.steps, side="right") - 1
        number = epochs.values[np.maximum(place, 0)]
    parts = [np.flatnonzero(number == epoch) for epoch in np.unique(number)]
    # fewer values do not separate the beginning of an epoch from its end
    whole = [part for part in parts if len(part) >= 4]
    falls = []
    for one, other in pairwise(whole):
        if other[0] == one[-1] + 1:
            border = int(losses.steps[other[0]])
            falls.append(_at(losses, one, border) - _at(losses, other, border))
    return np.array(falls), float(np.abs(losses.values).mean()) if len(losses) else 0.0


def _at(losses: Column, part: np.ndarray, step: int) -> float:
    """The straight line through the losses of an epoch, at a step."""
    steps, values = losses.steps[part].astype(np.float64), losses.values[part]
    away = steps - steps.mean()
    return float(values.mean() + (away @ values) / (away @ away) * (float(step) - steps.mean()))


RATE = "log_learning_rate"


def rate_findings(log: Log) -> Iterator[Finding]:
    """Steps that go back, and the course of the learning rate."""
    column = log.losses or next(iter(log.columns.values()))
    back = np.flatnonzero(np.diff(column.steps) < 0)
    # The run was resumed from an earlier checkpoint.
    if len(back):
        jumps = [(int(column.steps[place]), int(column.steps[place + 1])) for place in back]
        facts: dict[str, Any] = {
            "jumps": tuple(jumps),
            "repeated": sum(before - after for before, after in jumps),
        }
        yield Finding("log_steps", Issue.CONVERGENCE, "log_steps_back", State.LOOK, facts=facts)
    rates = log.learning_rates
    if rates is None:
        return
    latest = rates.latest.finite
    above = latest.values > 0
    latest = Column(latest.name, latest.steps[above], latest.values[above])
    if len(latest) < 3:
        return
    leaps = _leaps(latest, upwards=True)
    if len(leaps):
        # Jumps up: a schedule with restarts if they are equally far apart, otherwise perhaps a
        # broken resume.
        gaps = np.diff(latest.steps[leaps])
        regular = len(leaps) >= 2 and bool((np.abs(gaps - gaps.mean()) <= 0.1 * gaps.mean()).all())
        claim, state = "log_rate_jumps", State.LOOK
        if regular:
            claim, state = "log_rate_restarts", State.OK
        points = list(zip(latest.steps.tolist(), latest.values.tolist(), strict=True))
        jumps = [(points[place], points[place + 1]) for place in leaps.tolist()]
        facts = {"rate": latest.name, "jumps": tuple(jumps)}
        yield Finding(RATE, Issue.CONVERGENCE, claim, state, facts=facts)
        return
    values = latest.values
    top, place = float(values.max()), int(values.argmax())
    facts = {
        "rate": latest.name,
        "highest": top,
        "highest_step": int(latest.steps[place]),
        "constant": bool(np.ptp(values) <= 1e-6 * top),
        "rises": bool(values[0] < 0.9 * top),
        "steps_down": tuple(int(latest.steps[leap + 1]) for leap in _leaps(latest, upwards=False)),
        "last": float(values[-1]),
    }
    yield Finding(RATE, Issue.CONVERGENCE, "log_rate_scheduled", State.OK, facts=facts)


def _leaps(rates: Column, *, upwards: bool) -> Int[np.ndarray, " leaps"]:
    """Places after which the rate leaps, by far more than it changes beside; a first rise is a
    warm-up and no leap."""
    changes = np.diff(np.log(rates.values)) * (1 if upwards else -1)
    kept = []
    for place in np.flatnonzero(changes > np.log(1.3)):
        neighbours = [*changes[max(place - 3, 0) : place], *changes[place + 1 : place + 4]]
        # it has never gone down
        warming = upwards and rates.values[: place + 1].max() < 1.05 * rates.values[place]
        if not warming and changes[place] > 5 * np.median(np.abs(neighbours)):
            kept.append(place)
    return np.array(kept, dtype=np.int64)


def log_findings(log: Log, level: float = LEVEL) -> tuple[Finding, ...]:
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
    both = (spike_finding(log), staircase_finding(log, level))
    found = [
        *finite_findings(log),
        *triage_findings(log),
        *filter(None, both),
        *rate_findings(log),
    ]
    names = ("losses", "gradient_norms", "epochs", "learning_rates", "held_out_losses")
    missing = tuple(name for name in names if getattr(log, name) is None)
    limits = Finding(
        "log_limits", Issue.ESTIMATION, "log_limits", State.CANNOT_TELL, facts={"missing": missing}
    )
    return (*sorted(found, key=lambda finding: finding.state.rank), limits)
