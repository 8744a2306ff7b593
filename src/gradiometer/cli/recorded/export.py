"""`gradiometer runs export`: the numbers of a run as a table."""

from pathlib import Path

import click

from gradiometer.cli.completion import runs


@click.command(epilog="Example: gradiometer runs export runs/digits-cnn-1 --out readings.csv")
@click.argument("run", type=click.Path(path_type=Path), shell_complete=runs)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="File to write, with the ending .csv or .parquet (needs pyarrow).",
)
@click.option(
    "--what",
    type=click.Choice(["readings", "losses", "evaluations"]),
    default="readings",
    show_default=True,
    help=(
        "Moments of every measured step, the loss of every step, or the estimates on held-out data."
    ),
)
def export(run: Path, out: Path, what: str) -> None:
    """Write all numbers of RUN as a table, one row per step."""
    from gradiometer.report.table import table_of, write_table
    from gradiometer.run.reader import Run

    rows = write_table(table_of(Run.open(run), what), out)
    click.echo(f"{rows:,} rows in {out}")
