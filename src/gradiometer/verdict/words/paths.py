"""Words for the path of the parameters, and for where it ended."""

import math
from collections.abc import Mapping
from typing import Any

from gradiometer.convergence.trajectory.path_facts import per_doubling
from gradiometer.measurement import Estimate, Finding, significant
from gradiometer.verdict.words.sentences import Words

ITERATES_ONLY = "This is based on the iterates so far: they do not prove where the path ends."

MOVES = "{longer}the net distance is {straightness.value:2} of the path length"

GROWTH = (
    "‖Φ‖ has grown in each of the last four doublings of time, by {growth}× as much in each as in "
    "the one before"
)


def moves(finding: Finding) -> Mapping[str, str]:
    """By how much the moves change with every doubling, and if a constant rate explains it."""
    slope: Estimate = finding.facts["move_slope"]
    longer = f"displacement grows {per_doubling(slope)}× per doubling of steps, "
    return {
        "longer": "" if math.isnan(slope.value) else f"{longer}and ",
        "expected": ", as expected at a constant learning rate"
        if finding.facts.get("is_constant")
        else "",
    }


def growth(finding: Finding) -> Mapping[str, Estimate]:
    """The growth of ‖Φ‖ in a doubling over that in the doubling before."""
    known = finding.numbers.get("norm_growth") or finding.facts["norm_growth"]
    return {"growth": per_doubling(known)}


def duration(finding: Finding) -> Mapping[str, str]:
    """How long a path must be to be classified."""
    return {"length": "about 300 steps, and " if finding.facts.get("is_short") else ""}


def chaos(finding: Finding) -> Mapping[str, str]:
    """How far the sharpness is above its limit, and the loss above its best."""
    share, times = finding.facts["sharpness_share"], finding.facts["times_best"]
    return {
        "sharpness": "the loss is far above its start"
        if share is None
        else f"the sharpness is {share} times its limit",
        "above": "above its best"
        if times is None
        else f"{significant(times, 2)} times the best it has reached",
    }


def _path(kind: str, numbers: str, means: str, suggestion: str = "", **slots: Any) -> Words:
    lead = f"The parameters are {kind}"
    return Words(f"{lead}: {numbers}.", means, suggestion, ITERATES_ONLY, lead, **slots)


def _diverging(numbers: str, **slots: Any) -> Words:
    return _path(
        "diverging",
        numbers,
        "They slowly go to infinity, in a direction that no longer changes. The loss may still "
        "approach its infimum: cross-entropy does this once every example is classified correctly.",
        "Use weight decay, or stop here: only the norm still grows.",
        **slots,
    )


CLAIMS: Mapping[str, Words] = {
    "path_converging": _path(
        "converging",
        MOVES,
        "Each doubling of time moves them less: little distance is left.",
        slots=moves,
    ),
    "path_wandering": _path(
        "wandering", MOVES, "They stay in a region without coming to rest{expected}.", slots=moves
    ),
    "path_under_way": _path(
        "still travelling in one direction",
        MOVES,
        "This has held for several doublings of the steps.",
        slots=moves,
    ),
    "path_diverging": _diverging(
        "the cosine between the last doubling's move and the parameters is {alignment.value:3}, "
        "and the speed falls as (Σ η)^−p with p = {slowing}"
    ),
    "path_diverging_in_length": _diverging(GROWTH, slots=growth),
    "path_shaking_apart": _path(
        "shaking apart",
        "the correlation of each step with the next is {step_correlation}",
        "Each step undoes the one before: the learning rate is too large for the curvature.",
        "Halve the learning rate.",
    ),
    "path_circling": _path(
        "circling",
        "{number:2} turns in the last four doublings of time",
        "They move in circles without approaching a point: a limit cycle, whatever the loss does.",
        "Use weight decay, or average the iterates.",
        slots=lambda finding: {"number": abs(finding.facts["turns"].value)},
    ),
    "path_unknown": Words(
        "The trajectory cannot be classified yet.",
        "It takes {length}four doublings of time of the same kind.",
        slots=duration,
    ),
    "path_to_infinity": Words(
        "{lead}: "
        + GROWTH
        + ". The loss was at {early_share:2} of its first value before step {early_until:,}, and is "
        "at {late_share:2} now.",
        "The loss has no minimum: once every example is classified correctly, larger parameters "
        "always lower it.",
        "Use weight decay, or stop here: only the norm still grows.",
        ITERATES_ONLY,
        "The parameters run to infinity",
        slots=growth,
    ),
    "chaos": Words(
        "{lead}: {sharpness} at η = {learning_rate:3}, the loss is {above}, and the correlation of "
        "each step with the next is {step_correlation}.",
        "The steps are too long for the curvature. They do not blow up, because the loss curves "
        "less farther away.",
        "Halve the learning rate until the sharpness is below its limit.",
        "The sharpness was measured at one point, and changes quickly there.",
        "Training is in chaos past the edge of stability",
        slots=chaos,
    ),
    "saddle": Words(
        "{lead}: the smallest curvature is {smallest_curvature}, the largest {sharpness}.",
        "A deviation along it would have grown by e^{growth:2} in the last three quarters of the "
        "run. Neither the gradient nor its noise has a part in that direction.",
        "Change the start: add random numbers to the parameters, and look for a symmetry in the "
        "initialisation.",
        "The curvature was measured on {examples:,} examples.",
        "Training is at a saddle",
    ),
    "dead_relu": Words(
        "{lead}: zero on each of {examples:,} examples.",
        "Their weights have no gradient and do not change any more. The usual cause is a step that "
        "was too large.",
        "Start again with a smaller learning rate or a warm-up.",
        "A unit may be active on examples that were not checked.",
        "{dead:,} of {units:,} units are dead in {layer}",
    ),
    "twin_units": Words(
        "{lead}: a symmetric start that training has kept.",
        "Their gradients are equal too, for every batch: they stay equal, and act as fewer units.",
        "Initialise with random numbers.",
        lead="{twins:,} of {rows:,} rows equal another up to sign in {weight}",
    ),
}
