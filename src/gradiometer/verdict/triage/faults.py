"""Faults that the signs show exactly: a line of the program is wrong."""

import numpy as np

from gradiometer.estimation.products import left_by_scaler
from gradiometer.measurement.finding import Evidence
from gradiometer.verdict.claims import Claim, Claimed, Code, InWords
from gradiometer.verdict.triage.level import Level, trained_loss
from gradiometer.verdict.triage.signs import NORMALISATIONS, Signs
from gradiometer.verdict.triage.thresholds import (
    ABOVE_TRAINING,
    CLEARED,
    DROPPED,
    DROPPED_IN_VAIN,
    FAR,
    HALF_CLIPPED,
    OFF_CENTRE,
    SORTED,
    STALE,
    UNREACHED,
    WIDE,
)


def no_gradient(signs: Signs, _: Level) -> Claimed | None:
    """Parameters that no optimizer holds, or a part of the model that no backward reaches.

    What is cut off from the loss takes everything before it along. A part that comes after others
    that are reached is one that the model does not use: ten such trainings of the clinic lost
    nothing by it.
    """
    untrained = len(signs.facts.get("untrained", []))
    unreached = without_any_gradient(signs)
    sizes = np.array(signs.facts.get("sizes", []), dtype=float)
    is_cut_off = unreached[:1].any() and sizes[unreached].sum() > UNREACHED * sizes.sum()
    if not (untrained or is_cut_off):
        return None
    numbers = {
        "untrained": float(untrained),
        "unreached": float(unreached.sum()),
        "tensors": float(len(signs.facts["tensors"])),
    }
    cut_off = InWords("remove `detach()` and `no_grad()` before these parameters")
    in_none = Code("optimizer = type(optimizer)(model.parameters(), ...)")
    return Claimed(
        Claim.NO_GRADIENT,
        numbers,
        (in_none if untrained else cut_off,),
        evidence=Evidence.EXACT,
    )


def without_any_gradient(signs: Signs) -> np.ndarray:
    """True for each tensor that had no gradient at any look. An expert or a layer that is left out
    at times has some.

    A `.grad` of zeros is one that was reached: units that are dead.
    """
    counts = signs.series("without_gradient")
    if not len(counts) or not counts.min() > 0 or "gradient" not in signs.tensors:
        return np.zeros(len(signs.facts.get("sizes", [])), dtype=bool)
    return np.asarray((signs.tensors["gradient"] == 0).all(axis=0))


def softmax_twice(signs: Signs, _: Level) -> Claimed | None:
    """The loss takes a softmax of outputs that went through one before."""
    trained = trained_loss(signs)
    off, least = signs.series("row_sum_off"), signs.series("output_min")
    sums_to_one = bool(len(off)) and off.max() < STALE and least.min() >= 0
    if trained == "twice" or (trained == "cross_entropy" and sums_to_one):
        return Claimed(
            Claim.SOFTMAX_TWICE,
            {},
            (InWords("remove the softmax at the end of the model: the loss has its own"),),
            evidence=Evidence.EXACT,
        )
    return None


