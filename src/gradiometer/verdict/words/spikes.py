"""Words for the spikes of a loss, and for what speaks for their cause."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradiometer.drift.spikes.cause import ROSE, Observation
from gradiometer.drift.stability import BEYOND
from gradiometer.measurement.estimate import counted, significant
from gradiometer.measurement.finding import Finding
from gradiometer.verdict.words.sentences import Words, always, sentence

# Most spikes whose steps are listed.
FEW = 5

CLIP = "`torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)`"


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


def shape_of_spikes(finding: Finding) -> Mapping[str, str]:
    """How often and where the loss spiked, from where to where it rose, and what it speaks for."""
    facts = finding.facts
    starts = facts["starts"]
    at = steps_in_words(starts)
    end = "has not come back yet"
    if facts["ended"]:
        end = f"came back after {counted(facts['length'], 'step')}"
    level, height = significant(facts["level"]), significant(facts["height"])
    shape = f"it rose from {level} to {height} and {end}"
    return {
        "often": f"at {at}" if len(starts) == 1 else f"{len(starts):,} times, at {at}",
        "clearest": f": {shape}"
        if len(starts) == 1
        else f". The clearest one is at step {facts['first']:,}: {shape}",
        "observed": " ".join(OBSERVATIONS[each.kind](each) for each in facts["evidence"]),
    }


def _spikes(cause: str, suggestion: str) -> Words:
    return Words(
        "{lead}{clearest}.",
        cause + " {observed}",
        suggestion,
        "Noise alone causes this finding in at most 1 of 50 runs.",
        "{loss} spiked {often}",
        slots=shape_of_spikes,
    )


def batches_of_a_rise(observation: Observation) -> Mapping[str, str]:
    """On what else the loss was high."""
    number = observation.facts["other_batches"]
    others = "in several values of the log" if number is None else f"on {number:,} other batches"
    return {"others": others}


def spread_of_a_rise(observation: Observation) -> Mapping[str, str]:
    """If few examples have the rise."""
    is_spread = observation.facts["share"] < ROSE
    return {"an": "The rise is spread over the batch: an" if is_spread else "An"}


def examples_of_a_rise(observation: Observation) -> Mapping[str, Any]:
    """The few examples that have the rise."""
    examples = observation.facts["examples"]
    several = len(examples) > 1
    return {
        "number": len(examples),
        "have": "have" if several else "has",
        "places": f"example{'s' * several} {', '.join(map(str, examples))}",
    }


def share_of_edge(observation: Observation) -> Mapping[str, Any]:
    """The batch sharpness in units of its edge, and if that speaks for an instability."""
    share = observation.facts["product"] / observation.facts["edge"]
    return {
        "share": share,
        "meaning": ", which speaks for an instability" if share > BEYOND else "",
    }


LONGER = "gradient of {layer} was {times:2} times as long as usual, the most of all layers."

# A function that says each observation.
OBSERVATIONS: Mapping[str, Callable[[Observation], str]] = {
    "batches_beside_it": always(
        "The batches before and after it, which have other examples, had the usual loss."
    ),
    "heaviest_eighth": sentence(
        "{an} eighth of its examples has {share:.0%} of the rise.", spread_of_a_rise
    ),
    "heaviest_examples": sentence(
        "{number} of its {size} examples {have} {share:.0%} of the rise: {places} of the batch.",
        examples_of_a_rise,
    ),
    "highest_first": always(
        "The first high loss is the highest, and the loss stayed high after it. Either the update "
        "on this batch moved the parameters too far, or they had moved before."
    ),
    "highest_later": sentence(
        "It was high {others}, and the highest value came after the first high one: the parameters "
        "had moved.",
        batches_of_a_rise,
    ),
    "last_loss": always("It is the last loss of the record, so the losses after it are not known."),
    "longest_layer": sentence(f"The {LONGER}"),
    "longest_layer_at_step": sentence(f"At step {{step:,}}, the {LONGER}"),
    "mean_of_steps": sentence("The high value is a mean over {steps:,.0f} steps of the log."),
    "moved_by_its_update": always("Its update then moved the parameters too far."),
    "other_examples": sentence(
        "On the examples of the batch before, the loss was {then:3} at their step and {now:3} at "
        "the parameters of this one."
    ),
    "same_examples": always(
        "Every batch has the same examples, so the loss rose because the parameters had moved."
    ),
    "sharpness": sentence(
        "At step {step:,}, η times the batch sharpness was {product:3}, {share:2} of its edge "
        "{edge:3} (one reading){meaning}.",
        share_of_edge,
    ),
    "two_batches": always("The loss was high on two batches only."),
}

CLAIMS: Mapping[str, Words] = {
    "bad_batch": _spikes(
        "This batch: its examples have a high loss.",
        "Look at the examples of the batch of step {first:,}: their labels, lengths and values. "
        f"{CLIP} limits what one batch can do.",
    ),
    "spike_of_unknown_cause": _spikes(
        "The record cannot tell if this batch or an instability caused it.",
        "Train again from a checkpoint before step {first:,}, once without this batch and once "
        "with half of the learning rate. The one that removes the spike shows the cause.",
    ),
    "unstable": _spikes(
        "Instability: the loss rose on other examples, too.",
        f"Use a smaller learning rate, a longer warm-up, or {CLIP} before the update. A single bad "
        "batch can start an instability: look at the batch of step {first:,}, too.",
    ),
}
