"""`gradiometer resume`: continue a run that was stopped or killed."""

from pathlib import Path

import click

from gradiometer.cli.completion import runs
from gradiometer.cli.options import json_option, no_open_option


@click.command(epilog="Example: gradiometer resume runs/digits-mlp-1")
@click.argument("run", type=click.Path(path_type=Path), shell_complete=runs)
@json_option
@no_open_option
def resume(run: Path, as_json: bool, no_open: bool) -> int:
    """Continue RUN from its last complete checkpoint.

    The final weights are the same, bit for bit, as those of a run that was never stopped.
    """
    from gradiometer.cli.outcome import conclude, follows
    from gradiometer.cli.panel import watching

    with watching(as_json or follows()) as panel:
        from gradiometer.train import resume as resume_run

        ended = resume_run(run, panel)
    return conclude(ended, as_json=as_json, no_open=no_open, fail_on=None)
