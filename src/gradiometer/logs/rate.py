"""The learning rate and the step counter: as scheduled, or broken by a resume?"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from gradiometer.logs.log import Column, Log
from gradiometer.measurement.estimate import significant
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
    places = [f"from {column.steps[place]:,} to {column.steps[place + 1]:,}" for place in back[:3]]
    again = int((column.steps[back] - column.steps[back + 1]).sum())
    return Finding(
        "log_steps",
        Issue.CONVERGENCE,
        State.LOOK,
        f"The step goes back {len(back)} time{'s' * (len(back) > 1)}: {', '.join(places)}.",
        f"The run was resumed from a checkpoint, or two runs share the file. About {again:,} steps were made twice; "
        "the later values count.",
        "Compare the loss before and after: a jump means that the optimizer's state was lost, too.",
    )


def _leaps(rates: Column, *, upwards: bool) -> Int[np.ndarray, " leaps"]:
    """Places after which the rate leaps, by far more than it changes beside; a first rise is a warm-up and no leap."""
    changes = np.diff(np.log(rates.values)) * (1 if upwards else -1)
    large = np.flatnonzero(changes > np.log(LEAP))
    kept = []
    for place in large:
        neighbours = np.abs(np.concatenate([changes[max(place - 3, 0) : place], changes[place + 1 : place + 4]]))
        warming = upwards and rates.values[: place + 1].max() < 1.05 * rates.values[place]  # it has never gone down
        if not warming and changes[place] > OWN * np.median(neighbours):
            kept.append(place)
    return np.array(kept, dtype=np.int64)


def _restarted(rates: Column, leaps: Int[np.ndarray, " leaps"]) -> Finding:
    places = [
        f"from {significant(rates.values[place])} at step {rates.steps[place]:,} to "
        f"{significant(rates.values[place + 1])} at step {rates.steps[place + 1]:,}"
        for place in leaps[:3]
    ]
    gaps = np.diff(rates.steps[leaps])
    regular = len(leaps) >= 2 and bool((np.abs(gaps - gaps.mean()) <= 0.1 * gaps.mean()).all())
    return Finding(
        GAUGE,
        Issue.CONVERGENCE,
        State.OK if regular else State.LOOK,
        f"{rates.name} jumps up {len(leaps)} time{'s' * (len(leaps) > 1)}: {'; '.join(places)}.",
        "The distances are equal: this is a schedule with restarts."
        if regular
        else "A decreasing schedule does not do this. If the run was resumed there, the scheduler's state was not "
        "restored, or the length of the run was changed.",
        ""
        if regular
        else "Load the scheduler's state with the model's, or start the new schedule at the current step.",
        "" if regular else "A single intended warm restart looks the same.",
    )


def _as_scheduled(rates: Column) -> Finding:
    """Describes the schedule: constant, warm-up, steps down, to zero."""
    values = rates.values
    top, place = float(values.max()), int(values.argmax())
    words = []
    if np.ptp(values) <= 1e-6 * top:
        words.append(f"constant at {significant(top)}")
    else:
        if values[0] < 0.9 * top:
            words.append(f"rises to {significant(top)} by step {rates.steps[place]:,}")
        down = _leaps(rates, upwards=False)
        if len(down):
            at = ", ".join(f"{rates.steps[leap + 1]:,}" for leap in down[:4])
            words.append(f"steps down at {at}")
        words.append(f"ends at {values[-1] / top:.2g} of its largest, {significant(top)}")
    zero = values[-1] <= 0.05 * top
    return Finding(
        GAUGE,
        Issue.CONVERGENCE,
        State.OK,
        f"{rates.name}: {', '.join(words)}; it never jumps up.",
        "It goes to zero by the end." if zero else "It does not go to zero: the parameters keep fluctuating.",
        "" if zero else "If this was the end of the run, a final decay to zero removes the fluctuations.",
    )
