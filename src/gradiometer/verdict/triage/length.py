"""Claims about the length of a training and its batch."""

import numpy as np

from gradiometer.verdict.claims import Claim, Claimed
from gradiometer.verdict.triage.course import ended_at
from gradiometer.verdict.triage.level import Level
from gradiometer.verdict.triage.schedule import ends_high
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.thresholds import (
    ALL_NOISE,
    FEW_EPOCHS,
    FEW_UPDATES,
    FEWEST_STEPS,
    LEARNT,
    LEFT_TO_GAIN,
    NO_NOISE,
    SHORT_TRAVEL,
    SMALL_BATCH,
    STILL_FALLING,
)


def stopped_early(signs: Signs, level: Level) -> Claimed | None:
    """The rate is still high, and the loss still falls, after few passes over the data."""
    if signs.steps < FEWEST_STEPS or not signs.has_ended or not ends_high(signs):
        return None
    epochs = signs.epochs
    fell, error = late_fall(signs)
    if not (fell > STILL_FALLING and fell > 2 * error and epochs < FEW_EPOCHS and signs.travel < SHORT_TRAVEL):
        return None
    if not ended_at(signs, level) > LEFT_TO_GAIN:
        return None
    numbers = {"fell": fell, "epochs": epochs}
    return Claimed(Claim.STOPPED_EARLY, numbers, (f"train for {4 * signs.steps:,} steps",), ("no_decay",))


def batch_small(signs: Signs, level: Level) -> Claimed | None:
    """Successive gradients of tiny batches share next to nothing."""
    if signs.steps < FEWEST_STEPS or not 0 < signs.batch_size <= SMALL_BATCH:
        return None
    if not signs.cosine < ALL_NOISE or not ended_at(signs, level) > LEARNT:
        return None
    numbers = {"batch": float(signs.batch_size), "shared": signs.cosine}
    return Claimed(Claim.BATCH_SMALL, numbers, ("batch 8x, rate sqrt",))


def batch_large(signs: Signs, level: Level) -> Claimed | None:
    """An epoch has few updates, whose gradients are nearly the same."""
    if not signs.updates_an_epoch <= FEW_UPDATES or not signs.cosine > NO_NOISE:
        return None
    if not ended_at(signs, level) > LEFT_TO_GAIN:
        return None
    numbers = {"batch": float(signs.batch_size), "updates": signs.updates_an_epoch, "shared": signs.cosine}
    return Claimed(Claim.BATCH_LARGE, numbers, ("batch 0.125x",))


def late_fall(signs: Signs) -> tuple[float, float]:
    """The relative fall of the loss within the second half, from its first to its last quarter, and its error."""
    losses = signs.finite
    late = losses[len(losses) // 2 :]
    if len(late) < 20:
        return float("nan"), float("nan")
    quarter = len(late) // 4
    first, last = late[:quarter], late[-quarter:]
    error = np.sqrt(first.var(ddof=1) / quarter + last.var(ddof=1) / quarter)
    return float(1 - last.mean() / first.mean()), float(error / first.mean())
