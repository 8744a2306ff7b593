"""`gradiometer learn selftest`: check the measurements on this machine against exact answers."""

import click

from gradiometer.cli.options import json_option, pool_option
from gradiometer.cli.outcome import print_json
from gradiometer.measurement.estimate import significant

MARKS = {True: "✓ passed", False: "✗ failed"}


@click.command(epilog="Example: gradiometer learn selftest --full --pool processes")
@click.option(
    "--full",
    is_flag=True,
    help="Use more batches and windows. Takes several minutes instead of one.",
)
@pool_option
@json_option
def selftest(full: bool, pool: str, as_json: bool) -> int:
    """Check the measurements on this machine against exact answers.

    On problems with known per-example gradients, the command checks that the numbers are unbiased
    and that 90 % of
    the intervals contain the exact value. Exit code: 0 if every check passes, otherwise 1.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from gradiometer.cli.progress import counting
    from gradiometer_lab.selftest.checks import run_checks

    with counting("checks") as counter:
        checks = run_checks(full, counter.update, pool)
    console = Console()
    failed = sum(not check.passed for check in checks)
    if as_json:
        print_json(
            {
                "passed": not failed,
                "checks": [{"name": check.name, **vars(check)} for check in checks],
            }
        )
    else:
        # One table per quantity, with one row per problem and batch size.
        for quantity in dict.fromkeys(check.quantity for check in checks):
            table = Table(title=quantity, title_justify="left", box=None, padding=(0, 2, 0, 0))
            for title, width in (("problem", 19), ("B", 2), ("expected", 8), ("measured", 22)):
                table.add_column(
                    title, min_width=width, justify="right" if title == "B" else "left"
                )
            table.add_column("")
            for check in (check for check in checks if check.quantity == quantity):
                low, high = (significant(end, 4) for end in (check.low, check.high))
                measured = f"{significant(check.measured, 4)} [{low}, {high}]"
                table.add_row(
                    check.problem,
                    str(check.batch_size),
                    check.expected,
                    escape(measured),
                    MARKS[check.passed],
                )
            console.print(table, "")
        verdict = (
            "all passed"
            if not failed
            else f"{failed} failed: do not trust the noise gauge on this machine"
        )
        click.echo(f"{len(checks)} checks, {verdict}.")
    return 1 if failed else 0
