"""`gradiometer measure batch`: updates, examples and time at other batch sizes."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from gradiometer.cli.options import configuration_options, json_option, targets
from gradiometer.cli.outcome import fill, print_json, table
from gradiometer.cli.place import is_run
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.run.configuration import Configuration

if TYPE_CHECKING:
    from rich.table import Table

    from gradiometer.estimation.batch_table import BatchRow, BatchTable
    from gradiometer.train.batch_comparison import BatchComparison

Of = Literal["now", "run"]

TEST = (
    "These are forecasts. A fork measures twice the batch on copies of the run, after the same "
    "number of examples:"
)


@click.command(epilog="Example: gradiometer measure batch runs/digits-cnn-1")
@click.argument("target", metavar="RUN-OR-PROBLEM", shell_complete=targets)
@click.option(
    "--steps",
    type=click.IntRange(min=200),
    default=600,
    show_default=True,
    help="Steps to train a problem; the noise is measured in the last 200.",
)
@click.option(
    "--of",
    type=click.Choice(["now", "run"]),
    default="now",
    show_default=True,
    help="Noise scale now, to continue the run, or over the whole run, to plan another.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help=(
        "About how long to measure the time of a step at every batch size on this machine; 0: not "
        "at all."
    ),
)
@configuration_options()
@json_option
def batch(
    target: str,
    steps: int,
    of: Of,
    seconds: float,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Estimate updates, examples and time to the same loss at other batch sizes, relative to the
    present one.

    RUN-OR-PROBLEM is the folder of a run, whose readings give the noise scale, or a problem
    (digits, fashion-mnist, module:function), which is trained briefly first, with the settings of
    --set. A run keeps its own, but for level.

    The learning rates are peaks of the schedule. Updates and examples are forecast for SGD. For
    Adam, AdamW, RMSprop and Adagrad only a range of learning rates is given, and for other
    optimizers nothing.
    """
    from gradiometer.train.batch_comparison import compare_for_problem, compare_for_run

    budget = seconds or None
    if is_run(target):
        found = compare_for_run(Path(target), of=of, level=_level(settings), seconds=budget)
    else:
        found = compare_for_problem(
            Configuration.from_mapping({**settings, "problem": target}, ""),
            steps=steps,
            seconds=budget,
        )
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)
        if is_run(target):
            click.echo(fill(TEST))
            click.echo(f"  gradiometer fork {shlex.quote(target)} 'batch 2x, rate sqrt'")


def _level(settings: dict[str, Any]) -> float | None:
    """The confidence level, which is all that `--set` may change for a run."""
    for name in settings:
        if name != "level":
            raise BadArgument(
                f"`--set` {name} cannot be changed for a run: leave it out, or give a problem "
                "instead."
            )
    return settings.get("level")


def _print(found: "BatchComparison") -> None:
    """Print the finding, the table or the learning rates to try, and the fastest and the cheapest
    batch sizes."""
    from rich.console import Console

    from gradiometer.verdict.words.say import say

    said = say(found.finding)
    click.echo(fill(f"{found.subject}, B = {found.present:,}, {found.settings.sentence}") + "\n")
    click.echo(fill(f"{said.seen} {said.means}") + "\n")
    if found.table is not None:
        windows = len(found.noise_scales)
        path = f", over {windows} windows of the run" if windows > 1 else ""
        click.echo(f"To the same loss, relative to the present batch{path}:\n")
        peak = "η" if found.settings.is_constant else "peak η"
        Console().print(_table(found.table, peak))
        click.echo("\n" + "\n".join(fill(line) for line in _choices(found.table)))
    elif found.brackets:
        click.echo(
            "Learning rates to "
            f"try{'' if found.settings.is_constant else ', as peaks of the schedule'}:\n"
        )
        rows = [
            (
                f"{'now ' * (bracket.batch_size == found.present)}{bracket.batch_size:,}",
                significant(bracket.low, 2),
                significant(bracket.high, 2),
            )
            for bracket in found.brackets
        ]
        Console().print(table(("B", "η from", "to"), rows))
        click.echo("")
    if found.caveat:
        click.echo(fill(f"caution: {found.caveat}"))


def _table(found: "BatchTable", rate: str = "η") -> "Table":
    timed = any(row.time is not None for row in found.rows)
    rows = []
    for row in found.rows:
        now = row.batch_size == found.present
        factors = [factor for factor in (row.updates, row.examples, row.time) if factor is not None]
        cells = ["1" if now else _cell(factor) for factor in factors]
        size = f"{'now ' * now}{row.batch_size:,}"
        rows.append([size, significant(row.learning_rate.value, 2), *cells])
    return table(("B", rate, "updates", "examples", *["time"] * timed), rows)


def _cell(estimate: Estimate) -> str:
    value, low, high = (
        significant(end, 2) for end in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def _choices(found: "BatchTable") -> list[str]:
    """Sentences that name the fastest and the cheapest batch sizes."""
    sentences = []
    if found.fastest:
        first, *others = found.fastest
        time = "the present one"
        if first.time is not None and first.batch_size != found.present:
            time = f"{_cell(first.time)} of the time"
        if found.present in [row.batch_size for row in others]:
            sentences.append("No other batch size is clearly faster on this machine.")
        else:
            sentences.append(
                f"Fastest here: B = {first.batch_size:,} "
                f"({time}){_also(others, 'possibly as fast')}."
            )
    first, *others = found.cheapest
    sentences.append(
        f"Fewest examples: B = {first.batch_size:,}{_also(others, 'at most a tenth more')}."
    )
    return sentences


def _also(rows: "Sequence[BatchRow]", words: str) -> str:
    return f"; {words}: {', '.join(f'{row.batch_size:,}' for row in rows)}" if rows else ""
