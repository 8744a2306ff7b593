"""`gradiometer show`: the page of a run, live."""

import sys
import webbrowser
from contextlib import suppress
from pathlib import Path

import click


@click.command(epilog="Example: gradiometer show runs/digits-cnn-1")
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1)
@click.option("--port", type=int, default=0, help="Port to listen on; left out, one that is free.")
@click.option("--no-open", is_flag=True, help="Do not open the page in a browser.")
def show(runs: tuple[Path, ...], port: int, no_open: bool) -> int:
    """Show the page of RUNS while they train; left out, of the newest run in the folder runs.

    The page is served to this machine alone, under an address that nobody can guess, and drawn anew as the run goes
    on, is killed, or is taken up again. Training is not touched: its files are read. End it with Ctrl-C.
    """
    from gradiometer.report.live.serve import Live

    live = Live(runs or _newest(), port)
    click.echo(f"{', '.join(followed.name for followed in live.followed)}  {live.address}")
    click.echo("Ctrl-C ends it.", err=True)
    if not no_open and sys.stdout.isatty():
        webbrowser.open(live.address)
    with suppress(KeyboardInterrupt):  # how it is meant to end
        live.serve()
    return 0


def _newest() -> tuple[Path, ...]:
    from gradiometer.errors import BadArgument
    from gradiometer.run.folder import run_folders

    found = run_folders("runs")
    if not found:
        raise BadArgument("there is no run in the folder `runs`: name one, or start one with gradiometer train.")
    return (found[0],)
