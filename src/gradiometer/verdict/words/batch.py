"""Words about the batch size: where it is, what another one would save, and what to paste."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from gradiometer.estimation.batch_advice import (
    AHEAD,
    RECENT,
    age,
    carrying,
    examples_factor,
    updates_factor,
)
from gradiometer.estimation.preconditioned_noise import VALID
from gradiometer.measurement.estimate import Estimate, about, counted, significant
from gradiometer.measurement.finding import Doubt, Finding
from gradiometer.measurement.optimizer.hyperparameters import list_values, number
from gradiometer.run.rules import SCHEDULES
from gradiometer.verdict.words.sentences import Sentences, Words, always, fill, sentence

# Factors of the best learning rate seen when B is doubled under AdamW: 2^p with p from −0.03 to
# 0.63.
RATES = (1.0, 1.5)

TIME_MATTERS = "if wall time matters more than examples."
EXAMPLES_MATTER = "if examples are expensive."


# Where B is, compared with the noise scale, by its place. On one side the scale has no upper end.
SEEN = {
    "few": (
        "There is no reliable estimate of the {name} yet: it rests on about {carrying:2} of the "
        "{scale.samples:measured step}."
    ),
    "outdated": "The {name} was {value}, and B is {size}.",
    "outdated, one side": "The {name} was at least {scale.low:3} {when}, and B is {size}.",
    "moving": "The {name} is {value}, {moving}.",
    "below": "The batch is small: the {name} is {value}, {times:2} times B = {size}.",
    "below, one side": "The {name} is at least {scale.low:3}, above B = {size}; {bound}.",
    "above": "The batch is large: B = {size} is {over:2} times the {name} {value}.",
    "above, zero": "The {name} is {below}, and B = {size} is above it.",
    "least": "B = {size} is {over:2} times the {name} {value}.",
    "near": "B = {size} is near the {name} {value}.",
    "unknown": "The {name} is not known yet; {interval}.",
    "unclear": "The {name} {value} is too uncertain for B = {size}.",
    "unclear, one side": "The {name} is at least {scale.low:3}; {bound}.",
}

# What it means that another batch is not advised, by the place of B.
UNDECIDED = {
    "few": ("New examples may change it by any factor, so no other batch is advised."),
    "outdated": (
        "Training is {age:.1f} times as long since, so the scale may have changed: no batch is "
        "advised."
    ),
    "moving": (
        f"It is expected to pass B before training is {AHEAD:.0f} times as long, so no other batch "
        "is advised."
    ),
    "unclear, one side": (
        "The gradient is not distinguishable from zero in these readings, so it is too early to "
        "say whether another batch size would be better."
    ),
}


def place_of(finding: Finding) -> str:
    """Where B is: a name of `SEEN`."""
    scale, _ = _numbers(finding)
    place: str = finding.facts.get("place", "near")
    if place not in SEEN or place == "unknown":
        place = "unclear" if scale.low > 0 else "unknown"
    if place in ("above", "least") and not scale.value > 0:
        return "above, zero"
    one_side = f"{place}, one side"
    return one_side if one_side in SEEN and not math.isfinite(scale.high) else place


def comparison(finding: Finding) -> dict[str, Any]:
    """Where B is, with all that a sentence about it may name."""
    facts = finding.facts
    scale, batch = _numbers(finding)
    unit = f" {facts['unit']}" if facts.get("unit") else ""
    size, when = f"{batch:,.0f}{unit}", _when(scale)
    value, low, high = map(significant, (scale.value, scale.low, scale.high))
    interval, bound = (
        "it is too early to say how many steps an interval needs",
        "there is no upper bound yet",
    )
    if scale.needed is not None:
        needed = f"needs {about(scale.needed)} more steps at B = {size}"
        interval, bound = f"an interval {needed}", f"an upper bound {needed}"
    slots = {
        "name": f"{facts['kind']} noise scale",
        "names": " and ".join(facts.get("optimizers", ())),
        "scale": scale,
        "size": size,
        "unit": unit,
        "value": f"{value} [{low}, {high}] {when}",
        "when": when,
        "times": scale.value / batch,
        "over": batch / scale.value if scale.value > 0 else math.nan,
        "below": f"below {high}" if scale.high > 0 else "0: no noise was seen",
        "moving": f"below B = {size}, and rising"
        if scale.value < batch
        else f"above B = {size}, and falling",
        "interval": interval,
        "bound": bound,
        "carrying": carrying(facts["variation"]) if "variation" in facts else math.nan,
        "age": age(scale),
    }
    return {**slots, "seen": fill(SEEN[place_of(finding)], {**facts, **slots})}


def small(finding: Finding) -> Sentences:
    """The batch is below the noise scale: what a larger one saves."""
    scale, batch = _numbers(finding)
    reference = scale.value if math.isfinite(scale.value) else scale.low
    now, doubled = (updates_factor(times * batch, reference) for times in (1, 2))
    more = examples_factor(2 * batch, reference) / examples_factor(batch, reference) - 1
    updates = "nearly halve the updates"
    if now / doubled < 1.8:
        updates = f"divide the updates by {now / doubled:.1f}"
    lead = f"A batch twice as large would {updates}"
    examples = f"{more:.0%}" if more >= 0.005 else "less than 1%"
    sentences = _with_advice(
        finding,
        f"Doubling the batch would cut the number of updates by {1 - doubled / now:.0%} and use "
        f"{examples} more examples.",
    )
    if not math.isfinite(scale.high):
        seen = f"{lead}: the {sentences.seen.removeprefix('The ')}"
    elif not _is_for_sgd(finding):
        return replace(sentences, lead="The batch is small")
    else:
        seen = f"{lead}: the {{name}} is {{value}}, {{times:2}} times the batch of {{size}}."
        seen = fill(seen, comparison(finding))
    return replace(sentences, seen=seen, lead=lead)


def large(finding: Finding) -> Sentences:
    """The batch is above the noise scale: what a smaller one saves."""
    scale, batch = _numbers(finding)
    means = "The examples in a batch already agree, so averaging more of them gains little."
    sentences = _with_advice(finding, means)
    if not scale.value > 0:
        return sentences
    if not _is_for_sgd(finding):
        return replace(sentences, lead="The batch is large")
    more = updates_factor(batch / 2, scale.value) / updates_factor(batch, scale.value) - 1
    saved = 1 - examples_factor(batch / 2, scale.value) / examples_factor(batch, scale.value)
    lead = f"Half the batch would save {saved:.0%} of the examples and cost {more:.0%} more updates"
    seen = fill("B = {size} is {over:2} times the {name} {value}.", comparison(finding))
    return replace(sentences, seen=f"{lead}: {seen}", lead=lead)


def trade(finding: Finding) -> Mapping[str, Any]:
    """What a batch near the noise scale costs, as far as the optimizer lets one say."""
    scale, batch = _numbers(finding)
    if finding.facts.get("place") == "least":
        means = "No batch is smaller."
    elif "optimizers" in finding.facts:
        means = _under_adam(finding)
    else:
        means = (
            "Here updates and examples trade about evenly: training needs "
            f"{updates_factor(batch, scale.value):.1f}× as many updates as with very large batches, "
            f"and {examples_factor(batch, scale.value):.1f}× as many examples as with very small ones."
        )
    return {**comparison(finding), "means": means}


def no_advice(finding: Finding) -> Sentences:
    """It cannot be told whether another batch would be better."""
    slots, found = comparison(finding), place_of(finding)
    too_early = "It is too early to say whether another batch size would be better."
    means = fill(
        UNDECIDED.get(found.removesuffix(", one side"), UNDECIDED.get(found, too_early)), slots
    )
    later = (
        "a larger `budget` (`--budget` on the command line), or `steps=` in `watch` if training has "
        "up to 1,000 steps, to have later measurements."
    )
    return Sentences(
        slots["seen"],
        means,
        suggestion=later if found.startswith("outdated") else "",
        lead=slots["seen"].partition(": ")[0] if found == "few" else "",
    )


def unforeseen(finding: Finding) -> Mapping[str, Any]:
    """Why no forecast is known for the optimizer."""
    slots = comparison(finding)
    why = "The forecast for another batch size depends on the optimizer, which was not recorded."
    if slots["names"]:
        why = (
            f"The optimizer is {slots['names']}. No forecast of a better batch size is known for "
            "it, so none is advised."
        )
    return {**slots, "why": why}


def _numbers(finding: Finding) -> tuple[Estimate, float]:
    """The noise scale and B."""
    prefix = "" if finding.facts["kind"] == "gradient" else f"{finding.facts['kind']}_"
    return finding.numbers[f"{prefix}noise_scale"], finding.numbers[f"{prefix}batch_size"].value


def _is_for_sgd(finding: Finding) -> bool:
    """True if SGD's forecast of updates and examples holds."""
    return finding.facts["kind"] == "gradient" and "optimizers" not in finding.facts


