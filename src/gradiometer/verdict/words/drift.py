"""Words for drift: the curvature against its edge, and what one step changes."""

import math
from collections.abc import Callable, Mapping
from functools import partial

from gradiometer.drift.stability import MomentumRule
from gradiometer.measurement.estimate import about, counted, significant
from gradiometer.measurement.finding import Doubt, Finding
from gradiometer.verdict.words.sentences import Sentences, always, fixed, not_known

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

ONE_STEP = (
    "This looks one step ahead only: the learning rate that gains most in one step is far below "
    "the one that gains most in many steps (Wu et al. 2018)."
)


# The sharpness of the full loss


def sharpness_below_edge(finding: Finding) -> Sentences:
    """Full-batch steps are stable."""
    rate = significant(finding.facts["largest_stable_rate"])
    return Sentences(
        seen=_share_of_edge(finding),
        means=f"Full-batch steps are stable on this quadratic up to η = {rate}.",
        caveat=EDGE_OF_QUADRATIC,
    )


def sharpness_beyond_edge(finding: Finding) -> Sentences:
    """Full-batch steps grow."""
    rate = significant(finding.facts["largest_stable_rate"])
    return Sentences(
        seen=_share_of_edge(finding),
        means=f"Full-batch steps grow along that direction: they are stable up to η = {rate}.",
        paste=(f"--lr {finding.facts['surely_stable_rate']:.2g}",),
        suggestion=", or a warm-up, if the loss jumps up and stays there.",
        caveat=EDGE_OF_QUADRATIC,
    )


def _share_of_edge(finding: Finding) -> str:
    facts, edge = finding.facts, finding.numbers["edge"].value
    formula = MomentumRule(facts["momentum"], facts["nesterov"]).formula
    return (
        f"The sharpness λ_max = {finding.numbers['sharpness']} is "
        f"{significant(facts['share'], 2)} of the edge {formula} = {significant(edge)} "
        f"at η = {significant(facts['learning_rate'])}."
    )


def sharpness_without_edge(finding: Finding) -> Sentences:
    """The edge is not known for this optimizer."""
    sharpness, step = finding.numbers["sharpness"], finding.facts["step"]
    return Sentences(
        seen=f"The sharpness λ_max = {sharpness} at step {step:,}.",
        means=no_edge(finding.facts["optimizers"]),
    )


def no_edge(optimizers: tuple[str, ...]) -> str:
    """A sentence that names optimizers whose edge of stability is not known.

    Args:
        optimizers: Their names.
    """
    return f"The edge of stability is known for SGD, and not for {' and '.join(optimizers)}."


# The sharpness of batches


def batch_sharpness_far_below_edge(finding: Finding) -> Sentences:
    """A steady rate far below its edge."""
    return _batch_sharpness(
        finding,
        f"The learning rate is far below its edge. {NO_OVERSHOOT} {_room(finding)}",
        "A larger learning rate, if it ends lower in a fork: the edge does not say which rate is "
        "the best.",
    )


def batch_sharpness_below_edge(finding: Finding) -> Sentences:
    """Batches do not overshoot."""
    return _batch_sharpness(finding, f"{NO_OVERSHOOT} {_room(finding)}")


def _batch_sharpness(finding: Finding, means: str, suggestion: str = "") -> Sentences:
    facts, sharpness = finding.facts, finding.numbers["batch_sharpness"]
    measured = counted(sharpness.samples, "measured step")
    if not facts["share_is_known"]:
        unknown = f"The batch sharpness is not known yet ({measured})"
        if not facts["needed"]:
            return Sentences(f"{unknown}.", means, suggestion=suggestion)
        rest = f"; an interval needs {about(facts['needed'])} more steps."
        return Sentences(unknown + rest, means, suggestion=suggestion)
    formula = MomentumRule(facts["momentum"], facts["nesterov"]).formula
    edge = significant(finding.numbers["edge"].value)
    share = f"{significant(facts['share'], 2)} of the edge {formula} = {edge}"
    seen = f"The batch sharpness {sharpness} is {share} ({measured})."
    return Sentences(seen, means, suggestion=suggestion)


def _room(finding: Finding) -> str:
    room = finding.facts["room"]
    times = "" if room is None else f"{significant(room, 2)} times "
    return f"At this curvature η could be {times}larger."


# One step


def step_drift_part(finding: Finding) -> Sentences:
    """A gradient lasts for several steps."""
    drift = finding.numbers["step_drift"].value
    lasts = significant(1 / math.sqrt(drift), 2) if drift > 0 else "many"
    return Sentences(
        seen=_share_of_gradient(finding),
        means=(
            f"Steps in one direction would change the gradient completely after about {lasts} of "
            "them."
        ),
    )


def _share_of_gradient(finding: Finding) -> str:
    drift = finding.numbers["step_drift"]
    share, low, high = (
        f"{100 * math.sqrt(max(end, 0)):.2g} %" for end in (drift.value, drift.low, drift.high)
    )
    return (
        f"Over one step of B = {finding.facts['batch_size']:,.0f} the gradient changes by {share} "
        f"[{low}, {high}] of its length ({counted(drift.samples, 'measured step')})."
    )


