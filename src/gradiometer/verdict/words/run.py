"""Words about the record itself: what was measured, what stopped, and what does not hold."""

import shlex
from collections.abc import Mapping
from typing import Any

from gradiometer.measurement.finding import Doubt, Finding
from gradiometer.measurement.optimizer.hyperparameters import list_values
from gradiometer.run.cadence.overhead import MORE_READINGS, paid_for
from gradiometer.verdict.words.sentences import Words, sentence


def source(finding: Finding) -> Mapping[str, str]:
    """The gauge, its class, and the run as a command names it."""
    facts = finding.facts
    return {"gauge": repr(finding.gauge), "path": facts["class"], "at": shlex.quote(facts["run"])}


def reason(said: Finding | Doubt) -> Mapping[str, Any]:
    """The reason with one full stop."""
    return {"reason": said.facts["reason"].rstrip(".") + "."}


CLAIMS: Mapping[str, Words] = {
    "gauge_not_installed": Words(
        "No installed package has the gauge {gauge}. The run has {readings:reading} of it.",
        "Its moments can be exported, but estimates need its class.",
        "Install the package that adds {gauge}; it may come with another version of gradiometer.",
        slots=source,
    ),
    "gauge_unavailable": Words(
        "{lead}. The run has {readings:reading} of it.",
        "Its moments can be exported, but estimates need the class.",
        ", or `Run.open(path, gauges=[YourGauge])`.",
        lead="The class of the gauge {gauge}, {path}, is not available",
        paste=("gradiometer show {at} --gauge {path}",),
        slots=source,
    ),
    "budget_short": Words(
        "{paid_for}.",
        "Intervals are wide with so few.",
        MORE_READINGS[:1].upper() + MORE_READINGS[1:],
        slots=lambda finding: {"paid_for": paid_for(finding.facts)},
    ),
    # said in place of a finding that rests on the trained loss
    "loss_differs": Words(
        "{lead}: the readings describe another loss than the one that is trained.",
        "A warning of this run says how they differ.",
        lead="No verdict",
    ),
    # said in place of a finding of a step that is not recorded where it is made
    "step_misplaced": Words(
        "{lead}: `w.step` is not called between `backward` and the update.",
        "A warning of this run says what to write.",
        lead="No verdict",
    ),
    # said in place of a verdict
    "misplaced": Words(
        "{lead}: {reason}",
        "gradiometer reads the gradients of a step when `w.step` is called.",
        lead="No verdict",
        brief="`w.step` is misplaced",
        slots=reason,
    ),
    "another_loss": Words(
        "{lead}: {reason}",
        "The readings describe another loss than the one that is trained.",
        lead="No verdict",
        brief="trained on another loss",
        slots=reason,
    ),
    "gauge_stopped": Words(
        "{lead}: {reason}",
        "There are too few readings for a verdict, and no more will come.",
        lead="Stopped at step {step:,}",
        slots=reason,
    ),
}

DOUBTS = {
    "not_measured_after": sentence("Not measured after step {step:,}: {reason}", reason),
    "several_rates": sentence(
        "The groups have different learning rates ({rates}): η is the largest of them.",
        lambda doubt: {"rates": list_values(doubt.facts["peaks"])},
    ),
}
