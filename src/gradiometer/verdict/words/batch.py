"""Words about the batch size: where it is, what another one would save, and what to paste."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from gradiometer.estimation.batch_advice import (
    AHEAD,
    RECENT,
    SHAPES,
    age,
    carrying,
    examples_factor,
    updates_factor,
)
from gradiometer.estimation.preconditioned_noise import VALID
from gradiometer.measurement.estimate import Estimate, about, counted, significant
from gradiometer.measurement.finding import Doubt, Finding
from gradiometer.measurement.optimizer.hyperparameters import list_values, number
from gradiometer.verdict.words.sentences import Sentences, Words, always, filled

# Factors of the best learning rate seen when B is doubled under AdamW: 2^p with p from −0.03 to
# 0.63.
RATES = (1.0, 1.5)

TIME_MATTERS = "if wall time matters more than examples."
EXAMPLES_MATTER = "if examples are expensive."


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
    means = (
        f"Now training needs {significant(now, 2)}x the fewest updates possible, and would need "
        f"{significant(doubled, 2)}x, for {examples} more examples."
    )
    if not math.isfinite(scale.high):
        sentences = _with_advice(finding, means)
        bound = sentences.seen.removeprefix("The ")
        return replace(sentences, seen=f"{lead}: the {bound}", lead=lead)
    sentences = _with_advice(finding, means)
    if not _is_for_sgd(finding):
        return replace(sentences, lead="The batch is small")
    times = significant(scale.value / batch, 2)
    size = _size(finding, batch)
    numbers = f"the {_name(finding)} is {_with_interval(scale)}, {times} times the batch of {size}"
    seen = f"{lead}: {numbers}."
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
    times = significant(batch / scale.value, 2)
    seen = f"{lead}: B = {_size(finding, batch)} is {times} times the {_name(finding)} {_with_interval(scale)}."
    return replace(sentences, seen=seen, lead=lead)


def near(finding: Finding) -> Sentences:
    """The batch is near the noise scale."""
    scale, batch = _numbers(finding)
    means = ""
    if "optimizers" not in finding.facts:
        updates = updates_factor(batch, scale.value)
        examples = examples_factor(batch, scale.value)
        means = (
            f"Here updates and examples trade about evenly: {updates:.1f}x the fewest updates "
            f"possible, and {examples:.1f}x the fewest examples."
        )
    return Sentences(_seen(finding), means or _under_adam(finding))


def undecided(finding: Finding) -> Sentences:
    """It cannot be told whether another batch would be better."""
    scale, _ = _numbers(finding)
    seen = _seen(finding)
    match finding.facts["place"]:
        case "few":
            lead, *_ = _carried_by_few(finding)
            means = (
                "Examples that were not seen yet may change it by any factor, so no other batch is "
                "advised."
            )
            return Sentences(seen, means, lead=lead)
        case "outdated":
            means = (
                f"Training is {age(scale):.1f} times as long since, so the scale may have changed: "
                "no batch is advised."
            )
            suggestion = (
                "a larger `budget` (`--budget` at the keyboard), or `steps=` in `watch` if training "
                "has at most 1,000 steps, to have later readings."
            )
            return Sentences(seen, means, suggestion=suggestion)
        case "moving":
            means = (
                f"It is expected to pass B before training is {AHEAD:.0f} times as long, so no "
                "other batch is advised."
            )
            return Sentences(seen, means)
    if scale.low > 0 and not math.isfinite(scale.high):
        means = (
            "The gradient is not distinguishable from zero in these readings, so it is too early "
            "to say whether another batch size would be better."
        )
        return Sentences(seen, means)
    return Sentences(seen, "It is too early to say whether another batch size would be better.")


def unforeseen(finding: Finding) -> Sentences:
    """No forecast is known for the optimizer, or the optimizer is not known."""
    means = "The forecast for another batch size depends on the optimizer, which was not recorded."
    names = finding.facts["optimizers"]
    if names:
        means = (
            f"The optimizer is {' and '.join(names)}. No forecast of a better batch size is known "
            "for it, so none is advised."
        )
    return Sentences(_seen(finding), means)


def place(finding: Finding) -> Mapping[str, str]:
    """Where B is, B itself, and the names of the optimizers."""
    _, batch = _numbers(finding)
    names = " and ".join(finding.facts.get("optimizers", ()))
    return {"seen": _seen(finding), "size": _size(finding, batch), "names": names}


def _numbers(finding: Finding) -> tuple[Estimate, float]:
    """The noise scale and B."""
    prefix = "" if finding.facts["kind"] == "gradient" else f"{finding.facts['kind']}_"
    return finding.numbers[f"{prefix}noise_scale"], finding.numbers[f"{prefix}batch_size"].value


def _is_for_sgd(finding: Finding) -> bool:
    """True if SGD's forecast of updates and examples holds."""
    return finding.facts["kind"] == "gradient" and "optimizers" not in finding.facts


def _name(finding: Finding) -> str:
    return f"{finding.facts['kind']} noise scale"


def _size(finding: Finding, batch: float) -> str:
    """A batch size with its unit."""
    return f"{batch:,.0f}{_unit(finding)}"


def _unit(finding: Finding) -> str:
    unit = finding.facts.get("unit", "")
    return f" {unit}" if unit else ""


