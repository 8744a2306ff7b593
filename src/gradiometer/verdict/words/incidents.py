"""Words about an incident of the loss: what it did, why, and the state to go on from."""

import math
import shlex
from typing import TYPE_CHECKING

from gradiometer.measurement.estimate import significant

if TYPE_CHECKING:  # what is found in a training, which stands above its words
    from gradiometer.train.forking.incident_cause import Incident, IncidentCause


def incident_sentence(found: "IncidentCause") -> str:
    """The incident, its cause, and the state to continue from."""
    return f"{what_happened(found.incident)} {why(found)} {how_to_go_on(found)}"


def what_happened(incident: "Incident") -> str:
    """What the loss did."""
    level, height = significant(incident.level), significant(incident.height)
    return {
        "not finite": f"At step {incident.first:,} the loss or its gradient was not finite.",
        "diverged": f"From step {incident.first:,} on the loss grew far above {level}.",
        "spike": f"The loss spiked from {level} to {height} at step {incident.first:,}.",
        "rise": f"The loss rose from {level} to {height} at step {incident.first:,} and stayed.",
    }[incident.kind]


def why(found: "IncidentCause") -> str:
    """The cause, and what avoids it."""
    each = ", ".join(f"{one:,}" for one in found.examples)
    many = len(found.examples) > 1
    factor = significant(found.factor or math.nan, 2)
    if found.cause == "layer" and found.factor is None:
        return f"Cause: layer {found.layer}, whose output or gradient is not finite there."
    other_data = " It had risen before."
    if found.orders:
        came = f"{sum(found.orders)} of {len(found.orders)}"
        other_data = f" On other orders of the data it came in {came}."
    return {
        "example": (
            f"Cause: example{'s' * many} {each} of the training set, in the batch of step "
            f"{found.step:,}. Without {'them' if many else 'it'} the loss does not rise."
        ),
        "batch": (
            f"Cause: the batch of step {found.step:,} as a whole. Without it the loss does not "
            "rise; without half of it, it does."
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


def how_to_go_on(found: "IncidentCause") -> str:
    """The state to go on from, and how."""
    state = f"The state of step {found.start:,}, before it, is loop_at(run, {found.start})"
    if found.change is None:
        return f"{state}."
    command = f"gradiometer fork {shlex.quote(str(found.run))} '{found.change}' --at {found.start}"
    return f"{state}; to go on from it: {command}"
