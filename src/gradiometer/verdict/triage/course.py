"""Claims about the course of a training: finite, at a guess, dead, and its learning rate."""

import numpy as np

from gradiometer.verdict.claims import Claim, Claimed
from gradiometer.verdict.triage.level import Known, Level
from gradiometer.verdict.triage.schedule import is_constant
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.thresholds import (
    AT_A_GUESS,
    DEAD,
    DECAY_LEFT,
    DECAY_MOSTLY,
    DECAY_SHARE,
    DIED,
    EXPLODED,
    FELL_BACK,
    FEW_ENTRIES,
    FEWEST_LOOKS,
    FEWEST_STEPS,
    GREW,
    HELD_UP,
    LEAPT,
    LEARNT,
    LEFT_A_GUESS,
    LEFT_TO_GAIN,
    LONG_AT_A_GUESS,
    LONG_TRAVEL,
    MOMENTUM_COUNTS,
    MOVED_FAST,
    MOVED_SLOWLY,
    SHRANK,
    STILL_MOVING,
    TRAVEL,
    VANISHED,
    VANISHED_AT_REST,
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
    """From the start and while the loss stays at a guess, some layer has next to no gradient."""
    at_a_guess = steps_at_a_guess(signs, level)
    ratio = smallest_over_last(signs, until=at_a_guess)
    limit = VANISHED if signs.travel > TRAVEL else VANISHED_AT_REST
    if not at_a_guess > LONG_AT_A_GUESS * signs.steps or not ratio < limit:
        return None
    if not smallest_over_last(signs, until=at_a_guess // 10) < limit:
        return None
    if late_deaths(signs) < DIED or ended_at(signs, level) > LEFT_A_GUESS:
        return None  # units that died on the way pass no gradient either, and a rate that is too high leaves a guess
    cure = ("nn.init.kaiming_normal_(layer.weight)", "nn.BatchNorm1d(width)")
    return Claimed(Claim.VANISHING, {"ratio": ratio, "steps": float(at_a_guess)}, cure)


def weight_decay(signs: Signs, level: Level) -> Claimed | None:
    """Weights shrink under weight decay while the loss is still high, or decay is much of what moves them."""
    if not signs.weight_decay > 0 or signs.steps < FEWEST_STEPS:
        return None
    late = ended_at(signs, level)
    share = decay_share(signs)
    shrank = signs.growth < SHRANK and late > HELD_UP
    moves = signs.family == "sgd" and share > DECAY_SHARE and late > DECAY_LEFT
    moves_most = share > DECAY_MOSTLY and late > LEFT_TO_GAIN
    if not (shrank or moves or moves_most):
        return None
    numbers = {"decay": signs.weight_decay, "growth": signs.growth, "share": share}
    return Claimed(Claim.WEIGHT_DECAY, numbers, (f"weight decay {signs.weight_decay / 100:.2g}",))


def rate_high(signs: Signs, level: Level) -> Claimed | None:
    """Steps are large against the weights while they grow, or left the loss at a guess, or killed units."""
    diverged = not np.isfinite(signs.losses[-10:]).all()
    if signs.steps < FEWEST_STEPS and not diverged:
        return None
    moved, late, died = mean_movement(signs), ended_at(signs, level), late_deaths(signs)
    leapt = signs.family != "adaptive" or largest_movement(signs) > LEAPT
    grew = moved > MOVED_FAST and signs.growth > GREW and leapt
    fell_back = late > AT_A_GUESS and moved > FELL_BACK
    if not (diverged or grew or fell_back or (died < DIED and late > LEARNT)):
        return None
    numbers = {"movement": moved, "growth": signs.growth, "loss": late, "alive": died}
    if signs.family == "sgd" and signs.momentum >= MOMENTUM_COUNTS:
        factor = 1 - signs.momentum
        return Claimed(Claim.MOMENTUM_RATE, numbers | {"momentum": signs.momentum}, (f"rate {factor:.2g}x",))
    return Claimed(Claim.RATE_HIGH, numbers, ("rate 0.25x",))


def rate_low(signs: Signs, level: Level) -> Claimed | None:
    """The weights hardly moved."""
    if signs.steps < FEWEST_STEPS or not signs.has_ended:
        return None
    if not (signs.travel < TRAVEL and mean_movement(signs) < MOVED_SLOWLY) or not ended_at(signs, level) > LEARNT:
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
    if not (moved > STILL_MOVING and left > LEFT_TO_GAIN and signs.travel > LONG_TRAVEL):
        return None
    return Claimed(Claim.NO_DECAY, {"movement": moved, "loss": left}, ("cool now",), ("stopped_early",))


def ended_at(signs: Signs, level: Level) -> float:
    """The loss of the last steps in units of a guess; NaN if the level is unknown."""
    return signs.end() / level.value if level.value > 0 else float("nan")


def mean_movement(signs: Signs, since: float = 0.0) -> float:
    """The mean of ‖Δw‖/‖w‖ over the steps from this share of the run on; NaN if unknown."""
    late = signs.movements[round(since * signs.steps) :]
    return float(late.mean()) if len(late) else float("nan")


def largest_movement(signs: Signs) -> float:
    """The largest ‖Δw‖/‖w‖ of a step that was looked at; NaN if unknown."""
    known = signs.movement[np.isfinite(signs.movement)]
    return float(known.max()) if len(known) else float("nan")


def decay_share(signs: Signs) -> float:
    """Share of the late movement that is weight decay alone: ηλ, with momentum ηλ/(1 − μ), over ‖Δw‖/‖w‖."""
    rates = signs.rates[len(signs.rates) // 2 :]
    moved = mean_movement(signs, since=0.5)
    if not len(rates) or not moved > 0 or signs.optimizer not in ("SGD", "AdamW"):
        return float("nan")  # the decay of others is divided by the size of the gradient
    longer = 1 / (1 - signs.momentum) if signs.optimizer == "SGD" and signs.momentum < 1 else 1.0
    return float(rates.mean() * signs.weight_decay * longer / moved)


def late_deaths(signs: Signs) -> float:
    """Entries of the gradient that are not zero at the end, as a share of those at the start; NaN if unknown.

    It is that of the tensor with fewest.
    """
    zeros, at_start = zero_shares(signs), zero_shares(signs, at_start=True)
    if zeros is None or at_start is None or len(zeros) < FEWEST_LOOKS:
        return float("nan")
    alive = 1 - at_start[0]
    known = (alive > 1 - DEAD) & (weight_sizes(signs) >= FEW_ENTRIES)
    return float(((1 - np.median(zeros[-3:], axis=0))[known] / alive[known]).min()) if known.any() else float("nan")


def zero_shares(signs: Signs, *, at_start: bool = False) -> np.ndarray | None:
    """At every look, or before the first update, the share of zeros in the gradient of every weight tensor.

    Embeddings are left out: rows of tokens that a batch does not have get no gradient. None if it is unknown.
    """
    if "nonzero" not in signs.tensors:
        return None
    nonzero = signs.tensors["nonzero"]
    if at_start:
        nonzero = signs.tensors.get("nonzero_at_start", nonzero)[:1]
    places = no_embeddings(signs)
    return np.asarray(1 - nonzero[:, places] / weight_sizes(signs)) if places else None


def no_embeddings(signs: Signs) -> list[int]:
    """Places of the weight tensors that are not of embeddings."""
    layers = signs.facts.get("layers", [])
    return [int(place) for place in signs.weights if not str(layers[place]).startswith("Embedding")]


def weight_sizes(signs: Signs) -> np.ndarray:
    """Number of entries of these tensors."""
    return np.array(signs.facts["sizes"], dtype=float)[no_embeddings(signs)]


def largest_zero_share(shares: np.ndarray | None) -> float:
    """The median over looks of the tensor that has most zeros; NaN if unknown."""
    return float("nan") if shares is None else float(np.median(shares, axis=0).max())


def steps_at_a_guess(signs: Signs, level: Level) -> int:
    """Number of steps before the loss, as a mean of ten, came below most of a guess for the first time."""
    if not level.value > 0 or len(signs.losses) < 10:
        return 0
    means = np.convolve(signs.losses, np.full(10, 0.1), mode="valid")
    below = np.flatnonzero(means < AT_A_GUESS * level.value)
    return int(below[0]) if len(below) else signs.steps


MULTIPLY = ("Linear", "Conv")
"""Beginnings of the names of layers that multiply their input by their weights, once."""


def smallest_over_last(signs: Signs, until: int) -> float:
    """Gradient of a weight in the layer where it is smallest over that in the last layer, root mean square.

    Only linear layers and convolutions count: most rows of an embedding get no gradient from a batch, a table of
    positions gets that of all examples, and the state of a recurrent layer gets little of labels that are noise. NaN if
    there are fewer than two of them.

    Args:
        until: The medians are over the looks before this step.
    """
    layers = signs.facts.get("layers", [])
    places = [int(place) for place in signs.weights if str(layers[place]).startswith(MULTIPLY)]
    if "gradient" not in signs.tensors or len(places) < 2:
        return float("nan")
    early = signs.looks < max(until, 1)
    sizes = np.array(signs.facts["sizes"], dtype=float)[places]
    by_weight = signs.tensors["gradient"][early][:, places] / np.sqrt(sizes)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = by_weight / by_weight[:, -1:]
    ratios = ratios[np.isfinite(ratios).all(axis=1)]
    return float(np.median(ratios, axis=0).min()) if len(ratios) else float("nan")