def _seen(finding: Finding) -> str:
    """Where B is, compared with the noise scale."""
    scale, batch = _numbers(finding)
    name, size = _name(finding), _size(finding, batch)
    is_bounded = math.isfinite(scale.high)
    match finding.facts.get("place", "near"):
        case "few":
            seen = "".join(_carried_by_few(finding))
        case "outdated":
            at_least = f"at least {significant(scale.low)} {_when(scale)}"
            was = _with_interval(scale) if is_bounded else at_least
            seen = f"The {name} was {was}, and B is {size}."
        case "moving":
            side, verb = ("below", "rising") if scale.value < batch else ("above", "falling")
            seen = f"The {name} is {_with_interval(scale)}, {side} B = {size}, and {verb}."
        case "below" if is_bounded:
            times = significant(scale.value / batch, 2)
            value = _with_interval(scale)
            seen = f"The batch is small: the {name} is {value}, {times} times B = {size}."
        case "below":
            seen = _one_sided(finding, f", above B = {size}")
        case "above" if scale.value > 0:
            times = significant(batch / scale.value, 2)
            value = _with_interval(scale)
            seen = f"The batch is large: B = {size} is {times} times the {name} {value}."
        case "above":
            below = f"below {significant(scale.high)}" if scale.high > 0 else "0: no noise was seen"
            seen = f"The {name} is {below}, and B = {size} is above it."
        case "near":
            seen = f"B = {size} is near the {name} {_with_interval(scale)}."
        case _ if not scale.low > 0:
            seen = f"The {name} is not known yet; {_needs(finding, 'an interval')}."
        case _ if not is_bounded:
            seen = _one_sided(finding)
        case _:
            seen = f"The {name} {_with_interval(scale)} is too uncertain for B = {size}."
    return seen


def _carried_by_few(finding: Finding) -> tuple[str, str, str]:
    """That few examples carry the noise, in three parts: the claim, a separator, the numbers."""
    scale, _ = _numbers(finding)
    variation: Estimate = finding.facts["variation"]
    numbers = (
        f"The CV² of its readings is {significant(variation.value, 2)}, so "
        f"{significant(carrying(variation), 2)} of the {counted(scale.samples, 'measured step')} "
        "carry it."
    )
    return f"The {_name(finding)} cannot be bounded: few examples carry the noise", ". ", numbers


def _with_interval(scale: Estimate) -> str:
    value, low, high = map(significant, (scale.value, scale.low, scale.high))
    return f"{value} [{low}, {high}] {_when(scale)}"


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


def _one_sided(finding: Finding, above: str = "") -> str:
    scale, _ = _numbers(finding)
    needs = "there is no upper bound yet"
    if scale.needed is not None:
        needs = _needs(finding, "an upper bound")
    return f"The {_name(finding)} is at least {significant(scale.low)}{above}; {needs}."


def _needs(finding: Finding, what: str) -> str:
    scale, batch = _numbers(finding)
    if scale.needed is None:
        return f"it is too early to say how many steps {what} needs"
    return f"{what} needs {about(scale.needed)} more steps at B = {_size(finding, batch)}"


def _with_advice(finding: Finding, means: str) -> Sentences:
    """Another batch, with its rate as far as one is known."""
    facts = finding.facts
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
        return Sentences(_seen(finding), means, paste, f"{then}, {why}", forecast)
    if "bracket" in facts:
        paste, then = _bracket(finding)
        return Sentences(_seen(finding), means, paste, f"{then}, {why} Try both ends.")
    if facts["kind"] == "preconditioned":
        paste, then = _factors(finding)
        return Sentences(_seen(finding), means, paste, f"{then}, {why}" if paste else "")
    _, batch = _numbers(finding)
    size = 2 * batch if is_small else max(batch // 2, 1)
    return Sentences(_seen(finding), means, (f"B = {size:.0f}",), f"{_unit(finding)} {why}")


def _terms(finding: Finding) -> tuple[tuple[str, ...], str]:
    """Batch size, learning rate and schedule as the user writes them."""
    facts = finding.facts
    size, factor, schedule = facts["size"], facts["rate_factor"], facts["schedule"]
    peaks: tuple[float, ...] = facts["peaks"]
    times = significant(factor)
    if schedule in SHAPES:
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
    "batch_near": near,
    "batch_undecided": undecided,
    "batch_of_all": Words(
        "{seen}",
        "There are {examples:training example}, so twice the batch is not possible.",
        slots=place,
    ),
    "batch_full": Words(
        "Every update has the same batch, B = {size}.",
        "Only random numbers in the model, such as Dropout, make these gradients noisy, so nothing "
        "can be said about other batches.",
        slots=place,
    ),
    "batch_outranked": Words(
        "{seen}",
        "The optimizer is {names}, for which SGD's forecast does not hold: the preconditioned noise "
        "scale is the better predictor, so no batch is advised from this one.",
        slots=place,
    ),
    "batch_unforeseen": unforeseen,
    "batch_in_cool_down": Words(
        "{seen}",
        "The learning rate falls and is {cooled:2} of its peak. In such a cool-down the scale grows "
        "although the batch is not too small, so no batch is advised.",
        slots=place,
    ),
    "batch_not_large": Words(
        "{seen}",
        "B is not too large. It is not known if it is too small: the scale has no upper bound yet.",
        slots=place,
    ),
    "batch_within_validity": Words(
        "{seen}",
        f"The scale predicts the batch size only within a factor of {VALID:.0f}, so B may be right.",
        slots=place,
    ),
}

DOUBTS: Mapping[str, Callable[[Doubt], str]] = {
    "one_step_model": always(
        "The factors come from a model (one step of SGD at its best learning rate), and the noise "
        "scale usually grows as the loss falls."
    ),
    "uneven_noise": filled(
        "The readings of the noise are uneven (their CV² is {variation:2}), as if few examples "
        "carried most of it. Two such examples in one batch are rare and may not have been seen: "
        "the interval is wider for that."
    ),
    "tuned_rates": filled(
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
