"""Words about the record itself: what was measured, what stopped, and what does not hold."""

import shlex
from collections.abc import Callable, Mapping

from gradiometer.measurement.estimate import counted
from gradiometer.measurement.finding import Doubt, Finding
from gradiometer.measurement.optimizer.hyperparameters import list_values
from gradiometer.run.cadence.overhead import MORE_READINGS, paid_for
from gradiometer.verdict.words.sentences import Sentences


def gauge_unavailable(finding: Finding) -> Sentences:
    """The class of a gauge is not available."""
    path = finding.facts["class"]
    readings = counted(finding.facts["readings"], "reading")
    lead = f"The class of the gauge {finding.gauge!r}, {path}, is not available"
    return Sentences(
        f"{lead}. The run has {readings} of it.",
        "Its moments can be exported, but estimates need the class.",
        (f"gradiometer show {shlex.quote(finding.facts['run'])} --gauge {path}",),
        ", or `Run.open(path, gauges=[YourGauge])`.",
        lead=lead,
    )


def budget_short(finding: Finding) -> Sentences:
    """The budget could not pay for enough readings."""
    return Sentences(
        f"{paid_for(finding.facts)}.",
        "Intervals are wide with so few.",
        suggestion=MORE_READINGS[:1].upper() + MORE_READINGS[1:],
    )


def loss_differs(_: Finding) -> Sentences:
    """The measured loss is not the trained one: said in place of a finding that rests on it."""
    lead = "No verdict"
    return Sentences(
        f"{lead}: the readings describe another loss than the one that is trained.",
        "A warning of this run says how they differ.",
        lead=lead,
    )


def another_loss(finding: Finding) -> Sentences:
    """The measured loss is not the trained one: said in place of a verdict."""
    lead = "No verdict"
    return Sentences(
        f"{lead}: {_sentence(finding.facts['reason'])}",
        "The readings describe another loss than the one that is trained.",
        lead=lead,
    )


def gauge_stopped(finding: Finding) -> Sentences:
    """A gauge stopped before it could tell anything."""
    lead = f"Stopped at step {finding.facts['step']:,}"
    return Sentences(
        f"{lead}: {_sentence(finding.facts['reason'])}",
        "There are too few readings for a verdict, and no more will come.",
        lead=lead,
    )


def not_measured_after(doubt: Doubt) -> str:
    """A gauge stopped after it had found something."""
    return f"Not measured after step {doubt.facts['step']:,}: {_sentence(doubt.facts['reason'])}"


def several_rates(doubt: Doubt) -> str:
    """Parameter groups have different learning rates."""
    peaks = list_values(doubt.facts["peaks"])
    return f"The groups have different learning rates ({peaks}): η is the largest of them."


def _sentence(text: str) -> str:
    return text.rstrip(".") + "."


CLAIMS: Mapping[str, Callable[[Finding], Sentences]] = {
    "gauge_unavailable": gauge_unavailable,
    "budget_short": budget_short,
    "loss_differs": loss_differs,
    "another_loss": another_loss,
    "gauge_stopped": gauge_stopped,
}

DOUBTS: Mapping[str, Callable[[Doubt], str]] = {
    "not_measured_after": not_measured_after,
    "several_rates": several_rates,
}
