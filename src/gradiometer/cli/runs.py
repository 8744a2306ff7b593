"""`gradiometer runs`: the runs of a folder."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradiometer.cli.options import json_option

if TYPE_CHECKING:
    from gradiometer.report.overview.listed import Listed

STATES = ("running", "finished", "interrupted", "diverged")
ORDERS = ("age", "name", "loss", "score", "steps")


@click.command(epilog="Example: gradiometer runs --sort loss --match 'digits-*'")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"))
@click.option(
    "--sort",
    type=click.Choice(ORDERS),
    default="age",
    show_default=True,
    help="Order: newest, name, lowest loss, best test score, or most steps first.",
)
@click.option("--match", default="*", show_default=True, help="Pattern for the names of the runs.")
@click.option("--status", type=click.Choice(STATES), multiple=True, help="List only runs in this state. Repeatable.")
@click.option("--page", type=click.Path(path_type=Path), default=None, help="Also write the list as an HTML page.")
@json_option
def runs(folder: Path, sort: str, match: str, status: tuple[str, ...], page: Path | None, as_json: bool) -> None:
    """List the runs in FOLDER (default: runs), each with its last loss, test score and verdict."""
    from gradiometer.report.overview.listed import listing
    from gradiometer.report.overview.page import write_overview

    found, warnings = listing(folder, sort=sort, match=match, status=status)  # type: ignore[arg-type]
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        from gradiometer.cli.outcome import printed_json

        with printed_json({"runs": [run.to_dict() for run in found]}) as result:
            if page is not None:
                result["page"] = write_overview(found, page)
        return
    _tell(found, folder)
    if page is not None:
        click.echo(f"\npage  {write_overview(found, page)}")


def _tell(found: "tuple[Listed, ...]", folder: Path) -> None:
    """Print a table, with the verdict of each run below its line."""
    from gradiometer.cli.outcome import filled
    from gradiometer.measurement.estimate import significant
    from gradiometer.report.overview.page import score_words
    from gradiometer.report.page.page import STATUS_SYMBOLS

    if not found:
        click.echo(f"No such runs in `{folder}`.")
        return
    rows = [("", "run", "optimizer", "steps", "loss", "test", "age")] + [
        (
            STATUS_SYMBOLS[run.status],
            run.path.name,
            run.optimizer,
            f"{run.steps:,}",
            significant(run.loss.value) if run.loss.samples else "",
            score_words(run),
            run.age_words,
        )
        for run in found
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for place, row in enumerate(rows):
        first, name, optimizer, *numbers = (
            cell.ljust(width) if column < 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo("  ".join((f"{first} {name}", optimizer, *numbers)).rstrip())
        if place:
            click.echo(filled(found[place - 1].verdict, indent=2))
