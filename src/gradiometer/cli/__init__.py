"""The command line, one file per command. Slow imports wait until a command runs."""

import errno
import json
import sys

import click

from gradiometer import __version__
from gradiometer.cli.batch import batch
from gradiometer.cli.boundary import READER_ENDED, REFUSED, check_environment, ended_by_sigterm, report_error
from gradiometer.cli.certify import certify
from gradiometer.cli.compare import compare
from gradiometer.cli.demo import demo
from gradiometer.cli.doctor import doctor
from gradiometer.cli.ensemble import ensemble
from gradiometer.cli.export import export
from gradiometer.cli.fork import fork
from gradiometer.cli.lecture import lecture
from gradiometer.cli.report import report
from gradiometer.cli.resume import resume
from gradiometer.cli.runs import runs
from gradiometer.cli.sample import sample
from gradiometer.cli.schedule import schedule
from gradiometer.cli.selftest import selftest
from gradiometer.cli.sharpness import sharpness
from gradiometer.cli.show import show
from gradiometer.cli.streams import Streams
from gradiometer.cli.train import train
from gradiometer.cli.tune import tune
from gradiometer.errors import user_line

EXIT_CODES = """\
Exit codes: 0 done; 1 a bug in gradiometer; 2 bad input; 3 a finding at or above --fail-on;
4 training diverged; 5 interrupted, the run can be resumed; 6 the system refused a file, space or memory.
GRADIOMETER_DEBUG=1 adds the traceback to an error.
"""


GONE = {
    "split": "`split` is gone: it bought its choice for 1.5 to 3.25 trainings, and snapshots of one training are worth "
    "as much where it pays. Use `gradiometer train --snapshots 5`, then `gradiometer ensemble`.",
}
"""Commands of the version before, and what to use now."""


class Commands(click.Group):
    """The commands. A name of the version before is answered with what to use now."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name."""
        if args[0] in GONE:
            raise click.UsageError(GONE[args[0]], ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gradiometer")
def gradiometer() -> None:
    """Measure, with an error bar, what stochastic gradient descent does to a training run.

    Start with: gradiometer demo
    """


for verb in (
    *(demo, train, tune, resume, show, report, runs, compare, export, fork),
    *(batch, sharpness, schedule, certify, ensemble, sample),
    *(doctor, lecture, selftest),
):
    gradiometer.add_command(verb)


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    with Streams() as streams:
        code = _run(arguments)
        failure = streams.failure()
        if failure is not None and failure.errno == errno.EPIPE:
            code = code if code in (1, 2) else READER_ENDED
        elif failure is not None:
            code = code or REFUSED
            reason = (failure.strerror or str(failure)).lower()
            click.echo(f"error: the output could not be written: {reason}.", err=True)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run a command. Returns its exit code."""
    try:
        with ended_by_sigterm():
            check_environment()
            code = gradiometer.main(args=arguments, standalone_mode=False, obj=arguments)
    except click.ClickException as error:
        error.show()
        sentence, code = error.format_message(), error.exit_code
    except click.Abort as error:
        sentence, code = report_error(error.__cause__ or KeyboardInterrupt(), arguments)
    except BaseException as error:
        if isinstance(error, SystemExit) and not user_line(error):  # click's own, as after completing a word
            raise
        sentence, code = report_error(error, arguments)
    else:
        return code if isinstance(code, int) else 0
    if "--json" in arguments:
        click.echo(json.dumps({"error": sentence, "exit_code": code}))
    return code
