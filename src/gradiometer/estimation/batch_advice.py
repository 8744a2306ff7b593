"""Advice on the batch size, from a model of what a larger or a smaller batch saves."""

import math
from dataclasses import dataclass

from gradiometer.measurement.estimate import Estimate, about, counted, significant
from gradiometer.measurement.finding import Finding, Issue, State

NEAR = 4.0
"""Within this factor of the noise scale a batch trades updates for examples about evenly."""

NEARLY_HALVES = 1.8

AHEAD = 2.0
"""Advice on the batch looks ahead to this many times the steps made so far."""

RECENT = 1.25
"""A value is that of now until training is this many times as long as at its step. An older one advises no batch."""

UNEVEN = 1.0
"""CV² of the readings of the noise above which few examples are said to carry it."""

FEWEST_CARRYING = 5.0
"""Effective number of readings below which nothing is said about the noise scale."""

CAVEAT = (
    "The factors come from a model (one step of SGD at its best learning rate), and the noise scale usually grows as "
    "the loss falls."
)

ZERO = "The gradient is not distinguishable from zero in these readings,"

Parts = tuple[State, str, str, str]
"""State, seen, means and advice of a finding."""


@dataclass(frozen=True)
class _Words:
    """The name of the noise scale, and the unit behind a batch size, with a space before it."""

    scale: str
    unit: str

    def size(self, batch: float) -> str:
        return f"{batch:,.0f}{self.unit}"


def updates_factor(batch_size: float, noise_scale: float) -> float:
    """Updates to a given loss, relative to the fewest any batch needs: 1 + B_noise/B.

    Source: McCandlish et al. (2018), eq. 2.7 and 5.

    Example:
        >>> updates_factor(batch_size=32.0, noise_scale=480.0)
        16.0
    """
    return 1 + noise_scale / batch_size


def examples_factor(batch_size: float, noise_scale: float) -> float:
    """Examples to a given loss, relative to the fewest any batch needs: 1 + B/B_noise.

    Source: McCandlish et al. (2018), eq. 2.8 and 5.

    Example:
        >>> examples_factor(batch_size=32.0, noise_scale=128.0)
        1.25
    """
    return 1 + batch_size / noise_scale


def interpret_batch_size(
    gauge: str,
    batch_size: Estimate,
    noise_scale: Estimate,
    *,
    kind: str = "gradient",
    unit: str = "",
    variation: Estimate | None = None,
) -> Finding:
    """Compare the batch size with the noise scale: below, near, above, or not known yet.

    Args:
        gauge: Name of the gauge.
        batch_size: B.
        noise_scale: The noise scale, in the same unit.
        kind: The noise scale that it is: "gradient" or "preconditioned".
        unit: Unit of both if that is not examples, such as "tokens".
        variation: CV² of the readings of the noise. If it is large, few examples carry the noise. Then the finding says
            so, and advises nothing if too few readings carry it.

    Example:
        >>> from gradiometer import Estimate
        >>> scale = Estimate.interval(450.0, 364.0, 589.0, level=0.9, method="Fieller", samples=200)
        >>> finding = interpret_batch_size("noise", Estimate.exact(32.0), scale)
        >>> print(finding.seen)
        B = 32 is 14x below the gradient noise scale 450 [364, 589] (200 measured steps).
        >>> print(finding.advice)
        `B = 64` if wall time matters more than examples.
    """
    batch, words = batch_size.value, _Words(f"{kind} noise scale", f" {unit}" if unit else "")
    uneven = variation if variation is not None and noise_scale.low > 0 and variation.value > UNEVEN else None
    if uneven is not None and _carrying(uneven) < FEWEST_CARRYING:
        state, seen, means, advice = _carried_by_few(noise_scale, uneven, words)
    elif _age(noise_scale) > RECENT and (noise_scale.low > 0 or noise_scale.high < math.inf):
        state, seen, means, advice = _outdated(batch, noise_scale, words)
    elif _passes(batch, noise_scale):
        state, seen, means, advice = _moving(batch, noise_scale, words)
    elif noise_scale.low > batch:
        state, seen, means, advice = _below(batch, noise_scale, words)
    elif noise_scale.high < batch:
        state, seen, means, advice = _above(batch, noise_scale, words)
    elif noise_scale.low >= batch / NEAR and noise_scale.high <= batch * NEAR:
        state, seen, means, advice = _near(batch, noise_scale, words)
    else:
        state, seen, means, advice = _unknown(batch, noise_scale, words)
    caveat = "" if state is State.CANNOT_TELL else CAVEAT
    if uneven is not None and state is not State.CANNOT_TELL:
        caveat = f"{_uneven(uneven)} {caveat}"
    return Finding(gauge, Issue.ESTIMATION, state, seen, means, advice, caveat, ("noise_scale", "batch_size"))


