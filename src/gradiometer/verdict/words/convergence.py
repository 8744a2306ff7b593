"""Words for convergence: the schedule, the plateau, and the certificate."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from gradiometer.convergence.theorem.theorem import SUFFICIENT
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.finding import Doubt, Finding
from gradiometer.verdict.words.sentences import Sentences, always, fixed

TRY_THE_CUT = "Try the cut in a fork: branches that are really trained."

# The schedule


def schedule_to_zero(finding: Finding) -> Sentences:
    """The learning rate ends at zero."""
    return Sentences(
        seen=f"The learning rate {course_of_rate(finding.facts)}.",
        means=(
            "A constant rate would leave the iterates spread around the minimum; this schedule "
            "removes that spread."
        ),
    )


def schedule_above_zero(finding: Finding) -> Sentences:
    """The learning rate does not end at zero."""
    last, peak, now = finding.facts["last"], finding.facts["peak"], finding.facts.get("now")
    end = f"{significant(last)}, {last / peak:.0%} of its peak"
    seen = f"The learning rate ends at {end}."
    if now is not None:
        seen = f"The learning rate is at {significant(now)} now, and is planned to end at {end}."
    if peak == finding.facts["lowest"]:
        ending = "to the end" if now is None else "up to the planned end"
        seen = f"The learning rate stays at {significant(last)} {ending}."
    return Sentences(
        seen=seen,
        means=(
            "If the rate does not go to zero, the iterates stay spread around the minimum, and "
            "the loss above its floor."
        ),
        paste=("--schedule linear",),
        suggestion=" ends at zero. Averaging the iterates removes the spread, too.",
        caveat=(
            f"For an infinite run, {SUFFICIENT}. There may be good reasons to end a finite run at "
            "this rate."
        ),
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
    return (
        f"goes from {significant(first)}{middle} to {significant(last)} at step "
        f"{facts['last_step']:,}{ends}"
    )


# The plateau


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
        seen += (
            f" A cut to {to} is predicted to gain {predicted}; more steps could still gain {left}."
        )
    return Sentences(seen, means, suggestion=suggestion, lead=lead)


# The certificate


def certificate_gradient_unclear(finding: Finding) -> Sentences:
    """The gradient may be zero."""
    batches = finding.facts["batches"]
    advice = "Certify again with `--batches all` (`exact=True`), which uses all examples."
    if batches is not None:
        number = significant(float(batches), 2).replace(",", "")
        advice = f"Certify again with `--batches {number}` or with `--batches all`."
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


CLAIMS: Mapping[str, Callable[[Finding], Sentences]] = {
    "certificate_curvature_unclear": fixed(
        _certificate,
        "The gradient is zero, but it is unclear if a direction curves down.",
        "Certify again with more `--examples`.",
    ),
    "certificate_gradient_unclear": certificate_gradient_unclear,
    "certificate_minimum": fixed(
        _certificate, "This is a minimum of the training loss, within the tolerance."
    ),
    "certificate_not_stationary": fixed(
        _certificate,
        "Training has not reached a stationary point of its loss.",
        "Train longer, with a rate that goes to zero: `--schedule linear`.",
    ),
    "certificate_saddle": fixed(
        _certificate,
        "The gradient is zero and a direction curves down: this is a saddle, not a minimum.",
        "Continue with a larger rate or a smaller batch: noise leaves a saddle.",
    ),
    "cut_gains_more": partial(
        _plateau,
        means="More steps at this rate could gain little compared with a cut.",
        suggestion=TRY_THE_CUT,
    ),
    "flat_loss": partial(
        _plateau,
        means="More steps at this rate show no sign of lowering the loss.",
        suggestion=TRY_THE_CUT,
    ),
    "no_cut_yet": partial(_plateau, means="This test shows no reason to cut the rate yet."),
    "schedule_above_zero": schedule_above_zero,
    "schedule_to_zero": schedule_to_zero,
}

DOUBTS = {
    "certificate_tolerance": certificate_tolerance,
    "extrapolated_gain": always(
        "The gain of more steps is extrapolated along the run's own trajectory."
    ),
    "flat_within_noise": always(
        "A loss that shows no slope may still have one: the interval says how steep it may be."
    ),
}
