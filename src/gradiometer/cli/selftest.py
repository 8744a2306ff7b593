"""`gradiometer selftest`: is what the instrument says true on this machine?"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from gradiometer.cli.options import json_option

if TYPE_CHECKING:
    from rich.table import Table

    from gradiometer.selftest.check import Check
    from gradiometer.selftest.checks import Progress

MARKS = {True: "✓ passed", False: "✗ failed"}


@click.command(epilog="Example: gradiometer selftest --full")
@click.option("--full", is_flag=True, help="Take more batches and windows: minutes instead of half a minute.")
@json_option
def selftest(full: bool, as_json: bool) -> int:
    """Test the instrument against exact answers, on this machine.

    On problems whose every per-example gradient is known: are its numbers unbiased, and do nine in ten of its
    intervals hold the truth? Ends with code 0 if every check passes, with 1 otherwise.
    """
    from rich.console import Console

    from gradiometer.cli.outcome import print_json
    from gradiometer.selftest import run_checks

    with _progress() as progress:
        checks = run_checks(full, progress)
    failed = sum(not check.passed for check in checks)
    if as_json:
        print_json({"passed": not failed, "checks": [{"name": check.name, **vars(check)} for check in checks]})
    else:
        Console().print(_table(checks))
        verdict = "all passed" if not failed else f"{failed} failed: do not trust the noise gauge on this machine"
        click.echo(f"{len(checks)} checks, {verdict}.")
    return 1 if failed else 0


@contextmanager
def _progress() -> Iterator["Progress"]:
    """A bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Checking", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _table(checks: "list[Check]") -> "Table":
    """One row a check."""
    from rich.table import Table

    from gradiometer.measurement.reading import significant

    table = Table()
    for title in ("problem", "B", "quantity", "expected", "measured", ""):
        table.add_column(title, justify="right" if title == "B" else "left")
    for check in checks:
        low, high = (significant(end, 4) for end in (check.low, check.high))
        table.add_row(
            check.problem,
            str(check.batch_size),
            check.quantity,
            check.expected,
            f"{significant(check.measured, 4)} [{low}, {high}]",
            MARKS[check.passed],
        )
    return table