def _when(scale: Estimate) -> str:
    """What the value is of: a step of training, with an early value if it has changed,
    or a window."""
    if scale.step is None:
        return f"({counted(scale.samples, 'measured step')})"
    is_old = age(scale) > RECENT
    when = f"step {scale.step:,}"
    if is_old:
        when += f" of {scale.reached:,}"
    if scale.earlier is not None:
        step, value = scale.earlier
        when += f"; it was {significant(value, 2)} at step {step:,}"
    return f"at the newest reading ({when})" if is_old else f"now ({when})"


def _with_advice(finding: Finding, means: str) -> Sentences:
    """Another batch, with its rate as far as one is known."""
    facts, slots = finding.facts, comparison(finding)
    is_small = finding.claim == "batch_small"
    why = TIME_MATTERS if is_small else EXAMPLES_MATTER
    if "optimizers" in facts:
        means = _under_adam(finding)
    if "rate_factor" in facts:
        paste, then = _terms(finding)
        updates, examples = finding.forecast["updates"], finding.forecast["examples"]
        forecast = (
            f"Forecast: {updates} times the updates and {examples} times the examples to the same "
            "loss."
        )
        return Sentences(slots["seen"], means, paste, f"{then}, {why}", forecast)
    if "bracket" in facts:
        paste, then = _bracket(finding)
        return Sentences(slots["seen"], means, paste, f"{then}, {why} Try both ends.")
    if facts["kind"] == "preconditioned":
        paste, then = _factors(finding)
        return Sentences(slots["seen"], means, paste, f"{then}, {why}" if paste else "")
    _, batch = _numbers(finding)
    size = 2 * batch if is_small else max(batch // 2, 1)
    return Sentences(slots["seen"], means, (f"B = {size:.0f}",), f"{slots['unit']} {why}")


def _terms(finding: Finding) -> tuple[tuple[str, ...], str]:
    """Batch size, learning rate and schedule as the user writes them."""
    facts = finding.facts
    size, factor, schedule = facts["size"], facts["rate_factor"], facts["schedule"]
    peaks: tuple[float, ...] = facts["peaks"]
    times = significant(factor)
    if schedule in SCHEDULES:
        return (f"--batch-size {size} --lr {number(factor * max(peaks))}",), ""
    if schedule is not None:
        return (f"--batch-size {size} --schedule '{times} * ({schedule})'",), ""
    different = len(set(peaks)) > 1
    scaled = list_values([factor * each for each in peaks])
    if facts["constant"] and not different:
        return (f"batch_size = {size}", f"lr = {scaled}"), ""
    if facts["constant"]:
        return (f"batch_size = {size}",), f" with all learning rates times {times} ({scaled})"
    return (
        (f"batch_size = {size}",),
        f" with the whole schedule of the learning rate times {times} (peak {scaled} instead of "
        f"{list_values(peaks)}), over {significant(1 / factor)} times as many updates",
    )


def _bracket(finding: Finding) -> tuple[tuple[str, ...], str]:
    """The batch and the range of learning rates that may belong to it."""
    facts = finding.facts
    low, high = map(number, facts["bracket"])
    peaks: tuple[float, ...] = facts["peaks"]
    of_what = (
        ""
        if facts["constant"]
        else f" as the peak of the schedule, instead of {number(max(peaks))}"
    )
    if len(set(peaks)) > 1:
        of_what += " for the group with the largest one, and in proportion for the others"
    return (
        f"batch_size = {facts['size']}",
    ), f" with a learning rate between {low} and {high}{of_what}"


def _factors(finding: Finding) -> tuple[tuple[str, ...], str]:
    """The batch with factors of the present rate, if that is not known."""
    examples = finding.facts["batch_in_examples"]
    slow, fast = RATES
    if finding.claim == "batch_small":
        factors = f"{slow:.1f} to {fast:.1f}"
        return (
            f"B = {2 * examples:.0f}",
        ), f" with a learning rate of {factors} times the present one"
    if examples < 2:
        return (), ""
    factors = f"{1 / fast:.2f} to {1 / slow:.1f}"
    return (
        f"B = {examples // 2:.0f}",
    ), f" with a learning rate of {factors} times the present one"


def _under_adam(finding: Finding) -> str:
    """What the plain noise scale says under an adaptive optimizer."""
    name = " and ".join(finding.facts["optimizers"])
    trials = "with it" if name == "AdamW" else f"with AdamW, to which {name} is related,"
    return (
        f"The optimizer is {name}, for which SGD's forecast of updates and examples does not hold. "
        f"In trials {trials} this noise scale was within a factor of 3 of the batch size above "
        "which a larger batch saves few updates."
    )


CLAIMS: Mapping[str, Callable[[Finding], Sentences]] = {
    "batch_small": small,
    "batch_large": large,
    "batch_near": Words("{seen}", "{means}", slots=trade),
    "batch_undecided": no_advice,
    "batch_of_all": Words(
        "{seen}",
        "There are {examples:training example}, so twice the batch is not possible.",
        slots=comparison,
    ),
    "batch_full": Words(
        "Every update has the same batch, B = {size}.",
        "Only random numbers in the model, such as Dropout, make these gradients noisy, so nothing "
        "can be said about other batches.",
        slots=comparison,
    ),
    "batch_outranked": Words(
        "{seen}",
        "The optimizer is {names}, for which SGD's forecast does not hold: the preconditioned "
        "noise scale is the better predictor, so no batch is advised from this one.",
        slots=comparison,
    ),
    "batch_unforeseen": Words("{seen}", "{why}", slots=unforeseen),
    "batch_in_cool_down": Words(
        "{seen}",
        "The learning rate falls and is {cooled:2} of its peak. In such a cool-down the scale "
        "grows although the batch is not too small, so no batch is advised.",
        slots=comparison,
    ),
    "batch_not_large": Words(
        "{seen}",
        "B is not too large. It is not known if it is too small: the scale has no upper bound yet.",
        slots=comparison,
    ),
    "batch_within_validity": Words(
        "{seen}",
        f"The scale predicts the batch size only within a factor of {VALID:.0f}, so B may be right.",
        slots=comparison,
    ),
}

DOUBTS: Mapping[str, Callable[[Doubt], str]] = {
    "one_step_model": always(
        "The factors come from a model (one step of SGD at its best learning rate), and the noise "
        "scale usually grows as the loss falls."
    ),
    "uneven_noise": sentence(
        "The noise measurements are uneven (CV² {variation:2}): a few examples may carry most of the "
        "noise. Two such examples in one batch are rare, so the interval is widened."
    ),
    "tuned_rates": sentence(
        "In trials with SGD the best learning rate grew as B^0.5 to B^0.9, which is {from} to {to} "
        "here.",
        lambda doubt: {"from": number(doubt.facts["low"]), "to": number(doubt.facts["high"])},
    ),
    "no_single_rate": always(
        "No single learning rate follows from the noise scale: in the trials the best one grew as "
        "B^p with p from −0.03 to 0.63."
    ),
    "preconditioned_trials": always(
        "In trials this scale was within a factor of 2 of the batch size that branches with tuned "
        "rates found: under AdamW in 12 of 13, under RMSprop not in the only one. No other batch "
        "was tried in this run."
    ),
}
