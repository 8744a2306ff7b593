"""Is the batch too small or too large? A model of what another batch saves, and the claim that
follows from it."""

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from gradiometer.estimation.batch_table import PRECONDITIONED, rate_brackets, relative_updates
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Doubt, Evidence, Finding, Issue, State
from gradiometer.measurement.gauge import NOTHING_KNOWN, RunFacts
from gradiometer.measurement.optimizer.groups import UNKNOWN_OPTIMIZER
from gradiometer.measurement.optimizer.hyperparameters import Hyperparameters
from gradiometer.measurement.uncertainty.arithmetic import transform

# Within this factor of the noise scale a batch trades updates for examples about evenly.
NEAR = 4.0

# Advice on the batch looks ahead to this many times the steps made so far.
AHEAD = 2.0

# A value is that of now until training is this many times as long as at its step. An older one
# advises no batch.
RECENT = 1.25

# The doubt of every claim that compares a batch with the noise scale.
MODEL = Doubt("one_step_model")


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


def is_outranked(gauge: str, measured: Collection[str]) -> bool:
    """True for the noise scale where the preconditioned one is measured too, which then answers for
    the batch."""
    return gauge == "noise" and PRECONDITIONED in measured


def judge_batch_size(
    gauge: str,
    batch_size: Estimate,
    noise_scale: Estimate,
    *,
    kind: str = "gradient",
    unit: str = "",
    variation: Estimate | None = None,
    run: RunFacts = NOTHING_KNOWN,
) -> Finding:
    """Compare the batch size with the noise scale: below, near, above, or not known yet.

    Args:
        gauge: Name of the gauge.
        batch_size: B.
        noise_scale: The noise scale, in the same unit.
        kind: The noise scale that it is: "gradient" or "preconditioned".
        unit: Unit of both if that is not examples, such as "tokens".
        variation: CV² of the readings of the noise. If it is large, few examples carry the noise.
            Then the finding says so, and advises nothing if too few readings carry it.
        run: What is known of the run: the optimizer that the advice is for, and the number of
            examples.

    Example:
        >>> from gradiometer import Estimate, say
        >>> scale = Estimate.interval(450.0, 364.0, 589.0, level=0.9, method="Fieller", samples=200)
        >>> finding = judge_batch_size("noise", Estimate.exact(32.0), scale)
        >>> finding.claim
        'batch_small'
        >>> print(say(finding).advice)
        `B = 64` if wall time matters more than examples.
    """
    place = place_of(batch_size, noise_scale, variation)
    prefix = "" if kind == "gradient" else f"{kind}_"
    numbers = {f"{prefix}noise_scale": noise_scale, f"{prefix}batch_size": batch_size}
    facts: dict[str, Any] = {"kind": kind, "unit": unit, "place": place}
    if place in ("few", "outdated", "moving", "unknown"):
        if place == "few":
            facts["variation"] = variation
        return Finding(
            gauge, Issue.ESTIMATION, "batch_undecided", State.CANNOT_TELL, numbers, facts
        )
    uneven = _uneven(noise_scale, variation)
    doubts = (
        (MODEL,) if uneven is None else (Doubt("uneven_noise", {"variation": uneven.value}), MODEL)
    )
    claim = {"below": "batch_small", "above": "batch_large"}.get(place, "batch_near")
    state = State.OK if claim == "batch_near" else State.LOOK
    found = Finding(gauge, Issue.ESTIMATION, claim, state, numbers, facts, doubts=doubts)
    return for_the_optimizer(found, run) if kind == "gradient" else found


def place_of(  # noqa: PLR0911 (a list of cases, the first of which holds)
    batch_size: Estimate, noise_scale: Estimate, variation: Estimate | None = None
) -> str:
    """Where B is: below, near or above the noise scale, or above it with one example, the least
    batch; or few, outdated, moving or unknown if that cannot be told."""
    batch = batch_size.value
    uneven = _uneven(noise_scale, variation)
    # 5.0: effective number of readings below which nothing is said about the noise scale.
    if uneven is not None and carrying(uneven) < 5.0:
        return "few"
    if age(noise_scale) > RECENT and (noise_scale.low > 0 or noise_scale.high < math.inf):
        return "outdated"
    if _passes(batch, noise_scale):
        return "moving"
    if noise_scale.low > batch:
        return "below"
    if noise_scale.high < batch:
        return "above" if batch > 1 else "least"
    if noise_scale.low >= batch / NEAR and noise_scale.high <= batch * NEAR:
        return "near"
    return "unknown"


def _uneven(noise_scale: Estimate, variation: Estimate | None) -> Estimate | None:
    """The variation if it is so large that few examples seem to carry the noise."""
    # 1.0: CV² of the readings of the noise above which few examples are said to carry it.
    if variation is None or not noise_scale.low > 0 or not variation.value > 1.0:
        return None
    return variation


def carrying(variation: Estimate) -> float:
    """The effective number of readings that carry the noise, (Σx)²/Σx²."""
    return variation.samples / (1 + variation.value)


def age(noise_scale: Estimate) -> float:
    """How many times as long training is as it was at the step of the value, at least 1."""
    if noise_scale.step is None or noise_scale.reached is None:
        return 1.0
    return (noise_scale.reached + 1) / (noise_scale.step + 1)


