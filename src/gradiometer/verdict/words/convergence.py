"""Words for convergence: the schedule, the plateau, and the certificate."""

from collections.abc import Mapping
from typing import Any

from gradiometer.measurement import Estimate, Finding, significant
from gradiometer.verdict.words.sentences import Words, always, sentence

TRY_THE_CUT = "Try the cut in a fork: branches that are really trained."

CERTIFICATE = (
    "At step {step:,} the gradient of the training loss is {gradient} of what it was at the start, "
    "and the lowest curvature is {curvature} of the largest ({level:.0%})."
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


def end_of_rate(finding: Finding) -> Mapping[str, str]:
    """Where a rate that does not go to zero is now, and where it ends."""
    last, peak, now = finding.facts["last"], finding.facts["peak"], finding.facts.get("now")
    end = f"{significant(last)}, {last / peak:.0%} of its peak"
    course = f"ends at {end}"
    if now is not None:
        course = f"is at {significant(now)} now, and is planned to end at {end}"
    if peak == finding.facts["lowest"]:
        ending = "to the end" if now is None else "up to the planned end"
        course = f"stays at {significant(last)} {ending}"
    return {"course": course}


def plateau(finding: Finding) -> Mapping[str, str]:
    """The slope of the loss, and what a cut is predicted to gain."""
    facts, slope, predicted = finding.facts, finding.facts["slope"], finding.facts["predicted_gain"]
    moves, values, cut = "still moves", "", ""
    if slope is not None:
        moves = f"shows no slope since about step {facts['since']:,}"
        value, low, high = (significant(1e6 * x, 2) for x in (slope.value, slope.low, slope.high))
        values = f": {value} [{low}, {high}] ‰ per 1,000 steps"
    if predicted is not None:
        to, left = significant(facts["cut_to"]), significant(facts["gain_of_more_steps"])
        cut = (
            f" A cut to {to} is predicted to gain {predicted}; more steps could still gain {left}."
        )
    return {"moves": moves, "values": values, "cut": cut}


def _plateau(means: str, suggestion: str = "") -> Words:
    lead = "At η = {learning_rate:3} the loss {moves}"
    return Words("{lead}{values}.{cut}", means, suggestion, lead=lead, slots=plateau)


def certificate(finding: Finding) -> Mapping[str, str]:
    """The gradient and the lowest curvature in per cent, and how many batches would decide."""
    batches = finding.facts["batches"]
    again = "`--batches all` (`exact=True`), which uses all examples"
    if batches is not None:
        number = significant(float(batches), 2).replace(",", "")
        again = f"`--batches {number}` or with `--batches all`"
    return {
        "gradient": _per_cent(finding.numbers["relative_gradient_norm"]),
        "curvature": _per_cent(finding.facts["curvature_share"]),
        "again": again,
    }


def _per_cent(estimate: Estimate) -> str:
    """ "1.3 % [1.1, 1.6]", or "1.3 %" if it is exact."""
    middle = f"{significant(100 * estimate.value)} %"
    if estimate.method == "exact":
        return middle
    return f"{middle} [{significant(100 * estimate.low)}, {significant(100 * estimate.high)}]"


def _certificate(means: str, suggestion: str = "") -> Words:
    return Words(CERTIFICATE, means, suggestion, slots=certificate)


CLAIMS: Mapping[str, Words] = {
    "certificate_curvature_unclear": _certificate(
        "The gradient is zero, but it is unclear if a direction curves down.",
        "Certify again with more `--examples`.",
    ),
    "certificate_gradient_unclear": _certificate(
        "It is unclear if this is a stationary point.", "Certify again with {again}."
    ),
    "certificate_minimum": _certificate(
        "This is a minimum of the training loss, within the tolerance."
    ),
    "certificate_not_stationary": _certificate(
        "Training has not reached a stationary point of its loss.",
        "Train longer, with a rate that goes to zero: `--schedule linear`.",
    ),
    "certificate_saddle": _certificate(
        "The gradient is zero and a direction curves down: this is a saddle, not a minimum.",
        "Continue with a larger rate or a smaller batch: noise leaves a saddle.",
    ),
    "cut_gains_more": _plateau(
        "More steps at this rate could gain little compared with a cut.", TRY_THE_CUT
    ),
    "flat_loss": _plateau(
        "More steps at this rate show no sign of lowering the loss.", TRY_THE_CUT
    ),
    "no_cut_yet": _plateau("This test shows no reason to cut the rate yet."),
    "schedule_above_zero": Words(
        "The learning rate {course}.",
        "If the rate does not go to zero, the iterates stay spread around the minimum, and the "
        "loss above its floor.",
        " ends at zero. Averaging the iterates removes the spread, too.",
        "For an infinite run, these conditions are sufficient, not necessary. There may be good "
        "reasons to end a finite run at this rate.",
        paste=("--schedule linear",),
        slots=end_of_rate,
    ),
    "schedule_to_zero": Words(
        "The learning rate {course}.",
        "A constant rate would leave the iterates spread around the minimum; this schedule removes "
        "that spread.",
        slots=lambda finding: {"course": course_of_rate(finding.facts)},
    ),
}

DOUBTS = {
    "certificate_tolerance": sentence(
        "For both, less than {share:2} % counts as zero; another tolerance may give another "
        "verdict. This is about the training loss in {mode} mode, not about test examples.",
        lambda doubt: {"share": 100 * doubt.facts["tolerance"]},
    ),
    "extrapolated_gain": always(
        "The gain of more steps is extrapolated along the run's own trajectory."
    ),
    "flat_within_noise": always(
        "A loss that shows no slope may still have one: the interval says how steep it may be."
    ),
}
