"""What the spikes of a loss mean for a person."""

from collections.abc import Callable, Sequence

from gradiometer.drift.spikes.cause import Cause, Explanation
from gradiometer.drift.spikes.detection import Spike
from gradiometer.measurement.estimate import counted, significant
from gradiometer.measurement.finding import Finding, Issue, State

GAUGE = "spikes"

FEW = 5
"""Most spikes whose steps are listed."""

LASTING = 10
"""A spike at the end of the record that lasts for so many losses asks for action."""

CLIP = "`torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)`"

MEANS = {
    Cause.THIS_BATCH: "This batch: its examples have a high loss.",
    Cause.INSTABILITY: "Instability: the loss rose on other examples, too.",
    Cause.UNKNOWN: "The record cannot tell if this batch or an instability caused it.",
}

CAVEAT = "Noise alone causes this finding in at most 1 of 50 runs."


def spikes_finding(spikes: Sequence[Spike], explain: Callable[[Spike], Explanation], name: str = "The loss") -> Finding:
    """One finding about all spikes. Only the clearest one is explained.

    Args:
        spikes: At least one, whose places are steps.
        explain: Finds the likely cause of a spike.
        name: Name of the loss.
    """
    highest = clearest(spikes)
    explanation = explain(highest)
    lasting = not spikes[-1].ended and spikes[-1].length >= LASTING
    return Finding(
        GAUGE,
        Issue.DRIFT,
        State.ACT if lasting else State.LOOK,
        f"{name} {_listed(spikes, highest)}",
        " ".join((MEANS[explanation.cause], *(text for text in explanation.evidence if text))),
        _advice(explanation.cause, highest),
        CAVEAT,
    )


def clearest(spikes: Sequence[Spike]) -> Spike:
    """The spike that is farthest above what noise does."""
    return max(spikes, key=lambda spike: spike.score / spike.limit)


def steps_of(spikes: Sequence[Spike]) -> str:
    """The steps at which the spikes begin, as text."""
    steps = [f"{spike.first:,}" for spike in spikes[:FEW]]
    if len(spikes) > FEW:
        return f"steps {', '.join(steps)} and {len(spikes) - FEW:,} more"
    return f"step {steps[0]}" if len(steps) == 1 else f"steps {', '.join(steps[:-1])} and {steps[-1]}"


def _listed(spikes: Sequence[Spike], highest: Spike) -> str:
    if len(spikes) == 1:
        return f"spiked at {steps_of(spikes)}: {_shape(highest)}."
    return (
        f"spiked {len(spikes):,} times, at {steps_of(spikes)}. The clearest one is at step {highest.first:,}: "
        f"{_shape(highest)}."
    )


def _shape(spike: Spike) -> str:
    """From where to where it rose, and how long it lasted."""
    back = spike.last - spike.first + 1
    end = f"came back after {counted(back, 'step')}" if spike.ended else "has not come back yet"
    return f"it rose from {significant(spike.level)} to {significant(spike.height)} and {end}"


def _advice(cause: Cause, spike: Spike) -> str:
    if cause is Cause.THIS_BATCH:
        return (
            f"Look at the examples of the batch of step {spike.first:,}: their labels, lengths and values. {CLIP} "
            "limits what one batch can do."
        )
    if cause is Cause.INSTABILITY:
        return (
            f"Use a smaller learning rate, a longer warm-up, or {CLIP} before the update. A single bad batch can start "
            f"an instability: look at the batch of step {spike.first:,}, too."
        )
    return (
        f"Train again from a checkpoint before step {spike.first:,}, once without this batch and once with half of "
        "the learning rate. The one that removes the spike shows the cause."
    )
