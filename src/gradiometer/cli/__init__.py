"""The command line, one file per command. Slow imports wait until a command runs."""

import errno
import json
import sys

import click

from gradiometer import __version__
from gradiometer.cli.boundary import (
    READER_ENDED,
    REFUSED,
    Streams,
    check_environment,
    ended_by_sigterm,
    report_error,
    shorten,
)
from gradiometer.cli.demo import demo
from gradiometer.cli.doctor import doctor
from gradiometer.cli.ensemble import ensemble
from gradiometer.cli.fork import fork
from gradiometer.cli.measure import measure
from gradiometer.cli.runs import runs
from gradiometer.cli.sections import SectionedGroup
from gradiometer.cli.show import show
from gradiometer.cli.train import resume, train
from gradiometer.cli.tune import tune
from gradiometer.errors import user_line
from gradiometer.extensions import Registry

EXIT_CODES = """\
Exit codes: 0 done; 1 a bug in gradiometer; 2 bad input; 3 a finding at or above --fail-on;
4 training diverged; 5 interrupted, the run can be resumed; 6 the system refused a file, space or memory.
GRADIOMETER_DEBUG=1 adds the traceback to an error.
"""


# The commands, in the order in which they are needed.
COMMANDS: Registry[click.Command] = Registry(
    "gradiometer.commands",
    "command",
    {
        str(command.name): command
        for command in (*(demo, train, resume, tune, fork, measure, ensemble, runs, show, doctor),)
    },
    lambda name, found: "" if isinstance(found, click.Command) else "is no click command",
)


# The headings of the first screen. Commands of other packages follow them.
SECTIONS = {
    "Begin": ("demo",),
    "Diagnose": ("show", "doctor", "runs"),
    "Test a change": ("fork",),
    "Train": ("train", "resume", "tune"),
    "Measure more": ("measure", "ensemble"),
    "Learn": ("learn",),
}


class Commands(SectionedGroup):
    """The commands of gradiometer and of installed packages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name."""
        return COMMANDS.get(cmd_name)


@click.group(
    cls=Commands,
    sections=SECTIONS,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="gradiometer")
@click.option(
    "--trust",
    is_flag=True,
    help=(
        "Import and call the code that a run names, though the run was made by another user or on "
        "another machine."
    ),
)
@click.pass_context
def gradiometer(context: click.Context, trust: bool) -> None:
    """Find out what limits a training run, and test what to change.

    Start with: gradiometer demo

    Your own PyTorch loop needs no command. In Python:

    \b
    from gradiometer import watch
    with watch(model, optimizer) as w:
        ...  # your loop; call w.step(loss) after loss.backward()
    print(w.findings())

    Then `gradiometer show` opens the page of that run.
    """
    if trust:
        from gradiometer.run.trust import trusting

        context.with_resource(trusting())


for verb in COMMANDS.built_in.values():
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
        vars(error)["message"] = shorten(error.message)
        error.show()
        sentence, code = error.format_message(), error.exit_code
    except click.Abort as error:
        sentence, code = report_error(error.__cause__ or KeyboardInterrupt(), arguments)
    except BaseException as error:
        # click's own, as after completing a word
        if isinstance(error, SystemExit) and not user_line(error):
            raise
        sentence, code = report_error(error, arguments)
    else:
        return code if isinstance(code, int) else 0
    if "--json" in arguments:
        click.echo(json.dumps({"error": sentence, "exit_code": code}))
    return code
