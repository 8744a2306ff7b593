"""Claims about the schedule of the learning rate, read off its path."""

import numpy as np
from scipy.ndimage import median_filter

from gradiometer.measurement.finding import Evidence
from gradiometer.verdict.claims import Claim, Claimed, Code, InWords
from gradiometer.verdict.triage.level import Level
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.thresholds import (
    BELOW_A_HUNDREDTH,
    BURST,
    DECAYED,
    FADED,
    FADED_FOR,
    FEWEST_FALLS,
    FEWEST_LOGGED,
    PER_STEP,
)


def schedule_unit(signs: Signs, _: Level) -> Claimed | None:
    """The scheduler was stepped in another unit than the one it was made for."""
    rates = signs.rates
    if signs.is_short or not len(rates):
        return None
    factor, distance = _constant_factor(rates)
    ends_low = rates.min() < BELOW_A_HUNDREDTH * rates.max()
    if factor and ends_low and not distance >= 0.9 * signs.updates_an_epoch:
        low = float((rates < FADED * rates.max()).mean())
        return Claimed(
            Claim.SCHEDULE_UNIT,
            {"factor": factor, "low_for": low},
            (InWords("call scheduler.step() once an epoch"),),
            evidence=Evidence.EXACT,
        )
    changes = signs.series("rate_changes")
    scheduled = signs.facts.get("scheduled")
    stepped = int(changes[-1]) - 1 if len(changes) else len(np.unique(rates)) - 1
    # one that was never stepped, in less than an epoch, looks like one that keeps the rate
    was_stepped = stepped > 0 or signs.facts.get("scheduler") != "ConstantLR"
    if (
        scheduled
        and signs.has_ended
        and signs.steps >= scheduled / 2
        and was_stepped
        and stepped < scheduled / 4
    ):
        numbers = {"scheduled": float(scheduled), "stepped": float(stepped)}
        cure = (InWords("call scheduler.step() after every update"),)
        return Claimed(Claim.SCHEDULE_UNIT, numbers, cure, evidence=Evidence.EXACT)
    turns = _turns(rates)
    if scheduled and turns >= 3 and scheduled < signs.steps / 4:
        numbers = {"scheduled": float(scheduled), "turns": float(turns)}
        unit = (Code(f"T_max={signs.length}"),)
        return Claimed(Claim.SCHEDULE_UNIT, numbers, unit, evidence=Evidence.EXACT)
    return None


def decay_early(signs: Signs, _: Level) -> Claimed | None:
    """The rate was next to zero for most of the run."""
    rates = signs.rates
    if signs.is_short or not len(rates) or not rates.max() > 0:
        return None
    low = rates < DECAYED * rates.max()
    first = int(np.argmax(low)) if low.any() else len(rates)
    if not low.mean() > FADED_FOR or (first < int(np.argmax(rates)) and low[0]):
        return None
    return Claimed(
        Claim.DECAY_EARLY,
        {"low_for": float(low.mean()), "from_step": float(signs.step_of(first))},
        (f"follow Cosine({rates.max():.3g}, steps={signs.length})",),
        evidence=Evidence.EXACT,
    )


def rate_burst(signs: Signs, _: Level) -> Claimed | None:
    """The rate was many times higher for a few steps."""
    rates = signs.rates
    if signs.is_short or not len(rates) or not rates.max() > 0:
        return None
    usual = _neighbours(rates)
    # a schedule that ends at zero has neighbours of zero there
    burst = (rates >= BURST * usual) & (rates > 0)
    count = int(burst.sum())
    if not count:
        return None
    first = int(np.argmax(burst))
    steps = float(signs.step_of(first + count) - signs.step_of(first))
    numbers = {
        "step": float(signs.step_of(first)),
        "steps": steps,
        "times": float((rates / usual)[burst].max()),
    }
    cure = (InWords("remove the jump of the learning rate"),)
    return Claimed(Claim.RATE_BURST, numbers, cure, evidence=Evidence.EXACT)


def is_constant(signs: Signs) -> bool:
    """True if the rate is the same for the whole run, after a warm-up in its first tenth."""
    rates = signs.rates[len(signs.rates) // 10 :]
    return bool(len(rates)) and bool(rates.min() > 0.9 * rates.max())


def ends_high(signs: Signs) -> bool:
    """True if the rate at the end is more than a fifth of its height."""
    return bool(len(signs.rates)) and bool(signs.rates[-1] > 0.2 * signs.rates.max())


def _constant_factor(rates: np.ndarray) -> tuple[float, float]:
    """The factor of every step, if the rate falls by one factor again and again, and the steps from
    fall to fall.

    Both are 0 otherwise.
    """
    positive = rates[rates > 0]
    steps = np.arange(len(positive))
    if len(positive) < FEWEST_LOGGED:
        return 0.0, 0.0
    logs = np.log(positive)
    falls = np.diff(logs)
    falls = falls[falls != 0]
    if len(falls) < FEWEST_FALLS or falls.max() > 0:
        return 0.0, 0.0
    slope, start = np.polyfit(steps, logs, 1)
    # a staircase leaves its line by half a stair
    away = np.abs(logs - (start + slope * steps)).max()
    if not (slope < -PER_STEP and away < -0.6 * falls.min()):
        return 0.0, 0.0
    return float(np.exp(slope)), len(positive) / len(falls)


def _turns(rates: np.ndarray) -> int:
    """How often the rate turned between falling and rising."""
    changes = np.sign(np.diff(rates))
    changes = changes[changes != 0]
    return int((changes[1:] != changes[:-1]).sum())


def _neighbours(rates: np.ndarray) -> np.ndarray:
    """At every step, the median of the rates around it, a tenth of the run to each side."""
    half = max(len(rates) // 10, 5)
    # medians of sliding windows took 0.9 s and half a gigabyte for 18,000 steps
    return np.asarray(median_filter(rates, size=2 * half + 1, mode="nearest"))
