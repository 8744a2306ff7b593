"""What the noise scale says about the batch size: a model of what a batch buys, and the sentence."""

import math

from gradiometer.measurement.estimate import Estimate, counted, significant
from gradiometer.measurement.finding import Finding, Issue, State

NEAR = 4.0
"""Within this factor of the noise scale a batch trades updates for examples about evenly."""

NEARLY_HALVES = 1.8

CAVEAT = (
    "The factors are a model (one step of SGD at its best learning rate), and the noise scale usually grows as "
    "the loss falls."
)


def updates_factor(batch_size: float, noise_scale: float) -> float:
    """Updates to a given loss, relative to the fewest any batch needs: 1 + B_noise/B.

    Source: McCandlish et al. (2018), eq. 2.7 and 5.
    """
    return 1 + noise_scale / batch_size


def examples_factor(batch_size: float, noise_scale: float) -> float:
    """Examples to a given loss, relative to the fewest any batch needs: 1 + B/B_noise.

    Source: McCandlish et al. (2018), eq. 2.8 and 5.
    """
    return 1 + batch_size / noise_scale


def interpret_batch_size(gauge: str, batch_size: Estimate, noise_scale: Estimate) -> Finding:
    """The batch against the noise scale: below, above, near, or cannot tell yet."""
    batch = batch_size.value
    if noise_scale.low > batch:
        state, seen, means, advice = _below(batch, noise_scale)
    elif noise_scale.high < batch:
        state, seen, means, advice = _above(batch, noise_scale)
    elif noise_scale.low >= batch / NEAR and noise_scale.high <= batch * NEAR:
        state, seen, means, advice = _near(batch, noise_scale)
    else:
        state, seen, means, advice = _cannot_tell(batch, noise_scale)
    return Finding(
        gauge=gauge,
        issue=Issue.ESTIMATION,
        state=state,
        seen=seen,
        means=means,
        advice=advice,
        caveat="" if state is State.CANNOT_TELL else CAVEAT,
        estimates=("noise_scale", "batch_size"),
    )


Parts = tuple[State, str, str, str]


def _below(batch: float, noise_scale: Estimate) -> Parts:
    if not math.isfinite(noise_scale.high):
        seen = (
            f"The gradient signal is not distinguishable from zero yet: the noise scale is at least "
            f"{significant(noise_scale.low)}, above B = {batch:,.0f}; {_needs(batch, noise_scale, 'an upper end')}."
        )
    else:
        seen = (
            f"B = {batch:,.0f} is {significant(noise_scale.value / batch, 2)}x below the gradient noise scale "
            f"{_with_interval(noise_scale)}."
        )
    reference = noise_scale.value if math.isfinite(noise_scale.value) else noise_scale.low
    now, doubled = (updates_factor(times * batch, reference) for times in (1, 2))
    dearer = examples_factor(2 * batch, reference) / examples_factor(batch, reference) - 1
    updates = "nearly halves the number of updates"
    if now / doubled < NEARLY_HALVES:
        updates = f"divides the number of updates by {now / doubled:.1f}"
    means = (
        f"In this range doubling B {updates} ({now:.1f}x → {doubled:.1f}x of the minimum) and "
        f"costs {dearer:.0%} more examples."
    )
    return State.LOOK, seen, means, f"`B = {2 * batch:.0f}` where wall time matters more than examples."


def _above(batch: float, noise_scale: Estimate) -> Parts:
    if not noise_scale.value > 0:
        is_below = f"below {significant(noise_scale.high)}" if noise_scale.high > 0 else "0: no noise was seen"
        seen = f"The gradient noise scale is {is_below}, and B = {batch:,.0f} is above it."
        return State.LOOK, seen, "Examples are averaged that agree already.", _halve(batch)
    seen = (
        f"B = {batch:,.0f} is {significant(batch / noise_scale.value, 2)}x above the gradient noise scale "
        f"{_with_interval(noise_scale)}."
    )
    more = updates_factor(batch / 2, noise_scale.value) / updates_factor(batch, noise_scale.value) - 1
    saved = 1 - examples_factor(batch / 2, noise_scale.value) / examples_factor(batch, noise_scale.value)
    means = f"In this range halving B costs {more:.0%} more updates and saves {saved:.0%} of the examples."
    return State.LOOK, seen, means, _halve(batch)


def _near(batch: float, noise_scale: Estimate) -> Parts:
    seen = f"B = {batch:,.0f} is near the gradient noise scale {_with_interval(noise_scale)}."
    updates = updates_factor(batch, noise_scale.value)
    means = (
        f"Updates ({updates:.1f}x of the minimum) and examples "
        f"({examples_factor(batch, noise_scale.value):.1f}x) are traded about evenly here."
    )
    return State.OK, seen, means, ""


def _cannot_tell(batch: float, noise_scale: Estimate) -> Parts:
    if not noise_scale.low > 0:
        seen = f"The gradient noise scale is not known yet; {_needs(batch, noise_scale, 'an interval')}."
    elif not math.isfinite(noise_scale.high):
        seen = (
            f"The gradient signal is not distinguishable from zero yet: the noise scale is at least "
            f"{significant(noise_scale.low)}; {_needs(batch, noise_scale, 'an upper end')}."
        )
    else:
        seen = f"The gradient noise scale {_with_interval(noise_scale)} is too loose to compare with B = {batch:,.0f}."
    return State.CANNOT_TELL, seen, "Whether another batch would pay cannot be told yet.", ""


def _with_interval(noise_scale: Estimate) -> str:
    return (
        f"{significant(noise_scale.value)} [{significant(noise_scale.low)}, {significant(noise_scale.high)}] "
        f"({counted(noise_scale.samples, 'measured step')})"
    )


def _needs(batch: float, noise_scale: Estimate, what: str) -> str:
    if noise_scale.needed is None:
        return f"how many more steps {what} needs cannot be told either"
    return f"{what} needs about {_round_number(noise_scale.needed):,} more steps at B = {batch:,.0f}"


def _round_number(steps: int) -> int:
    """Two significant digits: more would claim to know."""
    if steps < 10:
        return steps
    digits: int = len(str(steps)) - 2
    return round(steps, -digits)


def _halve(batch: float) -> str:
    return f"`B = {max(batch // 2, 1):.0f}` where examples are dear."
