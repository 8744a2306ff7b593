"""Compare other batch sizes with the present one: the noise scale from readings, step times from this machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from gradiometer.diagnosis import latest_window, windows
from gradiometer.errors import BadArgument
from gradiometer.estimation.batch_advice import interpret_batch_size
from gradiometer.estimation.batch_table import BatchTable, batch_sizes
from gradiometer.estimation.noise import GradientNoise
from gradiometer.estimation.step_time import StepTimes, step_times
from gradiometer.measurement.estimate import Estimate, Estimates
from gradiometer.measurement.finding import Finding
from gradiometer.measurement.reading import Series
from gradiometer.run.configuration import Configuration
from gradiometer.run.reader import Run
from gradiometer.train.brief import advance, started
from gradiometer.train.training import Training

MEASURED = 200
"""Steps measured at the end of a brief training."""

CAVEAT = (
    "The factors come from a model of SGD that assumes the best learning rate at the present batch: use them for a "
    "first try. The noise scale usually grows as the loss falls."
)


@dataclass(frozen=True)
class BatchComparison:
    """Other batch sizes relative to the present one.

    Args:
        subject: A name for the run or the problem.
        learning_rate: η at the present batch.
        noise_scales: The noise scale in windows of equal length, oldest first.
        finding: The present batch size against the latest noise scale.
        table: Updates, examples and time to the same loss.
        times: Times of a step; None if they were not measured.
    """

    subject: str
    learning_rate: float
    noise_scales: Sequence[Estimate]
    finding: Finding
    table: BatchTable
    times: StepTimes | None

    def to_dict(self) -> dict[str, Any]:
        """The comparison as `gradiometer batch --json` prints it."""
        seconds = self.times.seconds if self.times else {}
        return {
            "subject": self.subject,
            "batch_size": self.table.present,
            "learning_rate": self.learning_rate,
            "noise_scale": [scale.to_dict() for scale in self.noise_scales],
            "finding": self.finding.to_dict(),
            **self.table.to_dict(),
            "step_seconds": {str(size): estimate.to_dict() for size, estimate in seconds.items()},
            "caveat": CAVEAT,
        }


def compare_for_run(
    path: Path, *, over: Literal["run", "now"] = "run", level: float | None = None, seconds: float | None = 10.0
) -> BatchComparison:
    """Compare batch sizes for a run, from its readings of the noise.

    Args:
        path: The folder of the run.
        over: "run": the whole path, to plan another run like it. "now": the latest window, to continue it.
        level: Confidence level; None for that of the run.
        seconds: About how long to time steps; None to skip it. A watched run has no model here to time.
    """
    run, gauge = Run.open(path), GradientNoise()
    series = run.series(gauge.name)
    if series is None:
        raise BadArgument(f"`{path}` has no readings of the noise: train with a `budget` above 0.")
    level = run.configuration.level if level is None else level
    if not 0 < level < 1:
        raise BadArgument(f"`level` must lie between 0 and 1, got {level}.")
    latest = gauge.estimate(latest_window(series), level)
    scales = [gauge.estimate(window, level)["noise_scale"] for window in windows(series)] if over == "run" else []
    return _compared(run.name, run.configuration, latest, scales, None if run.watched else seconds)


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
    training, gauge = started(configuration), GradientNoise(configuration.parts or None)
    readings = advance(training, steps, gauge, last=MEASURED)
    latest = gauge.estimate(Series.of(readings, training.sampling, training.objective.layers), configuration.level)
    subject = f"{training.problem.name} ({training.problem.model_name}) after {steps:,} steps"
    return _compared(subject, configuration, latest, [], seconds)


def _compared(
    subject: str, configuration: Configuration, latest: Estimates, scales: list[Estimate], seconds: float | None
) -> BatchComparison:
    present, rate, scales = configuration.batch_size, configuration.learning_rate, scales or [latest["noise_scale"]]
    sizes, times = batch_sizes(present), None
    if seconds is not None:
        torch.set_num_threads(configuration.threads)
        training = started(configuration)
        sizes = batch_sizes(present, len(training.data))
        times = _timed(training, sizes, seconds)
    relative = times.relative if times else None
    table = BatchTable.of(scales, sizes, present=present, learning_rate=rate, relative_times=relative)
    finding = interpret_batch_size(GradientNoise.name, latest["batch_size"], latest["noise_scale"])
    return BatchComparison(subject, rate, scales, finding, table, times)


def _timed(training: Training, sizes: Sequence[int], seconds: float) -> StepTimes:
    """Time steps on random examples, from making the batch to the update; η is 0, so nothing moves."""
    configuration = training.configuration
    generator = torch.Generator().manual_seed(configuration.seed)
    for group in training.optimizer.param_groups:
        group["lr"] = 0.0

    def step(size: int) -> None:
        chosen = torch.randint(len(training.data), (size,), generator=generator)
        training.backward(training.data.batch(chosen), measured=False)
        training.optimizer.step()

    return step_times(step, sizes, configuration.batch_size, seconds=seconds, level=configuration.level)
