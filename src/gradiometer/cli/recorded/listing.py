"""`gradiometer runs list`: the runs of a folder."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradiometer.cli.options import json_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradiometer.report.overview.listed import RunRow

ORDERS = ("age", "name", "loss", "score", "steps", "limits")


@click.command("list", epilog="Example: gradiometer runs --sort loss --match 'digits-*'")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"))
@click.option(
    "--sort",
    type=click.Choice(ORDERS),
    default=None,
    help="Order: newest, name, lowest loss, best test score, most steps, or what limits it. "
    "Default: age; with --page limits.",
)
@click.option("--match", default="*", show_default=True, help="Pattern for the names of the runs.")
@click.option(
    "--page",
    type=click.Path(path_type=Path),
    default=None,
    help="Also write the list as an HTML page.",
)
@json_option
def list_runs(folder: Path, sort: str | None, match: str, page: Path | None, as_json: bool) -> None:
    """List the runs in FOLDER (default: runs), each with its last loss, test score and verdict."""
    from gradiometer.report.overview.listed import listing
    from gradiometer.report.overview.page import write_overview

    order = sort or ("age" if page is None else "limits")
    found, warnings = listing(folder, sort=order, match=match)
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


def _tell(found: "Sequence[RunRow]", folder: Path) -> None:
    """Print a table, with optimizer and verdict of each run below its line."""
    from gradiometer.cli.outcome import filled, line_width
    from gradiometer.report.page.page import STATUS_SYMBOLS

    if not found:
        click.echo(f"No such runs in `{folder}`.")
        return
    rows = [("run", "steps", "loss", "test", "age")] + [
        (
            f"{STATUS_SYMBOLS[run.status]} {run.path.name}",
            f"{run.steps:,}",
            run.loss_words,
            run.score_words,
            run.age_words,
        )
        for run in found
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    fits = sum(widths) + 2 * len(widths) <= line_width()
    for place, (name, *numbers) in enumerate(rows):
        cells = "  ".join(
            cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)
        )
        click.echo(f"{name:<{widths[0]}}  {cells}" if fits else f"{name}\n  {cells}")
        if place:
            run = found[place - 1]
            click.echo(
                filled(f"{run.brief} · {run.optimizer}" if run.optimizer else run.brief, indent=2)
            )
