"""Compare other batch sizes with the present one: the noise scale from readings, step times from
this machine."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from gradiometer.arguments import check_level
from gradiometer.errors import BadArgument
from gradiometer.estimation.batch_advice import judge_batch_size
from gradiometer.estimation.batch_table import (
    PRECONDITIONED,
    BatchTable,
    RateBracket,
    StepTimes,
    batch_sizes,
    rate_brackets,
    step_times,
)
from gradiometer.estimation.noise import GradientNoise
from gradiometer.estimation.preconditioned_noise import PreconditionedNoise
from gradiometer.gauges import recorded_gauges
from gradiometer.measurement.estimate import Estimate, Estimates
from gradiometer.measurement.finding import Finding
from gradiometer.measurement.gauge import RunFacts
from gradiometer.measurement.optimizer.hyperparameters import Hyperparameters
from gradiometer.measurement.reading import Series
from gradiometer.run.configuration import Configuration, WatchedConfiguration
from gradiometer.run.planned import hyperparameters_of
from gradiometer.run.reader import Run
from gradiometer.run.trust import check_trust
from gradiometer.train.training import Training, advance, start_training
from gradiometer.verdict.words.say import as_dict, say

CAVEAT = (
    "The factors come from a model of SGD that assumes the best learning rate at the present "
    "batch: use them for a first try. The noise scale usually grows as the loss falls."
)


@dataclass(frozen=True)
class BatchComparison:
    """Other batch sizes relative to the present one.

    Args:
        subject: A name for the run or the problem.
        present: The present batch size.
        settings: The settings of the optimizer.
        noise_scales: The noise scale in windows of equal length, oldest first.
        finding: The present batch size against the latest noise scale.
        table: Updates, examples and time to the same loss, for SGD. Its learning rates are peaks of
            the schedule.
        brackets: Peak learning rates to try, for an adaptive optimizer; empty for another.
        times: Times of a step; None if they were not measured.
    """

    subject: str
    present: int
    settings: Hyperparameters
    noise_scales: Sequence[Estimate]
    finding: Finding
    table: BatchTable | None
    brackets: Sequence[RateBracket]
    times: StepTimes | None

    @property
    def learning_rate(self) -> float:
        """The largest η of the schedule so far; of the largest group, if the groups differ."""
        return max(self.settings.peaks)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as `gradiometer measure batch --json` prints it."""
        seconds = self.times.seconds if self.times else {}
        table = (
            {"rows": [], "fastest": [], "cheapest": []}
            if self.table is None
            else self.table.to_dict()
        )
        return {
            "subject": self.subject,
            "batch_size": self.present,
            "optimizer": self.settings.optimizer,
            "learning_rate": self.learning_rate,
            "learning_rates": self.settings.rate_words,
            "noise_scale": [scale.to_dict() for scale in self.noise_scales],
            "finding": as_dict(self.finding),
            "present": self.present,
            **table,
            "brackets": [asdict(bracket) for bracket in self.brackets],
            "step_seconds": {str(size): estimate.to_dict() for size, estimate in seconds.items()},
            "caveat": self.caveat,
        }

    @property
    def caveat(self) -> str:
        """What could make the numbers wrong: for SGD that of the table, else that of
        the finding."""
        return say(self.finding).caveat if self.table is None else CAVEAT


