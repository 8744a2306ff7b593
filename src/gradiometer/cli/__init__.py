"""The command line: one file a verb. Nothing heavy is imported before a verb runs."""

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
from gradiometer.cli.sample import sample
from gradiometer.cli.schedule import schedule
from gradiometer.cli.selftest import selftest
from gradiometer.cli.sharpness import sharpness
from gradiometer.cli.show import show
from gradiometer.cli.train import train
from gradiometer.errors import GradiometerError

EXIT_CODES = """\
Exit codes: 0 done; 1 a bug of ours; 2 bad input; 3 a finding at or above --fail-on;
4 training diverged; 5 interrupted, and resumable.
"""


class Verbs(click.Group):
    """The verbs, which end quietly where whoever read our output has left: click would call that a failure."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb that was asked for."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed
            return 0


@click.group(cls=Verbs, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gradiometer")
def gradiometer() -> None:
    """Measure, with an error bar, what stochastic gradient descent does to a training run.

    Start with: gradiometer demo
    """


for verb in (
    *(demo, train, resume, show, report, compare, export),
    *(batch, sharpness, schedule, certify, ensemble, sample),
    *(doctor, lecture, selftest),
):
    gradiometer.add_command(verb)


def main(arguments: list[str] | None = None) -> None:
    """Run a command and end the process with its documented exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = gradiometer.main(args=arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
        _tell_json(error.format_message(), code, arguments)
    except (click.Abort, KeyboardInterrupt):
        code = _tell("stopped", 5, arguments)
    except GradiometerError as error:
        code = _tell(str(error), error.exit_code, arguments)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            code = _tell("what was to be printed or written did not fit: no space left on device", 2, [])
        else:
            traceback.print_exc()
            code = _tell("this is a bug in gradiometer; the lines above say where", 1, arguments)
    sys.exit(code if isinstance(code, int) else 0)


def _tell(sentence: str, code: int, arguments: list[str]) -> int:
    """An error as one sentence on standard error and, where JSON was asked for, as an object on standard output."""
    click.echo(f"error: {sentence}", err=True)
    _tell_json(sentence, code, arguments)
    return code


def _tell_json(sentence: str, code: int, arguments: list[str]) -> None:
    if "--json" in arguments:
        click.echo(json.dumps({"error": sentence, "exit_code": code}))
