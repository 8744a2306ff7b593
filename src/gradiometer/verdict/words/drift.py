"""Words for drift: the curvature against its edge, and what one step changes."""

import math
from collections.abc import Mapping
from typing import Any

from gradiometer.drift.stability import MomentumRule
from gradiometer.measurement.estimate import about, counted, significant
from gradiometer.measurement.finding import Finding
from gradiometer.verdict.words.sentences import Words, always, not_known, sentence

MOVES = (
    "A smaller learning rate lets training move to a sharper region, a larger one to a flatter "
    "region."
)

EDGE_OF_QUADRATIC = (
    "The edge is that of a quadratic. A network's sharpness usually rises to it and stays there "
    "(Cohen et al. 2021), so being at the edge is not a failure, and the sharpness at the start "
    "says little about the later one."
)

NO_OVERSHOOT = "On average a batch does not overshoot its own loss."

ROOM = "At this curvature η could be {times}larger."

ONE_STEP = (
    "This looks one step ahead only: the learning rate that gains most in one step is far below "
    "the one that gains most in many steps (Wu et al. 2018)."
)

SHARE_OF_EDGE = (
    "The sharpness λ_max = {sharpness} is {share:2} of the edge {formula} = {edge.value:3} at η = "
    "{learning_rate:3}."
)

SHARE_OF_GRADIENT = (
    "Over one step of B = {batch_size:,.0f} the gradient changes by {percent} of its length "
    "({step_drift.samples:measured step})."
)

CHANGE_OF_LOSS = (
    "A step changes the loss by {plus}{seen_change}; curvature undoes a share of {curvature_share} "
    "of the gain from the slope ({curvature_share.samples:measured step})."
)


def no_edge(optimizers: tuple[str, ...]) -> str:
    """A sentence that names optimizers whose edge of stability is not known.

    >>> no_edge(("AdamW",))
    'The edge of stability is known for SGD, and not for AdamW.'
    """
    return f"The edge of stability is known for SGD, and not for {' and '.join(optimizers)}."


def formula(finding: Finding) -> Mapping[str, str]:
    """The formula of the edge."""
    facts = finding.facts
    # only batch sharpness says if the parameters are averaged
    averaged = facts.get("averaged", False)
    return {"formula": MomentumRule(facts["momentum"], facts["nesterov"], averaged).formula}


def _sharpness(means: str, **parts: Any) -> Words:
    return Words(SHARE_OF_EDGE, means, caveat=EDGE_OF_QUADRATIC, slots=formula, **parts)


def batch_sharpness(finding: Finding) -> Mapping[str, str]:
    """What is known of the batch sharpness, and how much larger η could be."""
    facts, sharpness = finding.facts, finding.numbers["batch_sharpness"]
    measured = counted(sharpness.samples, "measured step")
    room = facts.get("room")
    times = "" if room is None else f"{significant(room, 2)} times "
    if facts["share_is_known"]:
        edge = f"{formula(finding)['formula']} = {significant(finding.numbers['edge'].value)}"
        known = f"{sharpness} is {significant(facts['share'], 2)} of the edge {edge} ({measured})"
    else:
        known = f"is not known yet ({measured})"
        if facts["needed"]:
            known += f"; an interval needs {about(facts['needed'])} more steps"
    return {"known": known, "times": times}


def _batch_sharpness(means: str, suggestion: str = "") -> Words:
    return Words("The batch sharpness {known}.", means, suggestion, slots=batch_sharpness)


def duration_of_gradient(finding: Finding) -> Mapping[str, str]:
    """The share of the gradient that one step changes, and after how many nothing is left of it."""
    drift = finding.numbers["step_drift"]
    share, low, high = (
        f"{100 * math.sqrt(max(end, 0)):.2g} %" for end in (drift.value, drift.low, drift.high)
    )
    lasts = significant(1 / math.sqrt(drift.value), 2) if drift.value > 0 else "many"
    return {"percent": f"{share} [{low}, {high}]", "lasts": lasts}


def change_of_loss(finding: Finding) -> Mapping[str, Any]:
    """The sign of a change that is above zero, and how much shorter the best step is."""
    return {
        "plus": "+" if finding.numbers["seen_change"].value > 0 else "",
        "times": 2 * finding.numbers["curvature_share"].value,
    }


def _loss_change(means: str, suggestion: str = "", caveat: str = "") -> Words:
    return Words(CHANGE_OF_LOSS, means, suggestion, caveat, slots=change_of_loss)


def noise_in_cost(finding: Finding) -> Mapping[str, float]:
    """The share of noise in the second-order cost of a step."""
    scale, batch = finding.numbers["curvature_noise_scale"], finding.numbers["batch_size"]
    return {"share": 100 * scale.value / (scale.value + batch.value)}