def compare_for_run(
    path: Path,
    *,
    of: Literal["now", "run"] = "now",
    level: float | None = None,
    seconds: float | None = 10.0,
) -> BatchComparison:
    """Compare batch sizes for a run, from its readings of the noise.

    Args:
        path: The folder of the run.
        of: "now": the noise scale at the newest reading, to continue the run. "run": those of the
            whole path, to plan another run like it.
        level: Confidence level; None for that of the run.
        seconds: About how long to time steps; None to skip it. A watched run has no model here to
            time.
    """
    run, gauge = Run.open(path), GradientNoise()
    series = run.series(gauge.name)
    if series is None:
        raise BadArgument(f"`{path}` has no readings of the noise: train with a `budget` above 0.")
    level = run.configuration.level if level is None else level
    check_level(level)
    latest = gauge.estimate(series.at_newest(), level)
    scales = []
    if of == "run":
        # At most 24 windows with equal numbers of readings. The last one ends with the series.
        # Minimum number of readings in a window. With fewer, intervals are too wide to be useful.
        count = max(min(24, len(series) // 40), 1)
        length = len(series) // count
        for start in range(len(series) - count * length, len(series), length):
            window = series[start : start + length]
            scales.append(gauge.estimate(window, level)["noise_scale"])
    settings = run.hyperparameters
    if settings is None:
        raise BadArgument(f"`{path}` has no record of its learning rate.")
    timed = seconds if isinstance(run.configuration, Configuration) else None
    if seconds is not None:
        check_trust(run.manifest, run.path, "measure batch")
    found = _compare(run.name, run.configuration, settings, latest, scales, timed)
    under_p = run.series(PRECONDITIONED) if settings.family == "adaptive" else None
    if under_p is None:
        return found
    # Under an adaptive optimizer the noise scale under P predicts the batch better.
    preconditioned = next(
        each for each in recorded_gauges(run)[0] if isinstance(each, PreconditionedNoise)
    )
    estimates = preconditioned.estimate(under_p.at_newest(), level)
    return replace(found, finding=preconditioned.judge(estimates, RunFacts(run.hyperparameters)))


def compare_for_problem(
    configuration: Configuration, *, steps: int = 600, seconds: float | None = 10.0
) -> BatchComparison:
    """Compare batch sizes for a problem, from the noise in the last 200 steps of a brief training.

    Args:
        configuration: The problem and how to train it.
        steps: Steps to train.
        seconds: About how long to time steps; None to skip it.
    """
    torch.set_num_threads(configuration.threads)
    training = start_training(configuration)
    parts = 2 if configuration.parts is None else configuration.parts
    gauge = GradientNoise(parts or None)
    # Steps measured at the end of a brief training.
    readings = advance(training, steps, gauge, last=200)
    latest = gauge.estimate(
        Series.of(readings, training.sampling, training.objective.layers), configuration.level
    )
    subject = f"{training.problem.name} ({training.problem.model_name}) after {steps:,} steps"
    return _compare(
        subject, configuration, hyperparameters_of(configuration, steps), latest, [], seconds
    )


def _compare(
    subject: str,
    configuration: Configuration | WatchedConfiguration,
    settings: Hyperparameters,
    latest: Estimates,
    scales: list[Estimate],
    seconds: float | None,
) -> BatchComparison:
    present = configuration.batch_size
    sizes = batch_sizes(present)
    times: StepTimes | None = None
    schedule: str | None = None
    if isinstance(configuration, Configuration):
        schedule = configuration.schedule
        if seconds is not None:
            torch.set_num_threads(configuration.threads)
            training = start_training(configuration)
            sizes = batch_sizes(present, len(training.data))
            times = _time_steps(training, sizes, seconds)
    facts = RunFacts(settings, schedule)
    finding = judge_batch_size(
        GradientNoise.name, latest["batch_size"], latest["noise_scale"], run=facts
    )
    scales = scales or [latest["noise_scale"]]
    rate = max(settings.peaks)
    table: BatchTable | None = None
    if settings.family == "sgd":
        table = BatchTable.of(
            scales,
            sizes,
            present=present,
            learning_rate=rate,
            relative_times=times.relative if times else None,
        )
    brackets = (
        rate_brackets("adaptive", rate, present, sizes) if settings.family == "adaptive" else ()
    )
    return BatchComparison(subject, present, settings, scales, finding, table, brackets, times)


def _time_steps(training: Training, sizes: Sequence[int], seconds: float) -> StepTimes:
    """Time steps on random examples, from making the batch to the update; η is 0, so
    nothing moves."""
    configuration = training.configuration
    generator = torch.Generator().manual_seed(configuration.seed)
    for group in training.optimizer.param_groups:
        group["lr"] = 0.0

    def step(size: int) -> None:
        chosen = torch.randint(len(training.data), (size,), generator=generator)
        training.backward(training.data.batch(chosen))
        training.optimizer.step()

    return step_times(
        step, sizes, configuration.batch_size, seconds=seconds, level=configuration.level
    )
