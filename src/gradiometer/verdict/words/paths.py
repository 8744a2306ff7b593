"""Words for the path of the parameters, and for where it ended."""

import math

from gradiometer.convergence.trajectory.path_facts import per_doubling
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.finding import Finding
from gradiometer.verdict.words.sentences import Sentences

ITERATES_ONLY = "This is based on the iterates so far: they do not prove where the path ends."

# The path


def path_converging(finding: Finding) -> Sentences:
    """The moves become shorter."""
    return _path(
        "converging",
        _moves(finding),
        "Each doubling of time moves them less: only a short way is left.",
    )


def path_wandering(finding: Finding) -> Sentences:
    """The moves stay as long, without a direction."""
    expected = ", as expected at a constant learning rate" * bool(finding.facts.get("is_constant"))
    return _path(
        "wandering",
        _moves(finding),
        f"They stay in a region without coming to rest{expected}.",
    )


def path_under_way(finding: Finding) -> Sentences:
    """The path is straight."""
    return _path(
        "under way",
        _moves(finding),
        "Training has kept one direction for several doublings of time.",
    )


def path_diverging(finding: Finding) -> Sentences:
    """The path goes along Φ, too fast to come to rest."""
    alignment = significant(finding.facts["alignment"].value)
    return _diverging(
        f"the cosine between the last doubling's move and the parameters is {alignment}, and the "
        f"speed falls as (Σ η)^−p with p = {finding.facts['slowing']}"
    )


def path_diverging_in_length(finding: Finding) -> Sentences:
    """‖Φ‖ keeps growing."""
    return _diverging(_growth(finding.facts["norm_growth"]))


def _diverging(numbers: str) -> Sentences:
    return _path(
        "diverging",
        numbers,
        "They slowly go to infinity, in a direction that no longer changes. The loss may still "
        "approach its infimum: cross-entropy does this once every example is classified "
        "correctly.",
        "Use weight decay, or stop here: only the norm still grows.",
    )


def _growth(norm_growth: Estimate) -> str:
    return (
        "‖Φ‖ has grown in each of the last four doublings of time, each time by "
        f"{per_doubling(norm_growth)} times as much as the time before"
    )


def path_shaking_apart(finding: Finding) -> Sentences:
    """Steps undo each other."""
    return _path(
        "shaking apart",
        f"the correlation of each step with the next is {finding.facts['step_correlation']}",
        "Each step undoes the one before: the learning rate is too large for the curvature.",
        "Halve the learning rate.",
    )


def path_circling(finding: Finding) -> Sentences:
    """A limit cycle."""
    turns = significant(abs(finding.facts["turns"].value), 2)
    return _path(
        "circling",
        f"{turns} turns in the last four doublings of time",
        "They move in circles without approaching a point: a limit cycle, whatever the loss does.",
        "Use weight decay, or average the iterates.",
    )


def path_unknown(finding: Finding) -> Sentences:
    """Too short to classify, or between two kinds."""
    means = "It takes four doublings of time of the same kind."
    if finding.facts.get("is_short"):
        means = "It takes about 300 steps, and four doublings of time of the same kind."
    return Sentences(seen="The trajectory cannot be classified yet.", means=means)


def _path(kind: str, numbers: str, means: str, suggestion: str = "") -> Sentences:
    lead = f"The parameters are {kind}"
    seen = f"{lead}: {numbers}."
    return Sentences(seen, means, suggestion=suggestion, caveat=ITERATES_ONLY, lead=lead)


def _moves(finding: Finding) -> str:
    moves, straightness = finding.facts["move_slope"], finding.facts["straightness"].value
    distance = f"the net distance is {significant(straightness, 2)} of the path length"
    if math.isnan(moves.value):
        return distance
    return (
        f"with every doubling of time their moves become {per_doubling(moves)} times as long, and "
        f"{distance}"
    )


# Where training ended


