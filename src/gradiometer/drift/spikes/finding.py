"""One finding about the spikes of a loss."""

from collections.abc import Callable, Sequence

from gradiometer.drift.spikes.cause import Cause, Explanation
from gradiometer.drift.spikes.detection import Spike
from gradiometer.measurement.finding import Finding, Issue, State

GAUGE = "spikes"

CLAIMS = {
    Cause.THIS_BATCH: "bad_batch",
    Cause.INSTABILITY: "unstable",
    Cause.UNKNOWN: "spike_of_unknown_cause",
}


def spikes_finding(
    spikes: Sequence[Spike], explain: Callable[[Spike], Explanation], name: str = "The loss"
) -> Finding:
    """One finding about all spikes. Only the clearest one is explained.

    Args:
        spikes: At least one, whose places are steps.
        explain: Finds the likely cause of a spike.
        name: Name of the loss.
    """
    highest = clearest(spikes)
    explanation = explain(highest)
    # 10: A spike at the end of the record that lasts for so many losses asks for action.
    lasting = not spikes[-1].ended and spikes[-1].length >= 10
    facts = {
        "loss": name,
        "starts": tuple(spike.first for spike in spikes),
        "first": highest.first,
        "peak": highest.peak,
        "length": highest.length,
        "level": highest.level,
        "height": highest.height,
        "ended": highest.ended,
        "evidence": explanation.evidence,
    }
    state = State.ACT if lasting else State.LOOK
    return Finding(GAUGE, Issue.DRIFT, CLAIMS[explanation.cause], state, facts=facts)


def clearest(spikes: Sequence[Spike]) -> Spike:
    """The spike that is farthest above what noise does."""
    return max(spikes, key=lambda spike: spike.score / spike.limit)
