"""Claims about the course of a training: finite, at a guess, dead, and its learning rate."""

import numpy as np

from gradiometer.verdict.claims import Claim, Claimed
from gradiometer.verdict.triage.level import Known, Level
from gradiometer.verdict.triage.schedule import is_constant
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.thresholds import (
    AT_A_GUESS,
    DEAD,
    DIED,
    EXPLODED,
    FEWEST_LOOKS,
    FEWEST_STEPS,
    GREW,
    HELD_UP,
    LEARNT,
    LEFT_TO_GAIN,
    MOMENTUM_HIGH,
    MOVED_FAST,
    MOVED_FAST_WITH_MOMENTUM,
    SHRANK,
    STILL_MOVING,
    TRAVEL,
    VANISHED,
    WIDE_OUTPUTS,
)


def exploding(signs: Signs, level: Level) -> Claimed | None:
    """The outputs are so large at the start that the first loss is far above a guess."""
    first = float(signs.losses[0]) if signs.steps else np.nan
    wide = signs.series("output_std")[:1]
    if level.known_by is Known.START or not len(wide):
        return None
    if not (first > EXPLODED * level.value and wide[0] > WIDE_OUTPUTS) and np.isfinite(first):
        return None
    if not np.isfinite(first) and not wide[0] > WIDE_OUTPUTS:
        return None
    numbers = {"first_loss": first, "guess": level.value, "output_spread": float(wide[0])}
    return Claimed(Claim.EXPLODING, numbers, ("nn.init.kaiming_normal_(layer.weight)",))


def dead_relu(signs: Signs, level: Level) -> Claimed | None:
    """Nearly all of the gradient of a weight tensor is zero from the start."""
    zeros = zero_shares(signs)
    if zeros is None or len(zeros) < FEWEST_LOOKS:
        return None
    share = largest_zero_share(zero_shares(signs, at_start=True))
    if not share > DEAD or not largest_zero_share(zeros[:3]) > DEAD or not ended_at(signs, level) > LEARNT:
        return None
    return Claimed(Claim.DEAD_RELU, {"zeros": share}, ("nn.init.zeros_(layer.bias)", "nn.LeakyReLU(0.01)"))


def vanishing(signs: Signs, level: Level) -> Claimed | None:
    """At a guess, the first layer has next to no gradient."""
    ratio = first_over_last(signs)
    if not ended_at(signs, level) > AT_A_GUESS or not ratio < VANISHED:
        return None
    cure = ("nn.init.kaiming_normal_(layer.weight)", "nn.BatchNorm1d(width)")
    return Claimed(Claim.VANISHING, {"ratio": ratio}, cure)


def weight_decay(signs: Signs, level: Level) -> Claimed | None:
    """Weights shrink under weight decay while the loss is still high."""
    if not signs.weight_decay > 0 or signs.steps < FEWEST_STEPS:
        return None
    if not (signs.growth < SHRANK and ended_at(signs, level) > HELD_UP):
        return None
    numbers = {"decay": signs.weight_decay, "growth": signs.growth}
    return Claimed(Claim.WEIGHT_DECAY, numbers, (f"weight decay {signs.weight_decay / 100:.2g}",))


def rate_high(signs: Signs, level: Level) -> Claimed | None:
    """Steps are large against the weights while they grow, or left the loss at a guess, or killed units."""
    if signs.steps < FEWEST_STEPS and np.isfinite(signs.losses).all():
        return None
    moved = mean_movement(signs)
    late = ended_at(signs, level)
    diverged = not np.isfinite(signs.losses[-10:]).all()
    with_momentum = signs.momentum > MOMENTUM_HIGH and signs.family == "sgd"
    limit = MOVED_FAST_WITH_MOMENTUM if with_momentum else MOVED_FAST
    grew = moved > limit and signs.growth > GREW
    fell_back = late > AT_A_GUESS and moved > limit
    zeros = zero_shares(signs)
    died = (
        zeros is not None
        and len(zeros) >= FEWEST_LOOKS
        and late > LEARNT
        and moved > limit
        and largest_zero_share(zeros[-3:]) > DIED > largest_zero_share(zero_shares(signs, at_start=True))
    )
    if not (diverged or grew or fell_back or died):
        return None
    numbers = {"movement": moved, "growth": signs.growth, "loss": late}
    if with_momentum:
        return Claimed(Claim.MOMENTUM_RATE, numbers | {"momentum": signs.momentum}, ("rate 0.1x", "momentum 0.9"))
    return Claimed(Claim.RATE_HIGH, numbers, ("rate 0.25x",))