def eval_mode(signs: Signs, _: Level) -> Claimed | None:
    """Layers that act otherwise in eval mode are in it while the model is trained."""
    layers, in_eval = signs.series("sensitive"), signs.series("in_eval")
    if not len(layers) or not layers[-1]:
        return None
    # mostly since the first evaluation, after which nobody switched back
    last = (in_eval >= layers)[-max(3, len(layers) // 2) :]
    if not (len(last) >= 3 and last.all()):
        return None
    return Claimed(
        Claim.EVAL_MODE,
        {"layers": float(layers[-1])},
        (Code("model.train()"),),
        evidence=Evidence.EXACT,
    )


def dropout(signs: Signs, _: Level) -> Claimed | None:
    """Dropout leaves too little, or half, although nothing is overfitted."""
    share = float(signs.facts.get("dropout", 0.0))
    known = np.isfinite(signs.test) & np.isfinite(signs.train)
    in_vain = known.any() and signs.test[known][-1] < ABOVE_TRAINING * signs.train[known][-1]
    if not (share >= DROPPED or (share >= DROPPED_IN_VAIN and in_vain and signs.has_ended)):
        return None
    return Claimed(
        Claim.DROPOUT,
        {"dropped": share},
        (Code("nn.Dropout(0.1)"),),
        # one half is usual: of six public trainings with it, one ended lower with less
        is_certain=share >= DROPPED,
        evidence=Evidence.EXACT,
    )


def zero_grad(signs: Signs, _: Level) -> Claimed | None:
    """Gradients of earlier updates are still in `.grad` when `backward` adds to it."""
    backwards = signs.single.get("backwards")
    if backwards is None or not (backwards > 0).any() or "gradient" not in signs.tensors:
        return None
    heard = backwards > 0
    made = np.sqrt((signs.tensors["gradient"] ** 2).sum(axis=1))
    stale = np.nan_to_num(signs.single.get("stale", np.zeros(len(made))))
    left = stale[heard] > STALE * made[heard]
    if not left.mean() >= CLEARED:
        return None
    return Claimed(
        Claim.ZERO_GRAD,
        {"looks": float(left.mean())},
        (Code("optimizer.zero_grad()"),),
        evidence=Evidence.EXACT,
    )


def accumulation(signs: Signs, _: Level) -> Claimed | None:
    """The losses of several backwards of an update are not divided by their number."""
    backwards = backwards_an_update(signs)
    if not backwards >= 2 or "root" not in signs.single or signs.is_of_a_game:
        return None
    root = signs.single["root"] / signs.single.get("scale", np.ones(len(signs.looks)))
    # A loss that was divided before it was given to `step` looks like one that was not. The loss of
    # the outputs and labels of the last micro-batch shows the difference.
    known = [_ratio(root, signs.single[name]) for name in signs.single if name.startswith("as_")]
    from_mean = min((abs(ratio - 1) for ratio in known), default=np.nan)
    from_part = min((abs(backwards * ratio - 1) for ratio in known), default=np.nan)
    if not from_mean < from_part:
        return None
    return Claimed(
        Claim.ACCUMULATION,
        {"backwards": backwards},
        (Code(f"(loss / {backwards:.0f}).backward()"),),
        evidence=Evidence.EXACT,
    )


def backwards_an_update(signs: Signs) -> float:
    """The usual number of backwards to an update; 0 if it is unknown."""
    return _usual(signs.series("backwards")) * signs.steps_an_update


def _ratio(values: np.ndarray, others: np.ndarray) -> float:
    """The median of a ratio; NaN if both are never known at once."""
    ratios = values / others
    ratios = ratios[np.isfinite(ratios)]
    return float(np.median(ratios)) if len(ratios) else float("nan")


def nan_example(signs: Signs, _: Level) -> Claimed | None:
    """Inputs hold NaN or infinity."""
    bad, rows = signs.series("inputs_not_finite"), signs.series("rows")
    seen = float((bad > 0).mean()) if len(bad) else 0.0
    if not (seen or signs.not_finite == "inputs"):
        return None
    numbers = {
        "batches": seen,
        "examples": float(bad.sum() / rows.sum()) if seen and rows.sum() else 0.0,
    }
    cure = (Code("keep = inputs.flatten(1).isfinite().all(1)"),)
    return Claimed(Claim.NAN_EXAMPLE, numbers, cure, evidence=Evidence.EXACT)


def unshuffled(signs: Signs, _: Level) -> Claimed | None:
    """A batch holds fewer classes, or more similar targets, than a shuffled order would give it."""
    found, expected = signs.single.get("classes"), signs.single.get("classes_expected")
    if _usual(signs.series("labels")) > _usual(signs.series("rows")):
        return None  # the tokens of a text and the pixels of an image are alike in any order
    if found is not None and expected is not None:
        # what is expected comes from all labels so far: of sorted data the last look knows most
        known, kind = np.isfinite(found), "classes"
        expected = np.full(len(found), signs.series("classes_expected")[-1])
    else:
        found, expected = signs.single.get("batch_variance"), signs.single.get("target_variance")
        if found is None or expected is None:
            return None
        known, kind = (
            np.isfinite(found) & (expected > 0) & (signs.looks > signs.steps / 2),
            "variance",
        )
    ratios = found[known] / expected[known]
    if len(ratios) < 3 or not upper_end(ratios) < SORTED:
        return None
    numbers = {
        kind: float(np.median(found[known])),
        f"{kind}_expected": float(np.median(expected[known])),
    }
    return Claimed(Claim.UNSHUFFLED, numbers, (Code("DataLoader(..., shuffle=True)"),))


def upper_end(values: np.ndarray) -> float:
    """The mean and two standard errors of it."""
    return float(values.mean() + 2 * values.std(ddof=1) / np.sqrt(len(values)))


def unscaled(signs: Signs, _: Level) -> Claimed | None:
    """The inputs are far from mean 0 and spread 1, and the network does not begin with a
    normalisation, or with a convolution and one."""
    spread, mean = signs.series("input_std"), signs.series("input_mean")
    if not len(spread) or is_normalised_at_once(signs):
        return None
    wide, middle = float(np.median(spread)), abs(float(np.median(mean)))
    if not (wide > WIDE or middle > OFF_CENTRE * wide > 0):
        return None
    cure = "inputs = (inputs - train_inputs.mean(0)) / train_inputs.std(0)"
    targets = signs.series("target_variance")
    if len(targets) and np.median(targets) > WIDE**2:
        # Small inputs do not reach large targets: forecasts of series of a spread of 963 ended at
        # 5 and 11 times the loss with scaled inputs alone, and at 0.4 and 0.6 times it with both.
        cure += "; targets = (targets - train_targets.mean()) / train_targets.std()"
    numbers = {"spread": wide, "mean": float(np.median(mean))}
    return Claimed(Claim.UNSCALED, numbers, (Code(cure),))


def is_normalised_at_once(signs: Signs) -> bool:
    """True if a normalisation comes first, or after one convolution. Pixels from 0 to 255 then ended
    within 2 % of scaled ones, under SGD and Adam; after a linear layer, whose inputs may have
    another scale each, 3 to 10 % higher."""
    layers = [*dict.fromkeys(map(str, signs.facts.get("layers", [])))]
    first, second = [*layers, "", ""][:2]
    return first.startswith(NORMALISATIONS) or (
        first.startswith("Conv") and second.startswith(NORMALISATIONS)
    )


def clip_small(signs: Signs, _: Level) -> Claimed | None:
    """Clipping leaves a small part of the gradient at most updates, and the size of the steps
    depends on it."""
    if signs.family == "adaptive":
        return None
    shares = clipped_shares(signs)
    if len(shares) < 3:
        return None
    left = float(np.median(shares))
    # a rate that was chosen together with the clipping leads far in spite of it
    if not left < HALF_CLIPPED or signs.reach >= FAR * signs.usual_reach():
        return None
    cure = (f"clip {_norm(signs):.2g}",)
    return Claimed(Claim.CLIP_SMALL, {"left": left}, cure, evidence=Evidence.EXACT)


def clipped_shares(signs: Signs) -> np.ndarray:
    """At every look, the norm of the gradient at the update over that after `backward`, without the
    scaler's factor."""
    after = signs.single.get("clipped")
    if after is None:
        return np.array([])
    before = np.sqrt((signs.tensors["gradient"] ** 2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = after / before
    # gradients that were cleared after `backward` were not clipped
    shares = np.where(shares == 0, np.nan, shares)
    is_scaled = left_by_scaler(shares) < 1
    shares = np.where(is_scaled, 1.0, shares * signs.single.get("scale", np.ones(len(shares))))
    return shares[np.isfinite(shares)]


def _norm(signs: Signs) -> float:
    """The norm that gradients usually have before clipping."""
    norms = np.sqrt((signs.tensors["gradient"] ** 2).sum(axis=1))
    return float(np.nanmedian(norms / signs.single.get("scale", np.ones(len(norms)))))


def _usual(values: np.ndarray) -> float:
    """The median; 0 without values."""
    return float(np.median(values)) if len(values) else 0.0