def path_to_infinity(finding: Finding) -> Sentences:
    """Every example is fitted, and the parameters grow."""
    facts = finding.facts
    early, late = (significant(facts[name], 2) for name in ("early_share", "late_share"))
    lead = "The parameters run to infinity"
    return Sentences(
        seen=(
            f"{lead}: {_growth(finding.numbers['norm_growth'])}. The loss was at {early} of its "
            f"first value before step {facts['early_until']:,}, and is at {late} now."
        ),
        means=(
            "The loss has no minimum: once every example is classified correctly, larger "
            "parameters always lower it."
        ),
        suggestion="Use weight decay, or stop here: only the norm still grows.",
        caveat=ITERATES_ONLY,
        lead=lead,
    )


def chaos(finding: Finding) -> Sentences:
    """Steps too long for the curvature, which is bounded."""
    facts = finding.facts
    share, times = facts["sharpness_share"], facts["times_best"]
    if share is None:
        sharpness = "the loss is far above its start"
    else:
        sharpness = f"the sharpness is {share} times its limit"
    above = "above its best"
    if times is not None:
        above = f"{significant(times, 2)} times the best it has reached"
    lead = "Training is in chaos past the edge of stability"
    return Sentences(
        seen=(
            f"{lead}: {sharpness} at η = {significant(facts['learning_rate'])}, the loss is "
            f"{above}, and the correlation of each step with the next is "
            f"{finding.numbers['step_correlation']}."
        ),
        means=(
            "The steps are too long for the curvature. They do not blow up, because the loss "
            "curves less farther away."
        ),
        suggestion="Halve the learning rate until the sharpness is below its limit.",
        caveat="The sharpness was measured at one point, and changes quickly there.",
        lead=lead,
    )


def saddle(finding: Finding) -> Sentences:
    """A negative curvature that training does not see."""
    facts, smallest = finding.facts, finding.numbers["smallest_curvature"]
    lead = "Training is at a saddle"
    return Sentences(
        seen=f"{lead}: the smallest curvature is {smallest}, the largest {facts['sharpness']}.",
        means=(
            f"A deviation along it would have grown by e^{significant(facts['growth'], 2)} in the "
            "last three quarters of the run, but neither the gradient nor its noise has a part in "
            "that direction."
        ),
        suggestion=(
            "Change the start: add random numbers to the parameters, and look for a symmetry in "
            "the initialisation."
        ),
        caveat=f"The curvature was measured on {facts['examples']:,} examples.",
        lead=lead,
    )


def dead_relu(finding: Finding) -> Sentences:
    """Units that are zero on every example."""
    facts = finding.facts
    lead = f"{facts['dead']:,} of {facts['units']:,} units are dead in {facts['layer']}"
    return Sentences(
        seen=f"{lead}: zero on each of {facts['examples']:,} examples.",
        means=(
            "Their weights have no gradient and do not change any more. The usual cause is a step "
            "that was too large."
        ),
        suggestion="Start again with a smaller learning rate or a warm-up.",
        caveat="A unit may be active on examples that were not checked.",
        lead=lead,
    )


def twin_units(finding: Finding) -> Sentences:
    """Rows of weights that are equal."""
    facts = finding.facts
    counts = f"{facts['twins']:,} of {facts['rows']:,} rows"
    lead = f"{counts} equal another up to sign in {facts['weight']}"
    return Sentences(
        seen=f"{lead}: a symmetric start that training has kept.",
        means=(
            "Their gradients are equal too, for every batch: they stay equal, and act as fewer "
            "units."
        ),
        suggestion="Initialise with random numbers.",
        lead=lead,
    )


CLAIMS = {
    "chaos": chaos,
    "dead_relu": dead_relu,
    "path_circling": path_circling,
    "path_converging": path_converging,
    "path_diverging": path_diverging,
    "path_diverging_in_length": path_diverging_in_length,
    "path_shaking_apart": path_shaking_apart,
    "path_to_infinity": path_to_infinity,
    "path_under_way": path_under_way,
    "path_unknown": path_unknown,
    "path_wandering": path_wandering,
    "saddle": saddle,
    "twin_units": twin_units,
}
