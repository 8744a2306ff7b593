"""The learning rate and the step counter: as scheduled, or broken by a resume?"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from gradiometer.logs.log import Column, Log
from gradiometer.measurement.finding import Finding, Issue, State

GAUGE = "log_learning_rate"

LEAP = 1.3
"""The smallest factor from one value to the next that counts as a jump."""

OWN = 5.0
"""A jump must be this many times larger than its neighbouring changes, in logarithms."""


def rate_findings(log: Log) -> Iterator[Finding]:
    """Steps that go back, and the course of the learning rate."""
    backwards = _backwards(log)
    if backwards is not None:
        yield backwards
    rates = log.learning_rates
    if rates is None:
        return
    latest = rates.latest.finite
    latest = Column(latest.name, latest.steps[latest.values > 0], latest.values[latest.values > 0])
    if len(latest) < 3:
        return
    up = _leaps(latest, upwards=True)
    yield _restarted(latest, up) if len(up) else _as_scheduled(latest)


def _backwards(log: Log) -> Finding | None:
    """Steps that go back: the run was resumed from an earlier checkpoint."""
    column = log.losses or next(iter(log.columns.values()))
    back = np.flatnonzero(np.diff(column.steps) < 0)
    if not len(back):
        return None
    facts = {
        "jumps": tuple((int(column.steps[place]), int(column.steps[place + 1])) for place in back),
        "repeated": int((column.steps[back] - column.steps[back + 1]).sum()),
    }
    return Finding("log_steps", Issue.CONVERGENCE, "log_steps_back", State.LOOK, facts=facts)


def _leaps(rates: Column, *, upwards: bool) -> Int[np.ndarray, " leaps"]:
    """Places after which the rate leaps, by far more than it changes beside; a first rise is a
    warm-up and no leap."""
    changes = np.diff(np.log(rates.values)) * (1 if upwards else -1)
    large = np.flatnonzero(changes > np.log(LEAP))
    kept = []
    for place in large:
        neighbours = np.abs(
            np.concatenate([changes[max(place - 3, 0) : place], changes[place + 1 : place + 4]])
        )
        # it has never gone down
        warming = upwards and rates.values[: place + 1].max() < 1.05 * rates.values[place]
        if not warming and changes[place] > OWN * np.median(neighbours):
            kept.append(place)
    return np.array(kept, dtype=np.int64)


def _restarted(rates: Column, leaps: Int[np.ndarray, " leaps"]) -> Finding:
    """Jumps up: a schedule with restarts if they are equally far apart, otherwise perhaps a broken
    resume."""
    gaps = np.diff(rates.steps[leaps])
    regular = len(leaps) >= 2 and bool((np.abs(gaps - gaps.mean()) <= 0.1 * gaps.mean()).all())
    claim, state = ("log_rate_restarts", State.OK) if regular else ("log_rate_jumps", State.LOOK)
    jumps = tuple((_point(rates, place), _point(rates, place + 1)) for place in leaps.tolist())
    return Finding(
        GAUGE, Issue.CONVERGENCE, claim, state, facts={"rate": rates.name, "jumps": jumps}
    )


def _point(rates: Column, place: int) -> tuple[int, float]:
    """Step and rate at a place."""
    return int(rates.steps[place]), float(rates.values[place])


def _as_scheduled(rates: Column) -> Finding:
    """Describes the schedule: constant, warm-up, steps down, and where it ends."""
    values = rates.values
    top, place = float(values.max()), int(values.argmax())
    facts = {
        "rate": rates.name,
        "highest": top,
        "highest_step": int(rates.steps[place]),
        "constant": bool(np.ptp(values) <= 1e-6 * top),
        "rises": bool(values[0] < 0.9 * top),
        "steps_down": tuple(int(rates.steps[leap + 1]) for leap in _leaps(rates, upwards=False)),
        "last": float(values[-1]),
    }
    return Finding(GAUGE, Issue.CONVERGENCE, "log_rate_scheduled", State.OK, facts=facts)