CLAIMS: Mapping[str, Words] = {
    "batch_sharpness_at_edge": _batch_sharpness(
        "Training is at the edge of stochastic stability: the learning rate, not the loss, sets "
        "the curvature.",
        MOVES,
    ),
    "batch_sharpness_below_edge": _batch_sharpness(f"{NO_OVERSHOOT} {ROOM}"),
    "batch_sharpness_beyond_edge": _batch_sharpness(
        "Batches overshoot their own loss: the steps are too long for this curvature.",
        "A smaller learning rate, or a warm-up, unless the loss comes down again by itself.",
    ),
    "batch_sharpness_far_below_edge": _batch_sharpness(
        f"The learning rate is far below its edge. {NO_OVERSHOOT} {ROOM}",
        "A larger learning rate, if it ends lower in a fork: the edge does not say which rate is "
        "the best.",
    ),
    "batch_sharpness_unclear": _batch_sharpness(
        "It is too early to say whether the learning rate is at its edge."
    ),
    "curvature_noise_share": Words(
        "The noise scale weighted by curvature, tr(HΣ)/gᵀHg, is {curvature_noise_scale} "
        "({curvature_noise_scale.samples:measured step}); B = {batch_size.value:,.0f}.",
        "About {share:2} % of the second-order cost of a step is noise, which a larger batch "
        "reduces; the rest comes from the length of the step, which a smaller learning rate "
        "reduces.",
        slots=noise_in_cost,
    ),
    "curvature_noise_unknown": not_known(
        "curvature_noise_scale",
        "The curvature along the gradient is not distinguishable from zero yet",
        "The share of noise in the cost of a step is not known yet.",
        "that needs",
    ),
    "loss_change_long_step": _loss_change(
        "A step {times:2} times shorter would gain more in that step.",
        "A smaller learning rate, if the loss no longer falls.",
        ONE_STEP,
    ),
    "loss_change_short_step": _loss_change(
        "The slope outweighs the curvature: steps are short enough to gain.", caveat=ONE_STEP
    ),
    "loss_change_unclear": _loss_change(
        "It is too early to say whether a shorter step would gain more."
    ),
    "loss_change_unknown": not_known(
        "curvature_share",
        "The gain of a step is not distinguishable from zero yet",
        "It is too early to say whether the steps are too long.",
        "that needs",
    ),
    "loss_change_up": _loss_change(
        "To second order a step raises the loss: it is too long for this curvature.",
        "A smaller learning rate, or a larger batch if noise dominates.",
        ONE_STEP,
    ),
    "sharpness_at_edge": _sharpness(
        "Training is at the edge of stability: the learning rate, not the loss, sets the "
        "sharpness.",
        suggestion=MOVES,
    ),
    "sharpness_below_edge": _sharpness(
        "Full-batch steps are stable on this quadratic up to η = {largest_stable_rate:3}."
    ),
    "sharpness_beyond_edge": _sharpness(
        "Full-batch steps grow along that direction: they are stable up to η = "
        "{largest_stable_rate:3}.",
        paste=("--lr {surely_stable_rate:.2g}",),
        suggestion=", or a warm-up, if the loss jumps up and stays there.",
    ),
    "sharpness_without_edge": Words(
        "The sharpness λ_max = {sharpness} at step {step:,}.",
        "{no_edge}",
        slots=lambda finding: {"no_edge": no_edge(finding.facts["optimizers"])},
    ),
    "step_drift_part": Words(
        SHARE_OF_GRADIENT,
        "Steps in one direction would change the gradient completely after about {lasts} of them.",
        slots=duration_of_gradient,
    ),
    "step_drift_unknown": not_known(
        "step_drift",
        "The drift of the gradient over a step is not known yet",
        "It is too early to say how long a gradient stays valid.",
        "an upper bound needs",
    ),
    "step_drift_whole": Words(
        SHARE_OF_GRADIENT,
        "Every step changes the gradient completely: it leaves the region in which g is "
        "nearly constant.",
        "A smaller learning rate, or a larger batch if noise dominates.",
        slots=duration_of_gradient,
    ),
}

DOUBTS = {
    "batch_edge_of_quadratic": always(
        "The edge is that of a quadratic; batch sharpness usually rises to it and stays there, "
        "which is not a failure."
    ),
    "lower_edge_of_a_mean": sentence(
        "In the geometry of Adam and with small batches it is compared with 2/η = {edge:3}."
    ),
    "lower_edge_of_momentum": sentence(
        "With momentum and small batches it is reported to settle at 2(1 − μ)/η = {edge:3}."
    ),
}
