"""`gradiometer batch`: what another batch size would buy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from gradiometer.cli.options import configuration_from, configuration_options, json_option
from gradiometer.cli.place import is_run

if TYPE_CHECKING:
    from rich.table import Table

    from gradiometer.estimation.batch_table import BatchRow, BatchTable
    from gradiometer.estimation.step_time import StepTimes
    from gradiometer.measurement.estimate import Estimate, Estimates
    from gradiometer.measurement.finding import Finding
    from gradiometer.run.configuration import Configuration
    from gradiometer.train.training import Training

MEASURED = 200
"""Steps measured at the end of a brief training."""

CAVEAT = (
    "A model of SGD, whose rate is taken to be right at the present batch: its factors are for a first try. The noise "
    "scale usually grows as the loss falls."
)
LEFT_OUT = (
    *("problem", "schedule", "epochs", "budget", "gauges", "check_edge", "check_endpoint", "every"),
    *("checkpoint_seconds", "keep_checkpoints"),
)


@dataclass(frozen=True)
class Measured:
    """What is known of the noise of a training, and how it was trained.

    Args:
        subject: The run or the problem, in words.
        configuration: How it is trained.
        windows: The noise scale in windows of equal length, oldest first.
        finding: The present batch against the noise scale of the last of them.
    """

    subject: str
    configuration: "Configuration"
    windows: "Sequence[Estimate]"
    finding: "Finding"


@click.command(epilog="Example: gradiometer batch digits --model cnn --lr 0.1 --steps 600")
@click.argument("target", metavar="RUN-OR-PROBLEM")
@click.option("--steps", type=click.IntRange(min=MEASURED), default=600, show_default=True,
              help="Of a problem: steps to train first; the last 200 are measured.")  # fmt: skip
@click.option("--over", type=click.Choice(["run", "now"]), default="run", show_default=True,
              help="Of a run: its whole path, for another such run; or its latest window, to go on.")  # fmt: skip
@click.option("--measure-time/--no-measure-time", default=True, show_default=True,
              help="Time a step at every batch size, on this machine.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True,
              help="How long to time steps, about.")  # fmt: skip
@configuration_options(*LEFT_OUT)
@json_option
def batch(target: str, steps: int, over: str, measure_time: bool, seconds: float, as_json: bool, **flags: Any) -> None:
    """What would another batch size buy? Updates, examples and time to the same loss, against the present batch.

    RUN-OR-PROBLEM is the folder of a run, whose readings tell its noise scale, or a problem (digits, fashion-mnist,
    module:function), which is trained briefly first. The flags of a training are a problem's; a run has its own.
    """
    from gradiometer.estimation.batch_table import BatchTable, batch_sizes

    measured = _of_run(target, over, flags) if is_run(target) else _of_problem(target, steps, flags)
    configuration = measured.configuration
    training = _training(configuration) if measure_time else None
    sizes = batch_sizes(configuration.batch_size, None if training is None else len(training.data))
    times = None if training is None else _times(training, sizes, seconds)
    table = BatchTable.of(
        measured.windows,
        sizes,
        present=configuration.batch_size,
        learning_rate=configuration.learning_rate,
        relative_times=None if times is None else times.relative,
    )
    (_print_json if as_json else _tell)(measured, table, times)


def _of_run(target: str, over: str, flags: dict[str, Any]) -> Measured:
    """The noise scale along a run, or now, from its readings."""
    from gradiometer.diagnosis import latest_window, windows
    from gradiometer.errors import BadArgument
    from gradiometer.estimation.noise import GradientNoise
    from gradiometer.run.reader import Run

    given = [name for name, value in flags.items() if value is not None and name != "level"]
    if given:
        raise BadArgument(f"`--{given[0].replace('_', '-')}` is the run's own: leave it out, or name a problem.")
    run = Run.open(target)
    series = run.series(GradientNoise.name)
    if series is None:
        raise BadArgument(f"`{target}` has no readings of the noise: train with a `--budget` above 0.")
    level = run.configuration.level if flags["level"] is None else flags["level"]
    if not 0 < level < 1:
        raise BadArgument(f"`--level` must lie between 0 and 1, got {level}.")
    latest = GradientNoise().estimate(latest_window(series), level)
    path = [GradientNoise().estimate(window, level)["noise_scale"] for window in windows(series)]
    scales = path if over == "run" else [latest["noise_scale"]]
    return Measured(run.name, run.configuration, scales, _finding(latest))


def _of_problem(target: str, steps: int, flags: dict[str, Any]) -> Measured:
    """The noise scale at the end of a brief training."""
    from gradiometer.estimation.noise import GradientNoise
    from gradiometer.measurement.reading import Reading, Series

    configuration = configuration_from(None, {"problem": target, **flags})
    training, gauge = _training(configuration), GradientNoise(configuration.parts or None)
    readings = []
    for left in range(steps, 0, -1):
        examples = training.batch()
        loss, spread = training.backward(examples, measured=left <= MEASURED)
        _refuse_divergence(training.divergence(loss), training.step, configuration.learning_rate)
        step = training.caught(examples, spread)
        if left <= MEASURED and step.batch_size > 1:
            moments = gauge.measure(step)
            readings.append(Reading(gauge.name, step.index, step.batch_size, step.learning_rate, moments))
        training.update()
    latest = gauge.estimate(Series.of(readings, training.sampling, training.objective.layers), configuration.level)
    subject = f"{training.problem.name} ({training.problem.model_name}) after {steps:,} steps"
    return Measured(subject, configuration, [latest["noise_scale"]], _finding(latest))


def _finding(latest: "Estimates") -> "Finding":
    from gradiometer.estimation.batch_advice import interpret_batch_size
    from gradiometer.estimation.noise import GradientNoise

    return interpret_batch_size(GradientNoise.name, latest["batch_size"], latest["noise_scale"])


def _training(configuration: "Configuration") -> "Training":
    """A training of it from its start, on the threads it asks for."""
    import torch

    from gradiometer.problems.registry import load
    from gradiometer.run.budget import Budget
    from gradiometer.train.training import Training

    torch.set_num_threads(configuration.threads)
    problem = load(
        configuration.problem, model=configuration.model, data_dir=configuration.data_dir, seed=configuration.seed
    )
    return Training(problem, configuration, Budget(configuration.budget))


def _refuse_divergence(reason: str | None, step: int, learning_rate: float) -> None:
    from gradiometer.errors import Diverged

    if reason is not None:
        raise Diverged(
            f"training diverged at step {step:,} with learning rate {learning_rate:g}: {reason}; try a smaller --lr"
        )


def _times(training: "Training", sizes: Sequence[int], seconds: float) -> "StepTimes":
    """Steps of every size on random examples, from taking the batch to the update, which moves nothing: η is zero."""
    import torch

    from gradiometer.estimation.step_time import step_times

    generator = torch.Generator().manual_seed(training.configuration.seed)
    for group in training.optimizer.param_groups:
        group["lr"] = 0.0

    def step(size: int) -> None:
        chosen = torch.randint(len(training.data), (size,), generator=generator)
        training.backward(training.data.batch(chosen), measured=False)
        training.optimizer.step()

    configuration = training.configuration
    return step_times(step, sizes, configuration.batch_size, seconds=seconds, level=configuration.level)


def _print_json(measured: Measured, table: "BatchTable", times: "StepTimes | None") -> None:
    from gradiometer.cli.outcome import print_json

    seconds = {} if times is None else {str(size): estimate.to_dict() for size, estimate in times.seconds.items()}
    print_json(
        {
            "subject": measured.subject,
            "batch_size": table.present,
            "learning_rate": measured.configuration.learning_rate,
            "noise_scale": [scale.to_dict() for scale in measured.windows],
            "finding": measured.finding.to_dict(),
            **table.to_dict(),
            "step_seconds": seconds,
            "caveat": CAVEAT,
        }
    )


def _tell(measured: Measured, table: "BatchTable", times: "StepTimes | None") -> None:
    """The sentence, the table, and what is fastest and cheapest."""
    from rich.console import Console

    from gradiometer.cli.outcome import filled

    click.echo(f"{measured.subject}, B = {table.present:,}, η = {measured.configuration.learning_rate:g}\n")
    click.echo(filled(f"{measured.finding.seen} {measured.finding.means}") + "\n")
    path = f", over the {len(measured.windows)} windows of its path" if len(measured.windows) > 1 else ""
    click.echo(f"To the same loss, against the present batch{path}:\n")
    Console().print(_table(table))
    click.echo("\n" + "\n".join(filled(line) for line in [*_choices(table, times), f"mind: {CAVEAT}"]))


def _table(table: "BatchTable") -> "Table":
    from rich.table import Table

    from gradiometer.measurement.estimate import significant

    timed = any(row.time is not None for row in table.rows)
    drawn = Table(box=None, pad_edge=False)
    for title in ("B", "η", "updates", "examples", *["time"] * timed):
        drawn.add_column(title, justify="right", no_wrap=True)
    for row in table.rows:
        rate = significant(row.learning_rate.value, 2)
        factors = [factor for factor in (row.updates, row.examples, row.time) if factor is not None]
        now = row.batch_size == table.present
        drawn.add_row(f"{'now ' * now}{row.batch_size:,}", rate, *("1" if now else _cell(factor) for factor in factors))
    return drawn


def _cell(estimate: "Estimate") -> str:
    from gradiometer.measurement.estimate import significant

    value, low, high = (significant(end, 2) for end in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def _choices(table: "BatchTable", times: "StepTimes | None") -> list[str]:
    """Which batch is fastest, and which is cheapest, in sentences."""
    sentences = []
    if table.fastest:
        first, *others = table.fastest
        time = (
            "the present one"
            if first.time is None or first.time.method == "exact"
            else f"{_cell(first.time)} of the time"
        )
        if table.present in [row.batch_size for row in others]:
            sentences.append("No batch is told to be faster here than the present one.")
        else:
            sentences.append(f"Fastest here: B = {first.batch_size:,} ({time}){_also(others, 'not told from it')}.")
    first, *others = table.cheapest
    sentences.append(f"Fewest examples: B = {first.batch_size:,}{_also(others, 'at most a tenth more')}.")
    return sentences


def _also(rows: "Sequence[BatchRow]", words: str) -> str:
    return f"; {words}: {', '.join(f'{row.batch_size:,}' for row in rows)}" if rows else ""
