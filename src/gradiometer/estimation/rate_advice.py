"""The learning rate that belongs to an advised batch size, in the terms of the user's loop and for its optimizer."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from gradiometer.estimation.batch_table import relative_updates
from gradiometer.estimation.noise import GradientNoise
from gradiometer.measurement.estimate import Estimate, Estimates, counted, significant
from gradiometer.measurement.finding import Finding, State
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.optimizer.groups import UNKNOWN_OPTIMIZER
from gradiometer.measurement.optimizer.hyperparameters import Hyperparameters, listed
from gradiometer.measurement.optimizer.shape import number
from gradiometer.measurement.uncertainty.arithmetic import transformed

POWERS = {"sgd": (0.5, 0.9), "adaptive": (-0.03, 0.63)}
"""Range of the power p of the best learning rate ∝ B^p below the critical batch size, by family of optimizers.

Measured with SGD with momentum and with AdamW, on a character transformer and a small convolutional network, with
tuned rates. The range is of these trials, not a confidence interval.
"""

PRECONDITIONED = "preconditioned_noise"
"""Name of the gauge of the noise scale under an adaptive optimizer."""

NEAR = 1.25
"""A forecast of examples has held if at most this factor more were needed, or what its interval allows."""

AT_THE_SCALE = 1.5
"""Examples that twice the batch costs at the noise scale, by the model: below the scale it costs less."""

SHAPES = ("constant", "cosine", "linear", "trapezoid", "cycles")
"""Schedules of `gradiometer train` whose rate is given by `--lr`."""


@dataclass(frozen=True)
class RateBracket:
    """The learning rates to try at one batch size.

    Args:
        batch_size: B.
        low, high: The smallest and the largest η.
    """

    batch_size: int
    low: float
    high: float


def rate_brackets(family: str, rate: float, present: int, sizes: Sequence[int]) -> tuple[RateBracket, ...]:
    """Learning rates to try at other batch sizes, from η at the present one, for optimizers with known `POWERS`.

    >>> rate_brackets("adaptive", 1e-3, present=32, sizes=(32, 64))[1]
    RateBracket(batch_size=64, low=0.00097..., high=0.00154...)
    """
    found = []
    for size in sizes:
        ends = sorted(rate * (size / present) ** power for power in POWERS[family])
        found.append(RateBracket(size, *ends))
    return tuple(found)


def is_outranked(gauge: str, measured: Collection[str]) -> bool:
    """True for the noise scale where the preconditioned one is measured too, which then answers for the batch."""
    return gauge == GradientNoise.name and PRECONDITIONED in measured


def completed(
    finding: Finding,
    gauge: Gauge,
    estimates: Estimates,
    settings: Hyperparameters | None,
    schedule: str | None = None,
    measured: Collection[str] = (),
    examples: int | None = None,
) -> Finding:
    """A finding with what the optimizer and its learning rate add to it.

    Advice on the batch size gets its learning rate and schedule. For another optimizer than SGD, the forecast of SGD is
    replaced by what is known of that optimizer.

    Args:
        finding: The finding of the gauge.
        gauge: The gauge.
        estimates: Its estimates.
        settings: The settings of the optimizers; None if they are not known.
        schedule: The schedule of a run of `gradiometer train`; None for a loop that is watched.
        measured: Names of the gauges that have readings.
        examples: Number of training examples; None if it is not known. No batch above it is advised.
    """
    if finding.state is not State.CANNOT_TELL and not _is_possible(finding, gauge, estimates, examples):
        means = f"There are {counted(examples or 0, 'training example')}, so twice the batch is not possible."
        return replace(finding, state=State.OK, means=means, advice="", caveat="")
    return finding if settings is None else _for_the_optimizer(finding, gauge, estimates, settings, schedule, measured)


def _for_the_optimizer(
    finding: Finding,
    gauge: Gauge,
    estimates: Estimates,
    settings: Hyperparameters,
    schedule: str | None,
    measured: Collection[str],
) -> Finding:
    if {"noise_scale", "batch_size"} <= set(finding.estimates) and finding.state is not State.CANNOT_TELL:
        if settings.family == "adaptive" and PRECONDITIONED in measured:
            return _without_a_verdict(finding, settings)
        return _of_the_batch(finding, estimates, settings, schedule)
    if gauge.name == PRECONDITIONED and finding.advice and finding.state is not State.CANNOT_TELL:
        batch, scale = estimates["preconditioned_batch_size"].value, estimates["preconditioned_noise_scale"]
        examples = round(batch / (getattr(gauge, "tokens", None) or 1))
        return _with_a_bracket(finding, settings, examples, larger=scale.low > batch)
    if gauge.sgd_only and len(set(settings.peaks)) > 1:
        words = f"The groups have different learning rates ({listed(settings.peaks)}): η is the largest of them."
        return replace(finding, caveat=f"{finding.caveat} {words}".strip())
    return finding


def _is_possible(finding: Finding, gauge: Gauge, estimates: Estimates, examples: int | None) -> bool:
    """False if the finding advises twice the batch and there are fewer training examples."""
    prefix = "preconditioned_" if gauge.name == PRECONDITIONED else ""
    batch, scale = (estimates.get(f"{prefix}{name}") for name in ("batch_size", "noise_scale"))
    if examples is None or batch is None or scale is None or not (finding.advice and scale.low > batch.value):
        return True
    return 2 * batch.value / (getattr(gauge, "tokens", None) or 1) <= examples


def _of_the_batch(finding: Finding, estimates: Estimates, settings: Hyperparameters, schedule: str | None) -> Finding:
    if settings.family == "other":
        return _without_predictor(finding, settings)
    batch, scale = estimates["batch_size"].value, estimates["noise_scale"]
    larger = scale.low > batch
    size = round(2 * batch) if larger else max(int(batch // 2), 1)
    if settings.family == "adaptive":
        return _adaptive(finding, settings, round(batch), larger=larger)
    if not finding.advice:
        return finding
    updates = relative_updates([scale], round(batch), size)
    examples = transformed(updates, lambda factor: factor * size / batch)
    why = "if wall time matters more than examples" if larger else "if examples are expensive"
    forecast = f"Forecast: {updates} times the updates and {examples} times the examples to the same loss."
    advice = f"{_terms(size, updates, settings, schedule)}, {why}."
    caveat = f"{finding.caveat} {_tuned(settings, size, batch)}".strip()
    tries = [_tries(size / batch, 1 / updates.value)]
    if larger:
        tries.append(_yardstick(min(max(NEAR * examples.value, examples.high), size / batch)))
    return replace(finding, advice=advice, caveat=caveat, forecast=forecast, alternatives=tuple(tries))


def _terms(size: int, updates: Estimate, settings: Hyperparameters, schedule: str | None) -> str:
    """Batch size, learning rate and schedule as the user writes them."""
    factor = 1 / updates.value
    times, peak = significant(factor), max(settings.peaks)
    if schedule in SHAPES:
        return f"`--batch-size {size} --lr {number(factor * peak)}`"
    if schedule is not None:
        return f"`--batch-size {size} --schedule '{times} * ({schedule})'`"
    different = len(set(settings.peaks)) > 1
    scaled = listed([factor * each for each in settings.peaks])
    if settings.is_constant and not different:
        return f"`batch_size = {size}` with `lr = {scaled}`"
    if settings.is_constant:
        return f"`batch_size = {size}` with all learning rates times {times} ({scaled})"
    return (
        f"`batch_size = {size}` with the whole schedule of the learning rate times {times} "
        f"(peak {scaled} instead of {listed(settings.peaks)}), over {significant(updates.value)} times as many updates"
    )


def _tuned(settings: Hyperparameters, size: int, batch: float) -> str:
    """The range of rates that tuning has found; empty for a smaller batch, for which there were no trials."""
    if size <= batch:
        return ""
    bracket = rate_brackets("sgd", max(settings.peaks), round(batch), [size])[0]
    return (
        f"In trials with SGD the best learning rate grew as B^0.5 to B^0.9, which is {number(bracket.low)} to "
        f"{number(bracket.high)} here."
    )


def _adaptive(finding: Finding, settings: Hyperparameters, batch: int, *, larger: bool) -> Finding:
    """The reading, without SGD's forecast, and a bracket of rates."""
    name = " and ".join(settings.names)
    trials = "with it" if name == "AdamW" else f"with AdamW, to which {name} is related,"
    means = (
        f"The optimizer is {name}, for which SGD's forecast of updates and examples does not hold. In trials {trials} "
        "this noise scale was within a factor of 3 of the batch size above which a larger batch saves few updates."
    )
    advised = _with_a_bracket(finding, settings, batch, larger=larger) if finding.advice else finding
    caveat = (
        "No single learning rate follows from the noise scale: in the trials the best one grew as B^p with p from "
        "−0.03 to 0.63."
    )
    return replace(advised, means=means, caveat=caveat)