def rate_low(signs: Signs, level: Level) -> Claimed | None:
    """The weights hardly moved."""
    if signs.steps < FEWEST_STEPS or not signs.has_ended:
        return None
    if not signs.travel < TRAVEL or not ended_at(signs, level) > LEARNT:
        return None
    factor = 16 if signs.travel < TRAVEL / 4 else 4
    return Claimed(
        Claim.RATE_LOW, {"travel": signs.travel, "steps": float(signs.steps)}, (f"rate {factor}x",), ("fine_tuning",)
    )


def no_decay(signs: Signs, level: Level) -> Claimed | None:
    """A constant rate, still moving the weights at the end, with loss left to gain."""
    if signs.steps < FEWEST_STEPS or not signs.has_ended or not is_constant(signs):
        return None
    moved = mean_movement(signs, since=0.5)
    left = ended_at(signs, level)
    if not (moved > STILL_MOVING and left > LEFT_TO_GAIN):
        return None
    return Claimed(Claim.NO_DECAY, {"movement": moved, "loss": left}, ("cool now",), ("stopped_early",))


def ended_at(signs: Signs, level: Level) -> float:
    """The loss of the last steps in units of a guess; NaN if the level is unknown."""
    return signs.end() / level.value if level.value > 0 else float("nan")


def mean_movement(signs: Signs, since: float = 0.0) -> float:
    """The mean of ‖Δw‖/‖w‖ over the steps from this share of the run on; NaN if unknown."""
    late = signs.movements[round(since * signs.steps) :]
    return float(late.mean()) if len(late) else float("nan")


def zero_shares(signs: Signs, *, at_start: bool = False) -> np.ndarray | None:
    """At every look, or before the first update, the share of zeros in the gradient of every weight tensor.

    Embeddings are left out: rows of tokens that a batch does not have get no gradient. None if it is unknown.
    """
    if "nonzero" not in signs.tensors:
        return None
    nonzero = signs.tensors["nonzero"]
    if at_start:
        nonzero = signs.tensors.get("nonzero_at_start", nonzero)[:1]
    layers = signs.facts.get("layers", [])
    places = [place for place in signs.weights if not str(layers[place]).startswith("Embedding")]
    sizes = np.array(signs.facts["sizes"], dtype=float)[places]
    if not places:
        return None
    return np.asarray(1 - nonzero[:, places] / sizes)


def largest_zero_share(shares: np.ndarray | None) -> float:
    """The median over looks of the tensor that has most zeros; NaN if unknown."""
    return float("nan") if shares is None else float(np.median(shares, axis=0).max())


def first_over_last(signs: Signs) -> float:
    """Gradient of a weight in the first weight tensor over that in the last, root mean square; NaN if unknown."""
    if "gradient" not in signs.tensors or len(signs.weights) < 2:
        return float("nan")
    sizes = np.array(signs.facts["sizes"], dtype=float)
    sizes = np.sqrt(sizes[[signs.weights[0], signs.weights[-1]]])
    both = signs.tensors["gradient"][:, [signs.weights[0], signs.weights[-1]]] / sizes
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = both[:, 0] / both[:, 1]
    ratios = ratios[np.isfinite(ratios)]
    return float(np.median(ratios)) if len(ratios) else float("nan")
