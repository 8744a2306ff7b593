"""Words for convergence: the schedule, the plateau, the path, where it ended, and its certificate."""

import math
from collections.abc import Mapping
from typing import Any

from gradiometer.convergence.theorem.theorem import SUFFICIENT
from gradiometer.convergence.trajectory.path_facts import per_doubling
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.finding import Doubt, Finding
from gradiometer.verdict.words.sentences import Sentences

ITERATES_ONLY = "This is based on the iterates so far: they do not prove where the path ends."

# The schedule


def schedule_to_zero(finding: Finding) -> Sentences:
    """The learning rate ends at zero."""
    return Sentences(
        seen=f"The learning rate {course_of_rate(finding.facts)}.",
        means=(
            "A constant rate would leave the iterates spread around the minimum; this schedule removes that spread."
        ),
    )


def schedule_above_zero(finding: Finding) -> Sentences:
    """The learning rate does not end at zero."""
    last, peak = finding.facts["last"], finding.facts["peak"]
    return Sentences(
        seen=f"The learning rate ends at {significant(last)}, {last / peak:.0%} of its peak.",
        means=(
            "If the rate does not go to zero, the iterates stay spread around the minimum, and "
            "the loss above its floor."
        ),
        paste=("--schedule linear",),
        suggestion=" ends at zero. Averaging the iterates removes the spread, too.",
        caveat=(f"For an infinite run, {SUFFICIENT}. There may be good reasons to end a finite run at this rate."),
    )


def course_of_rate(facts: Mapping[str, Any]) -> str:
    """The learning rate along a run, as the end of a sentence that begins with its name.

    Args:
        facts: `first`, `lowest`, `peak`, `peak_step`, `last`, `last_step` and `reaches_zero`.
    """
    first, peak, last = facts["first"], facts["peak"], facts["last"]
    if peak == facts["lowest"]:
        return f"is constant at {significant(first)}"
    middle = ""
    if peak > first:
        middle = f", with a peak of {significant(peak)} at step {facts['peak_step']:,},"
    ends = ", which counts as zero" if facts["reaches_zero"] else ""
    return f"goes from {significant(first)}{middle} to {significant(last)} at step {facts['last_step']:,}{ends}"


# The plateau


def flat_loss(finding: Finding) -> Sentences:
    """The loss has no slope."""
    return _plateau(
        finding,
        "More steps at this rate show no sign of lowering the loss.",
        "Try the cut in a fork: branches that are really trained.",
    )


def cut_gains_more(finding: Finding) -> Sentences:
    """A cut gains more than further steps."""
    return _plateau(
        finding,
        "More steps at this rate could gain little compared with a cut.",
        "Try the cut in a fork: branches that are really trained.",
    )


def no_cut_yet(finding: Finding) -> Sentences:
    """Further steps gain more than a cut."""
    return _plateau(finding, "This test shows no reason to cut the rate yet.")


def _plateau(finding: Finding, means: str, suggestion: str = "") -> Sentences:
    facts, slope, predicted = finding.facts, finding.facts["slope"], finding.facts["predicted_gain"]
    at = f"At η = {significant(facts['learning_rate'])} the loss"
    if slope is None:
        lead = f"{at} still moves"
        seen = f"{lead}."
    else:
        value, low, high = (significant(1e6 * x, 2) for x in (slope.value, slope.low, slope.high))
        lead = f"{at} shows no slope since about step {facts['since']:,}"
        seen = f"{lead}: {value} [{low}, {high}] ‰ per 1,000 steps."
    if predicted is not None:
        to, left = significant(facts["cut_to"]), significant(facts["gain_of_more_steps"])
        seen += f" A cut to {to} is predicted to gain {predicted}; more steps could still gain {left}."
    return Sentences(seen, means, suggestion=suggestion, lead=lead)


def extrapolated_gain(doubt: Doubt) -> str:
    """The gain of more steps is not measured."""
    return "The gain of more steps is extrapolated along the run's own trajectory."


