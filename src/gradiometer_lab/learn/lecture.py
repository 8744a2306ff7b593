"""`gradiometer learn lecture`: the statements of the lecture, each predicted before it
is measured."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradiometer.cli.options import json_option, pool_option
from gradiometer.cli.outcome import fill, printed_json

if TYPE_CHECKING:
    from rich.console import Console

    from gradiometer_lab.lecture.statement import ExperimentResult, Result, Statement


@click.command(epilog="Example: gradiometer learn lecture S6 S11 --out lecture")
@click.argument("statements", metavar="[S1 … S12]", nargs=-1)
@click.option(
    "--out",
    type=click.Path(file_okay=True, path_type=Path),
    help="Write a site into this folder: one page per statement, and an index.",
)
@pool_option
@json_option
def lecture(statements: tuple[str, ...], out: Path | None, pool: str, as_json: bool) -> int:
    """Test statements of the lecture by experiments; all twelve if none is given.

    Every experiment predicts the result of a measurement before it is made: on a problem with a
    known answer, on a real network with real data, and in a case in which the claim fails. The exit
    code is 0 if all results are as predicted, and 1 otherwise.
    """
    import torch
    from rich.console import Console

    from gradiometer.cli.progress import clock
    from gradiometer.jobs.choice import opened
    from gradiometer_lab.lecture.catalogue import chosen, run_all
    from gradiometer_lab.lecture.site import Site, write_site
    from gradiometer_lab.lecture.statement import Result

    asked = chosen(statements)
    torch.set_num_threads(1)  # the networks are small
    console = Console(stderr=as_json, highlight=False)
    site = None if out is None or as_json else Site(out, asked)
    results = list[Result]()
    began, left = time.monotonic(), ""
    with opened(pool) as where:
        for statement, outcomes in run_all(asked, where):
            place = f"{len(results) + 1} of {len(asked)}" + (f", about {left}" if results else "")
            results.append(_test(statement, outcomes, console, place))
            took = (time.monotonic() - began) / len(results)
            left = f"{clock(took * (len(asked) - len(results)))} left"
            if site is not None:
                site.add(results[-1], left)
    held = sum(result.held for result in results)
    if as_json:
        with printed_json(
            {"statements": [result.to_dict() for result in results], "held": held, "site": None}
        ) as told:
            told["site"] = None if out is None else write_site(results, out)
    else:
        click.echo(f"{held} of {len(results)} statements held.")
        if site is not None:
            click.echo(f"site  {site.folder / 'index.html'}")
    return 0 if held == len(results) else 1


def _test(
    statement: "Statement", outcomes: "Iterator[ExperimentResult]", console: "Console", place: str
) -> "Result":
    """Print the predictions of a statement, then its measurements as they are made.

    Args:
        statement: The statement.
        outcomes: Its predictions, then its measurements.
        console: The console to print on.
        place: Its number, and the time that is left.
    """
    from gradiometer.report.charts.interval_strip import number
    from gradiometer_lab.lecture.site import prediction
    from gradiometer_lab.lecture.statement import Result

    console.print(f"\n[bold]{statement.name}[/bold]  {statement.title}  ({place})", soft_wrap=True)
    measured = []
    for outcome in outcomes:
        experiment = outcome.experiment
        if outcome.measured:
            measured.append(outcome)
            mark = "✓" if outcome.held else "✗"
            says = f"{mark} {experiment.name}: measured {outcome.measured[-1]}"
        else:
            point = f"{experiment.dial} {number(float(experiment.points[-1]))}"
            says = (
                f"{experiment.name} ({experiment.where}): {experiment.quantity} at {point}: "
                "predicted "
            )
            says += prediction(outcome.predicted[-1])
        console.print(fill(says, indent=2, hanging=2), markup=False, soft_wrap=True)
    return Result(statement, tuple(measured))