def loss_change_long_step(finding: Finding) -> Sentences:
    """A shorter step would gain more."""
    times = significant(2 * finding.numbers["curvature_share"].value, 2)
    return _loss_change(
        finding,
        f"A step {times} times shorter would gain more in that step.",
        "A smaller learning rate, if the loss no longer falls.",
        ONE_STEP,
    )


def _loss_change(finding: Finding, means: str, suggestion: str = "", caveat: str = "") -> Sentences:
    share, change = finding.numbers["curvature_share"], finding.numbers["seen_change"]
    seen = (
        f"A step changes the loss by {'+' if change.value > 0 else ''}{change}; curvature undoes "
        f"a share of {share} of the gain from the slope "
        f"({counted(share.samples, 'measured step')})."
    )
    return Sentences(seen, means, suggestion=suggestion, caveat=caveat)


def curvature_noise_share(finding: Finding) -> Sentences:
    """The share of noise in the cost of a step."""
    scale, batch = finding.numbers["curvature_noise_scale"], finding.numbers["batch_size"].value
    share = significant(100 * scale.value / (scale.value + batch), 2)
    return Sentences(
        seen=(
            f"The noise scale weighted by curvature, tr(HΣ)/gᵀHg, is {scale} "
            f"({counted(scale.samples, 'measured step')}); B = {batch:,.0f}."
        ),
        means=(
            f"About {share} % of the second-order cost of a step is noise, which a larger batch "
            "reduces; the rest comes from the length of the step, which a smaller learning rate "
            "reduces."
        ),
    )


# Doubts


def lower_edge_of_momentum(doubt: Doubt) -> str:
    """Small batches with momentum are reported to settle lower."""
    edge = significant(doubt.facts["edge"])
    return f"With momentum and small batches it is reported to settle at 2(1 − μ)/η = {edge}."


CLAIMS: Mapping[str, Callable[[Finding], Sentences]] = {
    "batch_sharpness_at_edge": partial(
        _batch_sharpness,
        means=(
            "Training is at the edge of stochastic stability: the learning rate, not the loss, "
            "sets the curvature."
        ),
        suggestion=MOVES,
    ),
    "batch_sharpness_below_edge": batch_sharpness_below_edge,
    "batch_sharpness_beyond_edge": partial(
        _batch_sharpness,
        means="Batches overshoot their own loss: the steps are too long for this curvature.",
        suggestion=(
            "A smaller learning rate, or a warm-up, unless the loss comes down again by itself."
        ),
    ),
    "batch_sharpness_far_below_edge": batch_sharpness_far_below_edge,
    "batch_sharpness_unclear": partial(
        _batch_sharpness, means="It is too early to say whether the learning rate is at its edge."
    ),
    "curvature_noise_share": curvature_noise_share,
    "curvature_noise_unknown": not_known(
        "curvature_noise_scale",
        "The curvature along the gradient is not distinguishable from zero yet",
        "The share of noise in the cost of a step is not known yet.",
        "that needs",
    ),
    "loss_change_long_step": loss_change_long_step,
    "loss_change_short_step": partial(
        _loss_change,
        means="The slope outweighs the curvature: steps are short enough to gain.",
        caveat=ONE_STEP,
    ),
    "loss_change_unclear": partial(
        _loss_change, means="It is too early to say whether a shorter step would gain more."
    ),
    "loss_change_unknown": not_known(
        "curvature_share",
        "The gain of a step is not distinguishable from zero yet",
        "It is too early to say whether the steps are too long.",
        "that needs",
    ),
    "loss_change_up": partial(
        _loss_change,
        means="To second order a step raises the loss: it is too long for this curvature.",
        suggestion="A smaller learning rate, or a larger batch if noise dominates.",
        caveat=ONE_STEP,
    ),
    "sharpness_at_edge": fixed(
        _share_of_edge,
        "Training is at the edge of stability: the learning rate, not the loss, sets the "
        "sharpness.",
        MOVES,
        EDGE_OF_QUADRATIC,
    ),
    "sharpness_below_edge": sharpness_below_edge,
    "sharpness_beyond_edge": sharpness_beyond_edge,
    "sharpness_without_edge": sharpness_without_edge,
    "step_drift_part": step_drift_part,
    "step_drift_unknown": not_known(
        "step_drift",
        "The drift of the gradient over a step is not known yet",
        "It is too early to say how long a gradient stays valid.",
        "an upper bound needs",
    ),
    "step_drift_whole": fixed(
        _share_of_gradient,
        "Every step changes the gradient completely: it leaves the region in which g is "
        "nearly constant.",
        "A smaller learning rate, or a larger batch if noise dominates.",
    ),
}

DOUBTS = {
    "batch_edge_of_quadratic": always(
        "The edge is that of a quadratic; batch sharpness usually rises to it and stays there, "
        "which is not a failure."
    ),
    "lower_edge_of_momentum": lower_edge_of_momentum,
}