def flat_within_noise(doubt: Doubt) -> str:
    """A small slope is not seen."""
    return "A loss that shows no slope may still have one: the interval says how steep it may be."


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
    return _path(
        "wandering",
        _moves(finding),
        "They stay in a region without coming to rest, as expected if the learning rate does not go to zero.",
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
    """Too short to classify."""
    return Sentences(
        seen="The trajectory cannot be classified yet.",
        means="It takes about 300 steps, and four doublings of time of the same kind.",
    )


def _path(kind: str, numbers: str, means: str, suggestion: str = "") -> Sentences:
    lead = f"The parameters are {kind}"
    seen = f"{lead}: {numbers}."
    return Sentences(seen, means, suggestion=suggestion, caveat=ITERATES_ONLY, lead=lead)


def _moves(finding: Finding) -> str:
    moves, straightness = finding.facts["move_slope"], finding.facts["straightness"].value
    distance = f"the net distance is {significant(straightness, 2)} of the path length"
    if math.isnan(moves.value):
        return distance
    return f"with every doubling of time their moves become {per_doubling(moves)} times as long, and {distance}"


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
            "The loss has no minimum: once every example is classified correctly, larger parameters always lower it."
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
            "The steps are too long for the curvature. They do not blow up, because the loss curves less farther away."
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
            "Change the start: add random numbers to the parameters, and look for a symmetry in the initialisation."
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
            "Their weights have no gradient and do not change any more. The usual cause is a step that was too large."
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
        means=("Their gradients are equal too, for every batch: they stay equal, and act as fewer units."),
        suggestion="Initialise with random numbers.",
        lead=lead,
    )


# The certificate


def certificate_minimum(finding: Finding) -> Sentences:
    """A minimum."""
    means = "This is a minimum of the training loss, within the tolerance."
    return Sentences(_certificate(finding), means)


def certificate_saddle(finding: Finding) -> Sentences:
    """A stationary point that is no minimum."""
    return Sentences(
        seen=_certificate(finding),
        means=("The gradient is zero and a direction curves down: this is a saddle, not a minimum."),
        suggestion="Continue with a larger rate or a smaller batch: noise leaves a saddle.",
    )


def certificate_not_stationary(finding: Finding) -> Sentences:
    """No stationary point."""
    return Sentences(
        seen=_certificate(finding),
        means="Training has not reached a stationary point of its loss.",
        suggestion="Train longer, with a rate that goes to zero: `--schedule linear`.",
    )


def certificate_curvature_unclear(finding: Finding) -> Sentences:
    """A stationary point of unknown kind."""
    return Sentences(
        seen=_certificate(finding),
        means="The gradient is zero, but it is unclear if a direction curves down.",
        suggestion="Certify again with more `--examples`.",
    )


def certificate_gradient_unclear(finding: Finding) -> Sentences:
    """The gradient may be zero."""
    batches = finding.facts["batches"]
    advice = "Certify again with `--exact` (`exact=True`), which uses all examples."
    if batches is not None:
        number = significant(float(batches), 2).replace(",", "")
        advice = f"Certify again with `--batches {number}` or with `--exact`."
    means = "It is unclear if this is a stationary point."
    return Sentences(_certificate(finding), means, suggestion=advice)


def _certificate(finding: Finding) -> str:
    facts, gradient = finding.facts, finding.numbers["relative_gradient_norm"]
    return (
        f"At step {facts['step']:,} the gradient of the training loss is {_per_cent(gradient)} of "
        f"what it was at the start, and the lowest curvature is "
        f"{_per_cent(facts['curvature_share'])} of the largest ({facts['level']:.0%})."
    )


def _per_cent(estimate: Estimate) -> str:
    """ "1.3 % [1.1, 1.6]", or "1.3 %" if it is exact."""
    middle = f"{significant(100 * estimate.value)} %"
    if estimate.method == "exact":
        return middle
    return f"{middle} [{significant(100 * estimate.low)}, {significant(100 * estimate.high)}]"


def certificate_tolerance(doubt: Doubt) -> str:
    """What counts as zero, and which loss it is about."""
    share = significant(100 * doubt.facts["tolerance"], 2)
    return (
        f"For both, less than {share} % counts as zero; another tolerance may give another "
        f"verdict. This is about the training loss in {doubt.facts['mode']} mode, not about test "
        "examples."
    )


CLAIMS = {
    "certificate_curvature_unclear": certificate_curvature_unclear,
    "certificate_gradient_unclear": certificate_gradient_unclear,
    "certificate_minimum": certificate_minimum,
    "certificate_not_stationary": certificate_not_stationary,
    "certificate_saddle": certificate_saddle,
    "chaos": chaos,
    "cut_gains_more": cut_gains_more,
    "dead_relu": dead_relu,
    "flat_loss": flat_loss,
    "no_cut_yet": no_cut_yet,
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
    "schedule_above_zero": schedule_above_zero,
    "schedule_to_zero": schedule_to_zero,
    "twin_units": twin_units,
}

DOUBTS = {
    "certificate_tolerance": certificate_tolerance,
    "extrapolated_gain": extrapolated_gain,
    "flat_within_noise": flat_within_noise,
}
