"""Words for drift: the curvature against its edge."""

from collections.abc import Mapping
from typing import Any

from gradiometer.drift.stability import MomentumRule
from gradiometer.measurement.estimate import about, counted, significant
from gradiometer.measurement.finding import Finding
from gradiometer.verdict.words.sentences import Words, always, sentence

MOVES = (
    "A smaller learning rate lets training move to a sharper region, a larger one to a flatter "
    "region."
)

EDGE_OF_QUADRATIC = (
    "The edge is derived for a quadratic. A network's sharpness usually rises to it and stays there "
    "(Cohen et al. 2021), so being at the edge is not a failure, and the sharpness at the start "
    "says little about the later one."
)

NO_OVERSHOOT = "On average a batch does not overshoot its own loss."

ROOM = "At this curvature η could be {times}larger."

SHARE_OF_EDGE = (
    "The sharpness λ_max = {sharpness} is {share:2} of the edge {formula} = {edge.value:3} at η = "
    "{learning_rate:3}."
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
}

DOUBTS = {
    "batch_edge_of_quadratic": always(
        "The edge is derived for a quadratic; batch sharpness usually rises to it and stays there, "
        "which is not a failure."
    ),
    "lower_edge_of_a_mean": sentence(
        "In the geometry of Adam and with small batches it is compared with 2/η = {edge:3}."
    ),
    "lower_edge_of_momentum": sentence(
        "With momentum and small batches it is reported to settle at 2(1 − μ)/η = {edge:3}."
    ),
}
