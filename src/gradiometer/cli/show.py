"""`gradiometer show`: the findings of a run and its page, once or live."""

from contextlib import suppress
from pathlib import Path

import click

from gradiometer.cli.options import fail_on_option, json_option, no_open_option
from gradiometer.cli.options import runs as runs_of
from gradiometer.cli.outcome import conclude, open_in_browser
from gradiometer.errors import BadArgument, RunNotFound


@click.command(
    short_help="Print the findings of a run and open its page, once or live.",
    epilog="Example: gradiometer show runs/digits-cnn-1",
)
@click.argument("runs", type=click.Path(path_type=Path), shell_complete=runs_of, nargs=-1)
@click.option(
    "--live",
    is_flag=True,
    help=(
        "Serve the page of RUNS to this machine alone, and update it while they continue, are "
        "killed or are resumed. End it with Ctrl-C."
    ),
)
@click.option("--port", type=int, default=None, help="Port for --live. Default: any free port.")
@click.option(
    "--png",
    "charts",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder for the charts, as PNG.",
)
@click.option(
    "--gauge",
    "gauges",
    multiple=True,
    metavar="MODULE:CLASS",
    help="A custom gauge that the run was measured with.",
)
@fail_on_option("cannot tell", "look", "act")
@no_open_option
@json_option
def show(
    runs: tuple[Path, ...],
    live: bool,
    port: int | None,
    charts: Path | None,
    gauges: tuple[str, ...],
    fail_on: str | None,
    no_open: bool,
    as_json: bool,
) -> int:
    """Print the findings of a run, finished or not, write its page and open it; with --live, serve
    the page.

    RUNS are the folders of runs; one without --live. Default: the newest run in the folder runs.
    Training is not affected: the command only reads files of the run.
    """
    if live:
        if charts is not None or gauges or as_json or fail_on:
            raise BadArgument(
                "`--live` serves the page: leave out --png, --gauge, --json and --fail-on."
            )
        from gradiometer.report.live import Live

        with suppress(KeyboardInterrupt):  # the normal end, also before the first page
            # The address is one that nobody can guess.
            served = Live(runs or _newest(), port or 0)
            names = ", ".join(followed.run.name for followed in served.followed)
            click.echo(f"{names}  {served.address}")
            click.echo("Press Ctrl-C to end.", err=True)
            open_in_browser(served.address, no_open=no_open)
            served.serve()
        return 0
    if port is not None:
        raise BadArgument("`--port` is where --live serves the page: give --live, too.")
    if len(runs) > 1:
        raise BadArgument(
            f"`RUNS` must be one run without --live, got {len(runs)}: `gradiometer runs` lists "
            "several."
        )
    from gradiometer.gauges import imported_gauge
    from gradiometer.run.reader import Run

    (path,) = runs or _newest()
    run = Run.open(path, gauges=[type(imported_gauge(name)) for name in gauges])
    return conclude(run, as_json=as_json, no_open=no_open, fail_on=fail_on, charts=charts)


def _newest() -> tuple[Path, ...]:
    from gradiometer.run.folder import run_folders

    found = run_folders("runs")
    if not found:
        raise RunNotFound(
            "there is no run in the folder `runs`: name one, or start one with `gradiometer train`."
        )
    return (found[0],)
