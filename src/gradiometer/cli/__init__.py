"""The command line, one file per command. Slow imports wait until a command runs."""

import errno
import json
import os
import sys
import traceback
from typing import Any

import click

from gradiometer import __version__
from gradiometer.cli.batch import batch
from gradiometer.cli.certify import certify
from gradiometer.cli.compare import compare
from gradiometer.cli.demo import demo
from gradiometer.cli.doctor import doctor
from gradiometer.cli.ensemble import ensemble
from gradiometer.cli.export import export
from gradiometer.cli.lecture import lecture
from gradiometer.cli.report import report
from gradiometer.cli.resume import resume
from gradiometer.cli.runs import runs
from gradiometer.cli.sample import sample
from gradiometer.cli.schedule import schedule
from gradiometer.cli.selftest import selftest
from gradiometer.cli.sharpness import sharpness
from gradiometer.cli.show import show
from gradiometer.cli.train import train
from gradiometer.errors import GradiometerError, StorageFailed

EXIT_CODES = """\
Exit codes: 0 done; 1 a bug in gradiometer; 2 bad input; 3 a finding at or above --fail-on;
4 training diverged; 5 interrupted, the run can be resumed; 6 a file could not be written.
"""

_SYSTEM = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOENT, errno.ENOTDIR}
"""Errors of the operating system that are not bugs: no space, no permission, a failing disk, a deleted folder."""


class Verbs(click.Group):
    """The commands. They end without an error if the reader of their output, such as `head`, has ended."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the final flush
            return 0


@click.group(cls=Verbs, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gradiometer")
def gradiometer() -> None:
    """Measure, with an error bar, what stochastic gradient descent does to a training run.

    Start with: gradiometer demo
    """


for verb in (
    *(demo, train, resume, show, report, runs, compare, export),
    *(batch, sharpness, schedule, certify, ensemble, sample),
    *(doctor, lecture, selftest),
):
    gradiometer.add_command(verb)


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = gradiometer.main(args=arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
        _print_json(error.format_message(), code, arguments)
    except (click.Abort, KeyboardInterrupt):
        code = _report("stopped", 5, arguments)
    except GradiometerError as error:
        code = _report(str(error), error.exit_code, arguments)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _SYSTEM:
            place = f"`{error.filename}`" if error.filename else "the output"
            sentence = f"{place} could not be read or written: {(error.strerror or str(error)).lower()}."
            code = _report(sentence, StorageFailed.exit_code, arguments if error.filename else [])
        else:
            traceback.print_exc()
            code = _report("this is a bug in gradiometer; the traceback above shows where", 1, arguments)
    sys.exit(code if isinstance(code, int) else 0)


def _report(sentence: str, code: int, arguments: list[str]) -> int:
    """Print an error on standard error and, with `--json`, as an object on standard output. Returns the code."""
    click.echo(f"error: {sentence}", err=True)
    _print_json(sentence, code, arguments)
    return code


def _print_json(sentence: str, code: int, arguments: list[str]) -> None:
    if "--json" in arguments:
        click.echo(json.dumps({"error": sentence, "exit_code": code}))
