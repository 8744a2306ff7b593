"""Claims about the length of a training and its batch."""

import math

import numpy as np

from gradiometer.verdict.claims import Claim, Claimed, Code, InWords, Sign
from gradiometer.verdict.triage.course import ended_at, late_fall
from gradiometer.verdict.triage.level import Level
from gradiometer.verdict.triage.schedule import ends_high
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.thresholds import (
    AGREE,
    APART_FROM_TRAINING,
    DRAWN_AWAY,
    FAR,
    FEW_AN_EPOCH,
    FEW_LABELS,
    FLAT,
    LARGE_BATCH,
    LEARNT,
    LEFT_BY_NOISE,
    LITTLE_LEFT,
    RATHER_SMALL,
    RISEN,
    SEEN_AGAIN,
    SMALL_BATCH,
    STEPS_OF_REACH,
    STILL_LEARNS,
)


def stopped_early(signs: Signs, level: Level) -> Claimed | None:
    """The rate is still high, and the loss still falls, after few passes over the data. It is never
    certain: a missing decay looks the same."""
    if signs.is_short or not signs.has_ended or not ends_high(signs):
        return None
    epochs = signs.epochs
    fell, error = late_fall(signs)
    if not (epochs < SEEN_AGAIN and ended_at(signs, level) > LITTLE_LEFT):
        return None
    if not (fell > error and signs.reach < FAR * signs.usual_reach()):
        return None
    numbers = {"fell": fell, "epochs": epochs}
    cure = (InWords(f"train for {4 * signs.length:,} steps"),)
    return Claimed(Claim.STOPPED_EARLY, numbers, cure, ("no_decay",), is_certain=False)


def still_falls(signs: Signs) -> bool:
    """True if the loss falls fast at a high rate, from whatever height, and not by learning the
    training examples by heart.

    Of three public scripts that ended below 1 % of a guess, two lost another 81 and 93 % of that at
    four times the rate, and one 13 % by a decay.
    """
    return ends_high(signs) and late_fall(signs)[0] > STILL_LEARNS and not generalises_worse(signs)


def batch_small(signs: Signs, level: Level) -> Claimed | None:
    """Successive gradients of tiny batches share next to nothing. It is a suspect if the batch is
    not that tiny, or little is left to gain."""
    if signs.is_short or not 0 < signs.batch_size <= RATHER_SMALL:
        return None
    if (signs.series("labels") > FEW_LABELS).any():
        return None
    left = math.inf if signs.has_no_floor else ended_at(signs, level)
    least = LEFT_BY_NOISE if signs.batch_size <= SMALL_BATCH else LITTLE_LEFT
    if not signs.cosine < AGREE or not left > least:
        return None
    numbers = {"batch": float(signs.batch_size), "shared": signs.cosine}
    # A line of the program and no change of a fork: branches have as many examples, and so an
    # eighth of the updates. All six of the clinic then ended worse, at √8 and at 8 times the rate;
    # with as many updates all ended better.
    cure = Code(f"batch_size = {8 * signs.batch_size}; lr = 2.8 * lr")
    is_certain = signs.batch_size <= SMALL_BATCH and left > LEARNT
    sign = Sign.NOTHING_SHARED if signs.cosine <= 0 else Sign.USUAL
    return Claimed(Claim.BATCH_SMALL, numbers, (cure,), is_certain=is_certain, sign=sign)


def batch_large(signs: Signs, level: Level) -> Claimed | None:
    """Several passes over the data have few updates, and there are few in all."""
    if signs.is_short or not signs.has_ended or not signs.epochs >= SEEN_AGAIN:
        return None
    if "graph" in signs.single:
        return None
    if not signs.updates_an_epoch <= FEW_AN_EPOCH or not ended_at(signs, level) > LITTLE_LEFT:
        return None
    # Gradients of one batch are always alike: a network for physics, whose loss had come to its
    # noise, gained 0.1 % from three times as many updates on an eighth of its batch.
    if signs.is_one_batch and not late_fall(signs)[0] > FLAT:
        return None
    is_large = signs.batch_size >= LARGE_BATCH and signs.steps < STEPS_OF_REACH
    if not is_large or generalises_worse(signs):
        return None
    numbers = {
        "batch": float(signs.batch_size),
        "updates": signs.updates_an_epoch,
        "steps": float(signs.steps),
    }
    return Claimed(Claim.BATCH_LARGE, numbers, ("batch 0.125x",))


def generalises_worse(signs: Signs) -> bool:
    """True if more updates, or longer ones, would fit the training examples alone: the test loss
    has risen."""
    test = signs.test[np.isfinite(signs.test)]
    return bool(len(test)) and bool(test[-1] > RISEN * test.min())


def learns_by_heart(signs: Signs) -> bool:
    """True if the test loss has drawn away from that of training examples since the first half, and
    its lowest value is behind, or it has risen if theirs is unknown: a further fall of the training
    loss gains nothing on fresh rows. At a constant rate a test loss varies, and theirs does so with
    it."""
    both = np.isfinite(signs.test) & np.isfinite(signs.train)
    if both.sum() < 4:
        return generalises_worse(signs)
    ratios = signs.test[both] / signs.train[both]
    _, before, _, now = (quarter.mean() for quarter in np.array_split(ratios, 4))
    drawn_away = now > max(APART_FROM_TRAINING, before + DRAWN_AWAY)
    return bool(drawn_away and signs.test[both][-1] > signs.test[both].min())


def test_falls(signs: Signs) -> bool:
    """True if the test loss was lowest in the last quarter of the evaluations, by more than a flat
    loss varies."""
    test = signs.test[np.isfinite(signs.test)]
    earlier = test[: -max(len(test) // 4, 1)]
    return bool(len(earlier)) and bool(test.min() < (1 - FLAT) * earlier.min())