def _tries(batch: float, rate: float) -> str:
    """The alternative of a fork that tries another batch with its rate."""
    return f"batch {batch:.4g}x, rate {rate:.3g}x"


def _yardstick(examples: float) -> str:
    """The alternative that twice the batch is compared with: going on, on so many times fewer examples."""
    return f"shorter {1 / examples:.3g}x"


def _with_a_bracket(finding: Finding, settings: Hyperparameters, batch: int, *, larger: bool) -> Finding:
    """The finding with twice or half the batch and the range of learning rates that may belong to it."""
    size = 2 * batch if larger else max(batch // 2, 1)
    bracket = rate_brackets("adaptive", max(settings.peaks), batch, [size])[0]
    low, high = number(bracket.low), number(bracket.high)
    of_what = "" if settings.is_constant else f" as the peak of the schedule, instead of {number(max(settings.peaks))}"
    if len(set(settings.peaks)) > 1:
        of_what += " for the group with the largest one, and in proportion for the others"
    why = "if wall time matters more than examples" if larger else "if examples are expensive"
    tries = [_tries(size / batch, end / max(settings.peaks)) for end in (bracket.low, bracket.high)]
    if larger:
        tries.append(_yardstick(AT_THE_SCALE))
    return replace(
        finding,
        advice=f"`batch_size = {size}` with a learning rate between {low} and {high}{of_what}, {why}. Try both ends.",
        alternatives=tuple(tries),
    )


def _without_a_verdict(finding: Finding, settings: Hyperparameters) -> Finding:
    """The plain noise scale of a run that has the preconditioned one."""
    means = (
        f"The optimizer is {' and '.join(settings.names)}, for which SGD's forecast does not hold: the preconditioned "
        "noise scale is the better predictor, so no batch is advised from this one."
    )
    return replace(finding, state=State.OK, means=means, advice="", caveat="")


def _without_predictor(finding: Finding, settings: Hyperparameters) -> Finding:
    names = " and ".join(settings.names)
    if settings.names == (UNKNOWN_OPTIMIZER,):
        means = "The forecast for another batch size depends on the optimizer, which was not recorded."
        return replace(finding, state=State.CANNOT_TELL, means=means, advice="", caveat="")
    means = f"The optimizer is {names}. No forecast of a better batch size is known for it, so none is advised."
    return replace(finding, state=State.CANNOT_TELL, means=means, advice="", caveat="")
