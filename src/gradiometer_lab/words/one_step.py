"""Words about what one step changes: the gradient, and the loss."""

import math
from collections.abc import Mapping
from typing import Any

from gradiometer.measurement.estimate import significant
from gradiometer.measurement.finding import Finding
from gradiometer.verdict.words.sentences import Words, not_known

ONE_STEP = (
    "This looks one step ahead only: the learning rate that gains most in one step is far below "
    "the one that gains most in many steps (Wu et al. 2018)."
)

SHARE_OF_GRADIENT = (
    "Over one step of B = {batch_size:,.0f} the gradient changes by {percent} of its length "
    "({step_drift.samples:measured step})."
)

CHANGE_OF_LOSS = (
    "A step changes the loss by {plus}{seen_change}; curvature cancels a share of "
    "{curvature_share} of the improvement that the gradient predicts ({curvature_share.samples:measured step})."
)


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
    "curvature_noise_share": Words(
        "The noise scale weighted by curvature, tr(HΣ)/gᵀHg, is {curvature_noise_scale} "
        "({curvature_noise_scale.samples:measured step}); B = {batch_size.value:,.0f}.",
        "About {share:2} % of the second-order cost of a step is noise, which a larger batch "
        "reduces. The rest comes from the length of the step, which a smaller learning rate "
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
        "The gradient decorrelates within one step: steps are longer than the local landscape "
        "allows.",
        "A smaller learning rate, or a larger batch if noise dominates.",
        slots=duration_of_gradient,
    ),
}