def _carrying(variation: Estimate) -> float:
    """The effective number of readings that carry the noise, (Σx)²/Σx²."""
    return variation.samples / (1 + variation.value)


def _uneven(variation: Estimate) -> str:
    return (
        f"The readings of the noise are uneven (their CV² is {significant(variation.value, 2)}), as if few examples "
        "carried most of it. Two such examples in one batch are rare and may not have been seen: the interval is wider "
        "for that."
    )


def _carried_by_few(noise_scale: Estimate, variation: Estimate, words: _Words) -> Parts:
    some = significant(_carrying(variation), 2)
    seen = (
        f"The {words.scale} cannot be bounded: few examples carry the noise. The CV² of its readings is "
        f"{significant(variation.value, 2)}, so {some} of the {counted(noise_scale.samples, 'measured step')} carry it."
    )
    means = "Examples that were not seen yet may change it by any factor, so no other batch is advised."
    return State.CANNOT_TELL, seen, means, ""


def _passes(batch: float, noise_scale: Estimate) -> bool:
    """True if the noise scale passes B before training is `AHEAD` times as long, if it drifts as it did so far."""
    if noise_scale.earlier is None or not noise_scale.step or not noise_scale.value > 0:
        return False
    step, value = noise_scale.earlier
    if not (0 < value < math.inf and noise_scale.value < math.inf):
        return False
    ahead = math.log(AHEAD * _age(noise_scale))
    growth: float = (noise_scale.value / value) ** (ahead / math.log((noise_scale.step + 1) / (step + 1)))
    return (noise_scale.value < batch) != (growth * noise_scale.value < batch)


def _age(noise_scale: Estimate) -> float:
    """How many times as long training is as it was at the step of the value, at least 1."""
    if noise_scale.step is None or noise_scale.reached is None:
        return 1.0
    return (noise_scale.reached + 1) / (noise_scale.step + 1)


def _outdated(batch: float, noise_scale: Estimate, words: _Words) -> Parts:
    value = _with_interval(noise_scale)
    if not math.isfinite(noise_scale.high):
        value = f"at least {significant(noise_scale.low)} {_when(noise_scale)}"
    seen = f"The {words.scale} was {value}, and B is {words.size(batch)}."
    means = (
        f"Training is {_age(noise_scale):.1f} times as long since, so the scale may have changed: no batch is advised."
    )
    advice = "a larger `budget`, or `steps=` in `watch` if training has at most 1,000 steps, to have later readings."
    return State.CANNOT_TELL, seen, means, advice


def _moving(batch: float, noise_scale: Estimate, words: _Words) -> Parts:
    side, verb = ("below", "rising") if noise_scale.value < batch else ("above", "falling")
    seen = f"The {words.scale} is {_with_interval(noise_scale)}, {side} B = {words.size(batch)}, and {verb}."
    means = f"It is expected to pass B before training is {AHEAD:.0f} times as long, so no other batch is advised."
    return State.CANNOT_TELL, seen, means, ""


def _below(batch: float, noise_scale: Estimate, words: _Words) -> Parts:
    times = significant(noise_scale.value / batch, 2)
    seen = f"B = {words.size(batch)} is {times}x below the {words.scale} {_with_interval(noise_scale)}."
    if not math.isfinite(noise_scale.high):
        seen = _unbounded(batch, noise_scale, words, f", above B = {words.size(batch)}")
    reference = noise_scale.value if math.isfinite(noise_scale.value) else noise_scale.low
    now, doubled = (updates_factor(times * batch, reference) for times in (1, 2))
    more = examples_factor(2 * batch, reference) / examples_factor(batch, reference) - 1
    updates = "nearly halves the number of updates"
    if now / doubled < NEARLY_HALVES:
        updates = f"divides the number of updates by {now / doubled:.1f}"
    means = (
        f"In this range doubling B {updates} ({now:.1f}x → {doubled:.1f}x of the minimum) and "
        f"costs {more:.0%} more examples."
    )
    return State.LOOK, seen, means, f"`B = {2 * batch:.0f}`{words.unit} if wall time matters more than examples."


