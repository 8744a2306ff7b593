"""`gradiometer tune`: choose the learning rate of a training before it starts."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gradiometer.cli.options import (
    configuration_options,
    given_by,
    json_option,
    out_option,
    pool_option,
    problems,
)
from gradiometer.cli.outcome import fill, printed_json
from gradiometer.cli.sections import SectionedCommand
from gradiometer.errors import BadArgument, Diverged, Interrupted
from gradiometer.measurement.estimate import significant
from gradiometer.run.configuration import Configuration

if TYPE_CHECKING:
    from gradiometer.tuning.of_problem import ProblemTuned

# Settings that tuning chooses or does not use, so that `--set` refuses them.
UNUSED = (
    *(
        "learning_rate",
        "schedule",
        "snapshots",
        "cool",
        "accumulation",
        "parts",
        "probe",
        "budget",
        "gauges",
    ),
    *(
        "check_edge",
        "check_endpoint",
        "every",
        "level",
        "checkpoint_seconds",
        "keep_checkpoints",
        "checkpoint_at",
    ),
    "fork_budget",
)

# Default budget besides the training, in units of the training.
BUDGET = 1.0

# The optimizers that race if none is given.
RACE = ("sgd", "adamw")

# Flags that take several values with commas between them, and what each value is.
SEVERAL: dict[str, Callable[[str], Any]] = {
    "optimizer": str.strip,
    "momentum": float,
    "weight_decay": float,
    "batch_size": int,
}

# The headings of the help screen, with their options.
SECTIONS = {
    "Basic options": ("model", "optimizer", "epochs", "steps", "batch_size", "budget"),
    "Advanced options": ("momentum", "weight_decay", "aim", "file", "settings", "pool"),
    "Output": ("out", "as_json"),
}

Command = TypeVar("Command", bound=Callable[..., Any])

# Settings that are not given together with `--tune`.
CHOSEN = ("learning_rate", "schedule", "snapshots", "cool", "fork_budget")

# SGD's momentum if none is given.
MOMENTUM = {"momentum": 0.9, "nesterov": True}


def several_options(command: Command) -> Command:
    """Add the flags of which a tuning takes several values with commas between them."""
    for option in (
        click.option(
            "--batch-size",
            "--batch",
            "-b",
            "batch_size",
            metavar="SIZES",
            default=None,
            help=(
                "Batch size B. `gradiometer tune` takes several with commas, such as 32,64,128, to "
                "choose from for an --aim.  [default: 32]"
            ),
        ),
        click.option(
            "--weight-decay",
            metavar="NUMBERS",
            default=None,
            help=(
                "Weight decay: this times the parameters is added to ĝ; with adamw, this times η "
                "times the parameters is subtracted from them. A tuning takes several with commas, "
                "such as 0,1e-4, and chooses by training loss, which often is lowest for the "
                "smallest.  [default: 0]"
            ),
        ),
        click.option(
            "--momentum",
            metavar="NUMBERS",
            default=None,
            help=(
                "Momentum of SGD in [0, 1): heavy ball unless --set nesterov=yes. A tuning takes "
                "several with commas, such as 0,0.9.  [default: 0; of a tuning 0.9, Nesterov]"
            ),
        ),
        click.option(
            "--optimizer",
            metavar="NAMES",
            default=None,
            help=(
                "sgd, adamw with PyTorch's defaults for β and ε, or schedulefree: schedule-free "
                "SGD. A tuning takes several with commas, such as sgd,adamw,schedulefree, and "
                "chooses by training loss, each at its own rate.  [default: sgd; of a tuning "
                "sgd,adamw]"
            ),
        ),
    ):
        command = option(command)
    return command


@click.command(
    cls=SectionedCommand,
    sections=SECTIONS,
    short_help="Choose the optimizer and the learning rate by short trial runs.",
    epilog="Example: gradiometer tune digits --model cnn --epochs 5 --budget 1.0",
)
@click.argument("problem", required=False, shell_complete=problems)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="TOML file with the same names as the flags. Flags win over it.",
)
@click.option(
    "--budget",
    type=float,
    default=BUDGET,
    show_default=True,
    metavar="RUNS",
    help="The most that tuning may cost besides the training, in units of the training.",
)
@click.option(
    "--aim",
    type=click.Choice(["loss", "test", "time"]),
    default=None,
    help=(
        "The loss by which trial runs are compared: the training loss, or the loss on a tenth of the "
        "training examples, which is held out (--set held_out=0.2 for more), after the same number "
        "of examples for several batch sizes; or the training loss of several batch sizes after "
        "the same time on this machine, by measured step times. The length given is that at the "
        "first size.  [default: loss, for one batch size]"
    ),
)
@several_options
@configuration_options("model", "epochs", "steps")
@pool_option
@out_option
@json_option
def tune(
    problem: str | None,
    file: Path | None,
    budget: float,
    pool: str,
    aim: str | None,
    out: Path,
    as_json: bool,
    **flags: Any,
) -> None:
    """Choose the optimizer and the learning rate for training PROBLEM by a race.

    For each optimizer, gradiometer finds the rate at which a momentum-length step overshoots on two
    batches. Trial runs at several rates around it start from the initial weights, and those with
    the higher losses are stopped. SGD with Nesterov momentum 0.9 and AdamW race unless --optimizer is given,
    and so do several momenta, weight decays, or batch sizes for an --aim. The choice is written as
    a TOML file for `gradiometer train --config`; `gradiometer train --tune` continues the
    winner.

    PROBLEM is digits (the default), fashion-mnist, linear-regression, logistic-regression,
    one-dimensional, quadratic, double-well, counterexample, or your own as module:function. If the
    command is stopped, the same command continues.
    """
    for name in flags["settings"]:
        if name in UNUSED:
            raise BadArgument(f"`--set` {name}: a tuning chooses or does not use it: leave it out.")
    several = lanes_in(file, flags)
    configuration = configuration_to_tune(file, {"problem": problem, **flags, **one_of(several)})
    made = tuned(configuration, out, budget, pool, quiet=as_json, several=several, aim=aim)
    if as_json:
        with printed_json(
            {**made.tuned.to_dict(), "folder": str(made.path), "file": None}
        ) as result:
            result["file"] = str(made.save())
        return
    say_choice(made)
    file = made.save()
    click.echo(f"\nfile  {file}\nrun   gradiometer train --config {file}")


def configuration_to_tune(file: Path | None, flags: dict[str, Any]) -> Configuration:
    """The configuration from flags and a file; with momentum for SGD if neither gives it."""
    given = given_by(file, flags)
    silent = not given.keys() & MOMENTUM.keys() and given.get("optimizer", "sgd") == "sgd"
    return Configuration.from_mapping((MOMENTUM if silent else {}) | given, "")


def several_in(flags: dict[str, Any]) -> dict[str, list[Any]]:
    """The values of the flags that take several; none for a flag that is not given."""
    found = {}
    for name, kind in SEVERAL.items():
        given = flags.get(name)
        try:
            found[name] = [] if given is None else [kind(part) for part in given.split(",")]
        except ValueError:
            words = "a whole number" if kind is int else "a number"
            raise BadArgument(
                f"`{name}` must be {words}, or several with commas between them, got {given!r}."
            ) from None
    return found


def lanes_in(file: Path | None, flags: dict[str, Any]) -> dict[str, list[Any]]:
    """The same for a tuning, in which optimizers race by default."""
    found = several_in(flags)
    if not given_by(file, flags).keys() & {"optimizer", "momentum", "nesterov"}:
        found["optimizer"] = ["sgd"] if len(found["batch_size"]) > 1 else list(RACE)
    return found


def one_of(several: dict[str, list[Any]]) -> dict[str, Any]:
    """One value of each flag that is given, which fit together: a configuration has no lists."""
    one = {name: values[0] for name, values in several.items() if values}
    if "sgd" in several["optimizer"]:
        one["optimizer"] = "sgd"
    if several["momentum"]:
        one["momentum"] = max(several["momentum"])  # Nesterov momentum needs one above zero
    return one


def tuned(
    configuration: Configuration,
    out: Path,
    budget: float,
    pool: str,
    *,
    quiet: bool,
    several: dict[str, list[Any]],
    aim: Any,
) -> "ProblemTuned":
    """Tune a problem, and say where each lane has ended and how long the rest will take."""
    from gradiometer.cli.progress import counting
    from gradiometer.run.problem import problem_for
    from gradiometer.tuning.of_problem import tune_problem

    problem = problem_for(configuration)
    try:
        with counting("lanes", quiet=quiet) as counter:
            found = tune_problem(
                problem,
                configuration,
                out,
                budget=budget,
                pool=pool,
                **{name: values for name, values in several.items() if values},
                aim=aim,
                progress=counter.line,
            )
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(
            "stopped: the same command continues from the trial runs as they are."
        ) from None
    if not math.isfinite(found.tuned.rungs[-1][0].loss):
        rates = sorted(one.lane.rate for one in found.tuned.rungs[0])
        raise Diverged(
            f"training diverged at all rates, from {significant(rates[0])} to "
            f"{significant(rates[-1])}: nothing is chosen. Look at the loss, at the examples and "
            "at the weight decay."
        )
    return found


def say_choice(made: "ProblemTuned") -> None:
    """Print what was chosen and why, and the lines to paste."""

    for sentence in made.tuned.sentences:
        click.echo(fill(sentence))
    click.echo(f"\n{made.tuned.line}")
