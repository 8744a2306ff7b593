"""Words for the spikes of a loss, and for what speaks for their cause."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradiometer.drift.spikes.cause import ROSE, Observation
from gradiometer.drift.stability import BEYOND
from gradiometer.measurement.estimate import counted, significant
from gradiometer.measurement.finding import Finding
from gradiometer.verdict.words.sentences import Sentences, always

# Most spikes whose steps are listed.
FEW = 5

CLIP = "`torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)`"


def bad_batch(finding: Finding) -> Sentences:
    """The examples of one batch."""
    return _spikes(
        finding,
        "This batch: its examples have a high loss.",
        f"Look at the examples of the batch of step {finding.facts['first']:,}: their labels, "
        f"lengths and values. {CLIP} limits what one batch can do.",
    )


def unstable(finding: Finding) -> Sentences:
    """The parameters had moved."""
    return _spikes(
        finding,
        "Instability: the loss rose on other examples, too.",
        f"Use a smaller learning rate, a longer warm-up, or {CLIP} before the update. A single "
        "bad batch can start an instability: look at the batch of step "
        f"{finding.facts['first']:,}, too.",
    )


def spike_of_unknown_cause(finding: Finding) -> Sentences:
    """The record does not show the cause."""
    return _spikes(
        finding,
        "The record cannot tell if this batch or an instability caused it.",
        f"Train again from a checkpoint before step {finding.facts['first']:,}, once without this "
        "batch and once with half of the learning rate. The one that removes the spike shows the "
        "cause.",
    )


def _spikes(finding: Finding, cause: str, suggestion: str) -> Sentences:
    facts = finding.facts
    name, starts = facts["loss"], facts["starts"]
    if len(starts) == 1:
        lead = f"{name} spiked at {steps_in_words(starts)}"
        seen = f"{lead}: {_shape(facts)}."
    else:
        lead = f"{name} spiked {len(starts):,} times, at {steps_in_words(starts)}"
        seen = f"{lead}. The clearest one is at step {facts['first']:,}: {_shape(facts)}."
    evidence = (OBSERVATIONS[each.kind](each) for each in facts["evidence"])
    return Sentences(
        seen=seen,
        means=" ".join((cause, *evidence)),
        suggestion=suggestion,
        caveat="Noise alone causes this finding in at most 1 of 50 runs.",
        lead=lead,
    )


def steps_in_words(starts: Sequence[int]) -> str:
    """The steps at which spikes begin: the first few, and the number of the others.

    Args:
        starts: The steps, in order.

    >>> steps_in_words([3]), steps_in_words([3, 40]), steps_in_words(range(1000, 1007))
    ('step 3', 'steps 3 and 40', 'steps 1,000, 1,001, 1,002, 1,003, 1,004 and 2 more')
    """
    steps = [f"{start:,}" for start in starts[:FEW]]
    if len(starts) > FEW:
        return f"steps {', '.join(steps)} and {len(starts) - FEW:,} more"
    if len(steps) == 1:
        return f"step {steps[0]}"
    return f"steps {', '.join(steps[:-1])} and {steps[-1]}"


def _shape(facts: Mapping[str, Any]) -> str:
    """From where to where it rose, and how long it lasted."""
    end = "has not come back yet"
    if facts["ended"]:
        end = f"came back after {counted(facts['length'], 'step')}"
    level, height = significant(facts["level"]), significant(facts["height"])
    return f"it rose from {level} to {height} and {end}"


# Evidence


def mean_of_steps(observation: Observation) -> str:
    """One high value of a log that averages."""
    return f"The high value is a mean over {observation.facts['steps']:,.0f} steps of the log."


def highest_later(observation: Observation) -> str:
    """The loss went on rising on other batches."""
    number = observation.facts["other_batches"]
    others = "in several values of the log" if number is None else f"on {number:,} other batches"
    return (
        f"It was high {others}, and the highest value came after the first high one: the "
        "parameters had moved."
    )


def other_examples(observation: Observation) -> str:
    """The loss on the examples of the batch before."""
    then, now = (significant(observation.facts[name]) for name in ("then", "now"))
    return (
        f"On the examples of the batch before, the loss was {then} at their step and {now} at the "
        "parameters of this one."
    )


def heaviest_eighth(observation: Observation) -> str:
    """No few examples have the rise."""
    share = observation.facts["share"]
    spread = "The rise is spread over the batch: an" if share < ROSE else "An"
    return f"{spread} eighth of its examples has {share:.0%} of the rise."


def heaviest_examples(observation: Observation) -> str:
    """The few examples that have the rise."""
    facts = observation.facts
    examples = facts["examples"]
    have, noun = ("have", "examples") if len(examples) > 1 else ("has", "example")
    places = ", ".join(map(str, examples))
    return (
        f"{len(examples)} of its {facts['size']} examples {have} {facts['share']:.0%} of the rise: "
        f"{noun} {places} of the batch."
    )


def longest_layer(observation: Observation) -> str:
    """The layer with the longest gradient at the examined step."""
    return f"The gradient of {_longer_layer(observation)}"


def longest_layer_at_step(observation: Observation) -> str:
    """The layer with the longest gradient at a reading near the spike."""
    step = observation.facts["step"]
    return f"At step {step:,}, the gradient of {_longer_layer(observation)}"


def _longer_layer(observation: Observation) -> str:
    layer, times = observation.facts["layer"], significant(observation.facts["times"], 2)
    return f"{layer} was {times} times as long as usual, the most of all layers."


def sharpness(observation: Observation) -> str:
    """The batch sharpness against its edge, at a reading near the spike."""
    facts = observation.facts
    share = facts["product"] / facts["edge"]
    meaning = ", which speaks for an instability." if share > BEYOND else "."
    return (
        f"At step {facts['step']:,}, η times the batch sharpness was "
        f"{significant(facts['product'])}, {significant(share, 2)} of its edge "
        f"{significant(facts['edge'])} (one reading){meaning}"
    )


# A function that says each observation.
OBSERVATIONS: Mapping[str, Callable[[Observation], str]] = {
    "batches_beside_it": always(
        "The batches before and after it, which have other examples, had the usual loss."
    ),
    "heaviest_eighth": heaviest_eighth,
    "heaviest_examples": heaviest_examples,
    "highest_first": always(
        "The first high loss is the highest, and the loss stayed high after it. Either the update "
        "on this batch moved the parameters too far, or they had moved before."
    ),
    "highest_later": highest_later,
    "last_loss": always("It is the last loss of the record, so the losses after it are not known."),
    "longest_layer": longest_layer,
    "longest_layer_at_step": longest_layer_at_step,
    "mean_of_steps": mean_of_steps,
    "moved_by_its_update": always("Its update then moved the parameters too far."),
    "other_examples": other_examples,
    "same_examples": always(
        "Every batch has the same examples, so the loss rose because the parameters had moved."
    ),
    "sharpness": sharpness,
    "two_batches": always("The loss was high on two batches only."),
}

CLAIMS = {
    "bad_batch": bad_batch,
    "spike_of_unknown_cause": spike_of_unknown_cause,
    "unstable": unstable,
}