def _above(batch: float, noise_scale: Estimate, words: _Words) -> Parts:
    advice = f"`B = {max(batch // 2, 1):.0f}`{words.unit} if examples are expensive."
    if not noise_scale.value > 0:
        is_below = f"below {significant(noise_scale.high)}" if noise_scale.high > 0 else "0: no noise was seen"
        seen = f"The {words.scale} is {is_below}, and B = {words.size(batch)} is above it."
        means = "The examples in a batch already agree, so averaging more of them gains little."
        return State.LOOK, seen, means, advice
    times = significant(batch / noise_scale.value, 2)
    seen = f"B = {words.size(batch)} is {times}x above the {words.scale} {_with_interval(noise_scale)}."
    more = updates_factor(batch / 2, noise_scale.value) / updates_factor(batch, noise_scale.value) - 1
    saved = 1 - examples_factor(batch / 2, noise_scale.value) / examples_factor(batch, noise_scale.value)
    means = f"In this range halving B costs {more:.0%} more updates and saves {saved:.0%} of the examples."
    return State.LOOK, seen, means, advice


def _near(batch: float, noise_scale: Estimate, words: _Words) -> Parts:
    seen = f"B = {words.size(batch)} is near the {words.scale} {_with_interval(noise_scale)}."
    updates, examples = updates_factor(batch, noise_scale.value), examples_factor(batch, noise_scale.value)
    means = f"Here updates ({updates:.1f}x of the minimum) and examples ({examples:.1f}x) trade about evenly."
    return State.OK, seen, means, ""


def _unknown(batch: float, noise_scale: Estimate, words: _Words) -> Parts:
    if not noise_scale.low > 0:
        seen = f"The {words.scale} is not known yet; {_needs(batch, noise_scale, words, 'an interval')}."
    elif not math.isfinite(noise_scale.high):
        seen = _unbounded(batch, noise_scale, words)
        means = f"{ZERO} so it is too early to say whether another batch size would be better."
        return State.CANNOT_TELL, seen, means, ""
    else:
        seen = f"The {words.scale} {_with_interval(noise_scale)} is too uncertain for B = {words.size(batch)}."
    return State.CANNOT_TELL, seen, "It is too early to say whether another batch size would be better.", ""


def _with_interval(noise_scale: Estimate) -> str:
    value, low, high = map(significant, (noise_scale.value, noise_scale.low, noise_scale.high))
    return f"{value} [{low}, {high}] {_when(noise_scale)}"


def _when(noise_scale: Estimate) -> str:
    """What the value is of: a step of training, with an early value if it has changed, or a window."""
    if noise_scale.step is None:
        return f"({counted(noise_scale.samples, 'measured step')})"
    when = f"step {noise_scale.step:,}"
    if _age(noise_scale) > RECENT:
        when += f" of {noise_scale.reached:,}"
    if noise_scale.earlier is not None:
        step, value = noise_scale.earlier
        when += f"; it was {significant(value, 2)} at step {step:,}"
    return f"at the newest reading ({when})" if _age(noise_scale) > RECENT else f"now ({when})"


def _unbounded(batch: float, noise_scale: Estimate, words: _Words, above: str = "") -> str:
    needs = "there is no upper bound yet"
    if noise_scale.needed is not None:
        needs = _needs(batch, noise_scale, words, "an upper bound")
    return f"The {words.scale} is at least {significant(noise_scale.low)}{above}; {needs}."


def _needs(batch: float, noise_scale: Estimate, words: _Words, what: str) -> str:
    if noise_scale.needed is None:
        return f"it is too early to say how many steps {what} needs"
    return f"{what} needs {about(noise_scale.needed)} more steps at B = {words.size(batch)}"
