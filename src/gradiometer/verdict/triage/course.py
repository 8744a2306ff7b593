"""Claims about the course of a training: finite, at a guess, dead, and its learning rate."""

import numpy as np

from gradiometer.verdict.claims import Claim, Claimed, Code, Sign
from gradiometer.verdict.triage.faults import without_any_gradient
from gradiometer.verdict.triage.level import Known, Level
from gradiometer.verdict.triage.schedule import is_constant
from gradiometer.verdict.triage.signs import SMALL, Array, Signs
from gradiometer.verdict.triage.thresholds import (
    AT_A_GUESS,
    BEYOND_THE_EDGE,
    CALM,
    DEAD,
    DECAY_MOSTLY,
    DECAY_SHARE,
    DIED,
    EXPLODED,
    FAR_BEYOND_THE_EDGE,
    FEW_ENTRIES,
    FEWEST_LOOKS,
    FLAT_IN_A_LOG,
    HALF_A_GUESS,
    JUMPED,
    JUMPED_IN_NOISE,
    JUMPS,
    LEAPT,
    LEAPT_TO_DEATH,
    LEARNT,
    LITTLE_EXCESS,
    LITTLE_LEFT,
    MOMENTUM_COUNTS,
    OVERSHOT,
    SMALL_SHARE,
    USUAL_DECAY,
    VANISHED,
    WIDE_OUTPUTS,
    WORTH_OF_A_DECAY,
)


def exploding(signs: Signs, level: Level) -> Claimed | None:
    """The outputs are so large at the start that the first loss is far above a guess."""
    first = float(signs.losses[0]) if signs.steps else np.nan
    wide = signs.series("output_std")[:1]
    if level.known_by is Known.START or not len(wide) or not wide[0] > WIDE_OUTPUTS:
        return None
    if np.isfinite(first) and not first > EXPLODED * level.value:
        return None
    numbers = {"first_loss": first, "guess": level.value, "output_spread": float(wide[0])}
    return Claimed(Claim.EXPLODING, numbers, (Code("nn.init.kaiming_normal_(layer.weight)"),))


def dead_relu(signs: Signs, level: Level) -> Claimed | None:
    """Nearly all of the gradient of a weight tensor is zero from the start."""
    zeros = zero_shares(signs)
    if zeros is None or len(zeros) < FEWEST_LOOKS:
        return None
    share = largest_zero_share(zero_shares(signs, at_start=True))
    if (
        not share > DEAD
        or not largest_zero_share(zeros[:3]) > DEAD
        or not ended_at(signs, level) > LEARNT
    ):
        return None
    return Claimed(
        Claim.DEAD_RELU,
        {"zeros": share},
        (Code("nn.init.zeros_(layer.bias)"), Code("nn.LeakyReLU(0.01)")),
    )