def _passes(batch: float, noise_scale: Estimate) -> bool:
    """True if the noise scale passes B before training is `AHEAD` times as long, if it drifts as it
    did so far."""
    if noise_scale.earlier is None or not noise_scale.step or not noise_scale.value > 0:
        return False
    step, value = noise_scale.earlier
    if not (0 < value < math.inf and noise_scale.value < math.inf):
        return False
    ahead = math.log(AHEAD * age(noise_scale))
    growth: float = (noise_scale.value / value) ** (
        ahead / math.log((noise_scale.step + 1) / (step + 1))
    )
    return (noise_scale.value < batch) != (growth * noise_scale.value < batch)


def for_the_optimizer(found: Finding, run: RunFacts) -> Finding:  # noqa: PLR0911 (a list of cases)
    """The claim for the optimizer of the run: what it advises, forecasts and doubts.

    The forecast is SGD's. Another batch comes with a range of rates for Adam's kind, and not at all
    for an optimizer for which nothing is known. No batch above the number of examples is advised.
    """
    scale, batch = found.numbers["noise_scale"], found.numbers["batch_size"].value
    if found.claim == "batch_small" and run.examples is not None and 2 * batch > run.examples:
        return impossible(found, run.examples)
    settings = run.settings
    if settings is None:
        return found
    if settings.family == "adaptive" and PRECONDITIONED in run.measured:
        return with_claim(found, "batch_outranked", State.OK, {"optimizers": settings.names})
    if settings.family == "other":
        known = settings.names != (UNKNOWN_OPTIMIZER,)
        return with_claim(
            found,
            "batch_unforeseen",
            State.CANNOT_TELL,
            {"optimizers": settings.names if known else ()},
        )
    if settings.family == "adaptive":
        adaptive = _with(
            found, facts={"optimizers": settings.names}, doubts=(Doubt("no_single_rate"),)
        )
        return (
            adaptive
            if found.claim == "batch_near"
            else with_a_bracket(adaptive, settings, round(batch))
        )
    if found.claim == "batch_near":
        return found
    return _with_a_forecast(found, scale, batch, settings, run.schedule)


def impossible(found: Finding, examples: int) -> Finding:
    """The claim that twice the batch would be more than all examples."""
    return with_claim(found, "batch_of_all", State.OK, {"examples": examples})


def full_batch(found: Finding) -> Finding:
    """The claim that all updates have the same examples, so that their noise says nothing about
    other batches."""
    return with_claim(found, "batch_full", State.OK, {})


def _with_a_forecast(
    found: Finding, scale: Estimate, batch: float, settings: Hyperparameters, schedule: str | None
) -> Finding:
    """Twice or half the batch with its rate, by the model of SGD."""
    larger = found.claim == "batch_small"
    size = round(2 * batch) if larger else max(int(batch // 2), 1)
    updates = relative_updates([scale], round(batch), size)
    examples = transform(updates, lambda factor: factor * size / batch)
    cure = [change_of(size / batch, 1 / updates.value)]
    doubts = found.doubts
    if larger:
        # 1.25: A forecast of examples has held if at most this factor more were needed, or what its
        # interval allows.
        cure.append(yardstick(min(max(1.25 * examples.value, examples.high), size / batch)))
        bracket = rate_brackets("sgd", max(settings.peaks), round(batch), [size])[0]
        doubts = (*doubts, Doubt("tuned_rates", {"low": bracket.low, "high": bracket.high}))
    return _with(
        found,
        facts={
            "size": size,
            "rate_factor": 1 / updates.value,
            "peaks": tuple(settings.peaks),
            "constant": settings.is_constant,
            "schedule": schedule,
        },
        cure=tuple(cure),
        forecast={"updates": updates, "examples": examples},
        evidence=Evidence.FORECAST,
        doubts=doubts,
    )


def with_a_bracket(found: Finding, settings: Hyperparameters, batch: int) -> Finding:
    """The claim with twice or half the batch and the range of learning rates that may belong to it.

    Args:
        found: That the batch is too small or too large.
        settings: The settings of the optimizers.
        batch: B, in examples.
    """
    larger = found.claim == "batch_small"
    size = 2 * batch if larger else max(batch // 2, 1)
    peak = max(settings.peaks)
    bracket = rate_brackets("adaptive", peak, batch, [size])[0]
    cure = [change_of(size / batch, end / peak) for end in (bracket.low, bracket.high)]
    if larger:
        # 1.5: examples that twice the batch costs at the noise scale, by the model: below the scale
        # it costs less.
        cure.append(yardstick(1.5))
    return _with(
        found,
        facts={
            "size": size,
            "bracket": (bracket.low, bracket.high),
            "peaks": tuple(settings.peaks),
            "constant": settings.is_constant,
        },
        cure=tuple(cure),
    )


def change_of(batch: float, rate: float) -> str:
    """The change that tries another batch with its rate."""
    return f"batch {batch:.4g}x, rate {rate:.3g}x"


def yardstick(examples: float) -> str:
    """The change that twice the batch is compared with: going on, on so many times
    fewer examples."""
    return f"shorter {1 / examples:.3g}x"


def with_claim(found: Finding, claim: str, state: State, facts: dict[str, Any]) -> Finding:
    """Another claim from the same numbers, without a cure and doubts."""
    return Finding(found.gauge, found.issue, claim, state, found.numbers, {**found.facts, **facts})


def _with(found: Finding, *, facts: dict[str, Any], **changes: Any) -> Finding:
    return replace(found, facts={**found.facts, **facts}, **changes)
