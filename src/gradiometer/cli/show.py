"""`gradiometer show`: the page of a run, live."""

import sys
import webbrowser
from contextlib import suppress
from pathlib import Path

import click


@click.command(epilog="Example: gradiometer show runs/digits-cnn-1")
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1)
@click.option("--port", type=int, default=0, help="Port to listen on. Default: any free port.")
@click.option("--no-open", is_flag=True, help="Do not open the page in a browser.")
def show(runs: tuple[Path, ...], port: int, no_open: bool) -> int:
    """Show the page of RUNS during training. Default: the newest run in the folder runs.

    The page is served only to this machine, under an address that nobody can guess. It is updated while the run
    continues, is killed or is resumed. Training is not affected: the command only reads files. End it with Ctrl-C.
    """
    from gradiometer.report.live.serve import Live

    live = Live(runs or _newest(), port)
    click.echo(f"{', '.join(followed.name for followed in live.followed)}  {live.address}")
    click.echo("Press Ctrl-C to end.", err=True)
    if not no_open and sys.stdout.isatty():
        webbrowser.open(live.address)
    with suppress(KeyboardInterrupt):  # the normal end
        live.serve()
    return 0


def _newest() -> tuple[Path, ...]:
    from gradiometer.errors import RunNotFound
    from gradiometer.run.folder import run_folders

    found = run_folders("runs")
    if not found:
        raise RunNotFound("there is no run in the folder `runs`: name one, or start one with `gradiometer train`.")
    return (found[0],)