def vanishing(signs: Signs, level: Level) -> Claimed | None:
    """Weights begin so small that the last layer gets next to no signal; or from the start and
    while the loss stays at a guess, the first half of the layers has next to no gradient. In
    neither case has the loss come down to nearly nothing, as that of a transformer with small
    weights."""
    if not ended_at(signs, level) > LITTLE_LEFT:
        return None
    cure = (Code("nn.init.kaiming_normal_(layer.weight)"), Code("nn.BatchNorm1d(width)"))
    signal = signal_at_start(signs)
    if signal < VANISHED:
        return Claimed(Claim.VANISHING, {"signal": signal}, cure, sign=Sign.SIGNAL)
    at_a_guess = steps_at_a_guess(signs, level)
    ratio = first_over_last(signs, until=at_a_guess // 10)
    # units that died on the way pass no gradient either
    if not ratio < VANISHED or late_deaths(signs) < DIED:
        return None
    return Claimed(Claim.VANISHING, {"ratio": ratio, "steps": float(at_a_guess)}, cure)


def weight_decay(signs: Signs, level: Level) -> Claimed | None:
    """Decay is much of what moves the weights."""
    if not signs.weight_decay > 0 or signs.is_short:
        return None
    share = decay_share(signs)
    # a decay that is usual has a share above the first limit only at a rate that is too high
    unusual = signs.family == "sgd" and signs.weight_decay > USUAL_DECAY
    limit = DECAY_SHARE if unusual else DECAY_MOSTLY
    if not (share > limit and ended_at(signs, level) > LITTLE_LEFT):
        return None
    numbers = {"decay": signs.weight_decay, "growth": signs.growth, "share": share}
    return Claimed(Claim.WEIGHT_DECAY, numbers, (f"weight decay {signs.weight_decay / 100:.2g}",))


def rate_high(signs: Signs, level: Level) -> Claimed | None:
    """Steps changed the network by itself, were far beyond the edge of stability, or killed
    units."""
    diverged = not np.isfinite(signs.losses[-10:]).all()
    if signs.is_short and not diverged:
        return None
    moved, late, died = mean_movement(signs), ended_at(signs, level), late_deaths(signs)
    far_beyond = signs.family == "adaptive" and signs.highest_edge > FAR_BEYOND_THE_EDGE
    # large steps do no harm to a loss that has come down to nearly nothing
    large = (overshot(signs) or far_beyond) and not late < LEARNT
    # a network often learns as well with the units that are left
    deadly = died_of_steps(signs, died) and late > HALF_A_GUESS
    if not (diverged or large or deadly):
        return None
    numbers = {"movement": moved, "growth": signs.growth, "loss": late, "alive": died}
    is_beyond = large and far_beyond
    if is_beyond:
        numbers["edge"] = signs.highest_edge
    if signs.family == "sgd" and signs.momentum >= MOMENTUM_COUNTS:
        factor = 1 - signs.momentum
        return Claimed(
            Claim.MOMENTUM_RATE, numbers | {"momentum": signs.momentum}, (f"rate {factor:.2g}x",)
        )
    sign = Sign.EDGE if is_beyond else Sign.USUAL
    return Claimed(Claim.RATE_HIGH, numbers, ("rate 0.25x",), sign=sign)


def unstable(signs: Signs, level: Level) -> Claimed | None:
    """The loss jumps again and again, although steps are not large."""
    jumps = len(jumps_of(signs, level))
    if jumps < JUMPS or usual_stride(signs) > CALM:
        return None
    norms = (
        np.sqrt((signs.tensors["gradient"] ** 2).sum(axis=1))
        if "gradient" in signs.tensors
        else np.array([])
    )
    known = norms[np.isfinite(norms)]
    clip = (f"clip {np.median(known):.2g}",) if len(known) else ()
    return Claimed(Claim.UNSTABLE, {"jumps": float(jumps)}, (*clip, "rate 0.25x"))


def usual_stride(signs: Signs) -> float:
    """The stride that one step in ten exceeds; NaN if unknown."""
    return float(np.quantile(signs.strides, 0.9)) if signs.steps else float("nan")


def died_of_steps(signs: Signs, died: float) -> bool:
    """True if units died of the steps of SGD, or of one leap of an adaptive optimizer: under that
    they also die slowly, of labels without meaning or inputs that are not scaled."""
    leapt = signs.family == "sgd" or np.nanmax(signs.strides, initial=0) > LEAPT_TO_DEATH
    return died < DIED and bool(leapt)


def overshot(signs: Signs) -> bool:
    """True if steps of SGD changed the network by about itself, with which normalisation does no
    harm; or the largest step of an adaptive optimizer, which is its first at a high rate, by many
    times itself."""
    if signs.family != "sgd":
        return signs.leap > LEAPT
    # below the edge a step that is large in the weights is one along flat directions
    if not signs.steps or signs.is_normalised or signs.highest_edge < BEYOND_THE_EDGE:
        return False
    return bool(np.quantile(signs.strides, 0.98) > OVERSHOT)


def jumps_of(signs: Signs, level: Level) -> list[int]:
    """Steps after which the loss stayed far above all of the eight before, well after the start and
    apart in time."""
    if not level.value > 0 or signs.is_short:
        return []
    rises = rises_of(signs.losses / level.value)
    noise = np.nanmedian(np.abs(np.diff(signs.losses))) / level.value
    jumps: list[int] = []
    for step in np.flatnonzero(rises > max(JUMPED, JUMPED_IN_NOISE * noise)).tolist():
        is_new = not jumps or step > jumps[-1] + AFTER_A_RISE
        if is_new and stays_up(signs.losses, step):
            jumps.append(step)
    return jumps


# Steps after a rise in which the loss may rise further because of it.
AFTER_A_RISE = 30


def rises_of(losses: np.ndarray) -> np.ndarray:
    """The rise of every loss above the largest of the eight before it.

    There is none in the first tenth, where a loss may rise by itself.
    """
    rises = np.full(len(losses), -np.inf)
    with np.errstate(invalid="ignore"):
        before = np.lib.stride_tricks.sliding_window_view(losses, 8)[:-1].max(axis=1)
        rises[8:] = losses[8:] - before
    rises[: max(len(losses) // 10, 10)] = -np.inf
    return np.where(np.isfinite(rises), rises, -np.inf)


def stays_up(losses: np.ndarray, step: int) -> bool:
    """True if the three losses after this one are above the largest of the eight before it, or not
    finite. A batch of unusual examples has a high loss once, and does no harm."""
    after = losses[step + 1 : step + 4]
    return bool(not (after <= losses[step - 8 : step].max()).any())


def no_decay(signs: Signs, level: Level) -> Claimed | None:
    """A constant rate whose noise keeps the loss up by more than a decay would leave unlearnt."""
    if signs.is_short or not signs.has_ended or not is_constant(signs):
        return None
    left, fell = ended_at(signs, level), late_fall(signs)[0]
    shared, excess = signs.cosine_since(signs.steps // 2), late_excess(signs, level)
    # classes that overlap may leave a loss that no decay lowers
    noisy = left < HALF_A_GUESS and excess > max(WORTH_OF_A_DECAY * fell, LITTLE_EXCESS)
    flat = not len(signs.looks) and fell < FLAT_IN_A_LOG  # all that a log has
    if not (noisy or flat) or not left > LITTLE_LEFT:
        return None
    numbers = {
        "movement": mean_movement(signs, since=0.5),
        "loss": left,
        "shared": shared,
        "excess": excess,
    }
    return Claimed(Claim.NO_DECAY, numbers, ("cool now",), ("stopped_early",))


def late_excess(signs: Signs, level: Level) -> float:
    """The part of the loss that the strides of the second half account for; NaN if unknown.

    Weights that are a stride s away from where they should be cost about s² of a guess.
    """
    late = signs.strides[signs.steps // 2 :]
    if not len(late):
        return float("nan")
    return float(late.mean() ** 2 / ended_at(signs, level))


def late_quarters(signs: Signs) -> tuple[Array, Array]:
    """The losses of the first and of the last quarter of the second half."""
    late = signs.finite[len(signs.finite) // 2 :]
    quarter = len(late) // 4
    return late[:quarter], late[len(late) - quarter :]


def late_fall(signs: Signs) -> tuple[float, float]:
    """The relative fall of the loss within the second half, from its first to its last quarter, and
    its error; NaN if the loss has no floor."""
    first, last = late_quarters(signs)
    quarter = len(first)
    if quarter < 5 or signs.has_no_floor:
        return float("nan"), float("nan")
    error = np.sqrt(first.var(ddof=1) / quarter + last.var(ddof=1) / quarter)
    return float(1 - last.mean() / first.mean()), float(error / first.mean())


def ended_at(signs: Signs, level: Level) -> float:
    """The loss of the last steps in units of a guess; NaN if the level is unknown."""
    return signs.end() / level.value if level.value > 0 else float("nan")


def mean_movement(signs: Signs, since: float = 0.0) -> float:
    """The mean of ‖Δw‖/‖w‖ over the steps from this share of the run on; NaN if unknown."""
    late = signs.movements[round(since * signs.steps) :]
    return float(late.mean()) if len(late) else float("nan")


def decay_share(signs: Signs) -> float:
    """Share of the late movement that is weight decay alone: ηλ, with momentum ηλ/(1 − μ), over
    ‖Δw‖/‖w‖."""
    rates = signs.rates[len(signs.rates) // 2 :]
    moved = mean_movement(signs, since=0.5)
    if not len(rates) or not moved > 0 or signs.optimizer not in ("SGD", "AdamW"):
        return float("nan")  # the decay of others is divided by the size of the gradient
    longer = 1 / (1 - signs.momentum) if signs.optimizer == "SGD" and signs.momentum < 1 else 1.0
    return float(rates.mean() * signs.weight_decay * longer / moved)


def late_deaths(signs: Signs) -> float:
    """Entries of the gradient that are not zero at the end, as a share of those at the start; NaN
    if unknown.

    It is that of the tensor with fewest.
    """
    zeros, at_start = zero_shares(signs), zero_shares(signs, at_start=True)
    if zeros is None or at_start is None or len(zeros) < FEWEST_LOOKS:
        return float("nan")
    alive = 1 - at_start[0]
    known = (alive > 1 - DEAD) & (weight_sizes(signs) >= FEW_ENTRIES)
    return (
        float(((1 - np.median(zeros[-3:], axis=0))[known] / alive[known]).min())
        if known.any()
        else float("nan")
    )


def zero_shares(signs: Signs, *, at_start: bool = False) -> np.ndarray | None:
    """At every look, or before the first update, the share of zeros in the gradient of every weight
    tensor.

    Embeddings are left out: rows of tokens that a batch does not have get no gradient. So are
    recurrent layers. None if it is unknown.
    """
    if "nonzero" not in signs.tensors:
        return None
    nonzero = signs.tensors["nonzero"]
    if at_start:
        nonzero = signs.tensors.get("nonzero_at_start", nonzero)[:1]
    places = places_with_units(signs)
    return np.asarray(1 - nonzero[:, places] / weight_sizes(signs)) if places else None


def places_with_units(signs: Signs) -> list[int]:
    """Places of the weight tensors whose gradient is zero only if units are dead."""
    layers = signs.facts.get("layers", [])
    # a recurrent layer of which only the last output is used has no gradient of its reverse weights
    others = ("Embedding", "LSTM", "GRU", "RNN")
    unreached = without_any_gradient(signs)
    return [
        int(place)
        for place in signs.weights
        if not unreached[place] and not str(layers[place]).startswith(others)
    ]


def weight_sizes(signs: Signs) -> np.ndarray:
    """Number of entries of these tensors."""
    return np.array(signs.facts["sizes"], dtype=float)[places_with_units(signs)]


def largest_zero_share(shares: np.ndarray | None) -> float:
    """The median over looks of the tensor that has most zeros; NaN if unknown."""
    return float("nan") if shares is None else float(np.median(shares, axis=0).max())


def steps_at_a_guess(signs: Signs, level: Level) -> int:
    """Number of steps before the loss, as a mean of ten, came below most of a guess for the first
    time."""
    if not level.value > 0 or len(signs.losses) < 10:
        return 0
    means = np.convolve(signs.losses, np.full(10, 0.1), mode="valid")
    below = np.flatnonzero(means < AT_A_GUESS * level.value)
    return int(below[0]) if len(below) else signs.steps


# Beginnings of the names of layers that multiply their input by their weights, once.
MULTIPLY = ("Linear", "Conv")


def signal_at_start(signs: Signs) -> float:
    """The signal that reaches the last layer at the start, over that with PyTorch's own weights:
    a product over the layers before. NaN if unknown, or if the network is normalised."""
    places = places_that_multiply(signs)
    start, rows = signs.tensors.get("weights_at_start"), signs.facts.get("rows")
    if start is None or rows is None or len(places) < 2 or signs.is_normalised:
        return float("nan")
    sizes = start[0, places] / np.sqrt(np.array(rows, dtype=float)[places])
    shares = sizes[:-1] / (2 * SMALL)
    # the signal may pass a single small layer on another path, as in a residual block
    return float(np.prod(shares)) if np.median(shares) < SMALL_SHARE else float("nan")


def places_that_multiply(signs: Signs) -> list[int]:
    """Places of the weights of linear layers and convolutions."""
    layers = signs.facts.get("layers", [])
    return [int(place) for place in signs.weights if str(layers[place]).startswith(MULTIPLY)]


def first_over_last(signs: Signs, until: int) -> float:
    """Largest gradient norm of a layer in the first half of the layers over that of the last layer.

    Only linear layers and convolutions count: most rows of an embedding get no gradient from a
    batch, a table of positions gets that of all examples, and the state of a recurrent layer gets
    little of labels that are noise. The largest, since a gradient that vanishes is small in all
    layers before: queries and keys of attention have next to none at the start. Norms, since the
    gradient of one weight falls with the width. NaN with fewer than two layers.

    Args:
        until: The medians are over the looks before this step.
    """
    places = places_that_multiply(signs)
    if "gradient" not in signs.tensors or len(places) < 2:
        return float("nan")
    gradients = signs.tensors["gradient"][signs.looks < max(until, 2)][:, places]
    ratios = gradients[:, : len(places) // 2].max(axis=1) / gradients[:, -1]
    ratios = ratios[np.isfinite(ratios)]
    return float(np.median(ratios)) if len(ratios) else float("nan")
