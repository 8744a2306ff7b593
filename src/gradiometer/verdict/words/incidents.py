"""Words about an incident of the loss: what it did, why, and the state to go on from."""

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from gradiometer.loop.recorded.incidents import Incident, IncidentCause
from gradiometer.measurement import Finding, significant
from gradiometer.verdict.words.sentences import Sentences


def incident(finding: Finding) -> Sentences:
    """The incident, its cause, and the state to go on from."""
    found: IncidentCause = finding.facts["found"]
    said = Sentences(
        what_happened(found.incident),
        why(found),
        tried=f"Tested: {len(found.tried)} continuations from step {found.start:,}.",
    )
    if finding.facts["run"] is not None:
        return replace(said, suggestion=how_to_go_on(found, finding.facts["run"]))
    back = f", which puts model and optimizer back to the newest state up to step {found.start:,}."
    return replace(said, paste=(f"w.go_back({found.start})",), suggestion=back)


def incident_sentence(found: IncidentCause, run: Path) -> str:
    """The incident, its cause, and the state to continue from."""
    return f"{what_happened(found.incident)} {why(found)} {how_to_go_on(found, run)}"


def what_happened(incident: Incident) -> str:
    """What the loss did."""
    level, height = significant(incident.level), significant(incident.height)
    return {
        "not finite": f"At step {incident.first:,} the loss or its gradient was not finite.",
        "diverged": f"From step {incident.first:,} on the loss grew far above {level}.",
        "spike": f"The loss spiked from {level} to {height} at step {incident.first:,}.",
        "rise": f"The loss rose from {level} to {height} at step {incident.first:,} and stayed.",
    }[incident.kind]


def why(found: IncidentCause) -> str:
    """The cause, and what avoids it."""
    each = ", ".join(f"{one:,}" for one in found.examples or found.rows)
    many = len(found.examples or found.rows) > 1
    named = f"example{'s' * many} {each} of the training set, in the batch of step {found.step:,}"
    if found.rows:
        named = f"row{'s' * many} {each} of the batch of step {found.step:,}"
    factor = significant(found.factor or math.nan, 2)
    if found.cause == "layer" and found.factor is None:
        return f"Cause: layer {found.layer}, whose output or gradient is not finite there."
    other_data = " It had risen before."
    if found.orders:
        came = f"{sum(found.orders)} of {len(found.orders)}"
        other_data = f" On other orders of the data it came in {came}."
    return {
        "example": (f"Cause: {named}. Without {'them' if many else 'it'} the loss does not rise."),
        "batch": (
            f"Cause: the batch of step {found.step:,} as a whole. Without it the loss does not "
            "rise; without half of it, it does."
        ),
        "batches": (
            f"Cause: the batches of steps {found.step:,} to {found.last or found.step:,}. Without "
            "them the loss does not rise."
        ),
        "layer": (
            f"Cause: layer {found.layer}. If it alone stays as it was at step {found.start:,}, "
            f"the loss does not rise; nor does it at {factor} times the rate."
        ),
        "rate": (
            f"Cause: the learning rate. At {factor} times the rate from step {found.start:,} "
            f"on, the loss does not rise.{other_data}"
        ),
        "chance": "Cause: chance. The same updates from the same state did not bring it again.",
        "unknown": "Cause: not found. It came in all that was tried.",
    }[found.cause]


def how_to_go_on(found: IncidentCause, run: Path) -> str:
    """The state to go on from, and how.

    Args:
        found: The cause.
        run: The folder of the run.
    """
    state = f"The state of step {found.start:,}, before it, is loop_at(run, {found.start})"
    if found.change is None:
        return f"{state}."
    command = f"gradiometer fork {shlex.quote(str(run))} '{found.change}' --at {found.start}"
    return f"{state}; to go on from it: {command}"


CLAIMS: Mapping[str, Callable[[Finding], Sentences]] = {"incident": incident}
