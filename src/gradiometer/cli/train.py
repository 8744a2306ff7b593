"""`gradiometer train`: train a problem and measure it; `gradiometer resume`: continue a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradiometer.cli.options import (
    configuration_from,
    configuration_options,
    fail_on_option,
    json_option,
    no_open_option,
    out_option,
    problems,
    settings_of,
)
from gradiometer.cli.options import runs as runs_of
from gradiometer.cli.outcome import conclude, follows
from gradiometer.cli.sections import SectionedCommand
from gradiometer.cli.tune import (
    BUDGET,
    CHOSEN,
    configuration_to_tune,
    lanes_in,
    one_of,
    say_choice,
    several_in,
    several_options,
    tuned,
)
from gradiometer.errors import BadArgument

if TYPE_CHECKING:
    from gradiometer.tuning.of_problem import ProblemTuned


# The headings of the help screen of `train`, with their options.
SECTIONS = {
    "Basic options": (
        *("model", "learning_rate", "optimizer", "epochs", "steps", "batch_size", "schedule"),
        *("seed", "device", "tuning"),
    ),
    "Output": ("out", "name", "as_json", "no_open", "fail_on"),
    "Advanced: training": (
        *("momentum", "weight_decay", "accumulation", "snapshots", "cool", "tune_budget"),
        *("file", "settings"),
    ),
    "Advanced: measuring": ("budget", "every", "gauges"),
}


@click.command(
    cls=SectionedCommand,
    sections=SECTIONS,
    short_help="Train a built-in problem or your module:function, and measure the training.",
    epilog="Example: gradiometer train fashion-mnist --model cnn --epochs 2 --lr 0.1",
)
@click.argument("problem", required=False, shell_complete=problems)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="TOML file with the same names as the flags. Flags win over it.",
)
@click.option(
    "--name",
    default=None,
    help="Name of the run, to which a number is added. Default: problem and model.",
)
@click.option(
    "--tune",
    "tuning",
    is_flag=True,
    help=(
        "Choose the optimizer and the learning rate by a race, as `gradiometer tune` does. The "
        "winner continues as the training: its rate stays for half of the steps, and then falls "
        "linearly to zero."
    ),
)
@click.option(
    "--tune-budget",
    type=float,
    default=None,
    metavar="RUNS",
    help=(
        "With --tune: the most that tuning and forks may cost besides the training, in units of "
        "the training. Tuning uses up to 1. The remainder pays for forks at 10, 30 and 60 % of "
        "training; each may halve or double the rate.  "
        f"[default: {BUDGET}]"
    ),
)
@several_options
@configuration_options(
    "model",
    "learning_rate",
    "epochs",
    "steps",
    "schedule",
    "snapshots",
    "cool",
    "accumulation",
    "budget",
    "gauges",
    "every",
    "seed",
    "device",
)
@out_option
@json_option
@no_open_option
@fail_on_option("cannot tell", "look", "act")
def train(
    problem: str | None,
    file: Path | None,
    name: str | None,
    tuning: bool,
    tune_budget: float | None,
    out: Path,
    as_json: bool,
    no_open: bool,
    fail_on: str | None,
    **flags: Any,
) -> int:
    """Train PROBLEM with SGD or AdamW and measure the training.

    PROBLEM is digits (the default), fashion-mnist, linear-regression, logistic-regression,
    one-dimensional, quadratic, double-well, counterexample, or your own as module:function.
    """
    from gradiometer.cli.progress import watching

    flags["problem"] = problem
    quiet = as_json or follows()
    if tune_budget is not None and not tuning:
        raise BadArgument(
            "`--tune-budget` is about the tuning before the training: give --tune, too."
        )
    budget = BUDGET if tune_budget is None else tune_budget
    if tuning:
        made = _tune(file, flags, min(budget, BUDGET), out, quiet)
        path = made.begin(out, name, fork_budget=max(budget - BUDGET, 0.0))
    else:
        # No flag may have several values without a tuning.
        several = several_in(flags)
        for flag, values in several.items():
            if len(values) > 1:
                raise BadArgument(
                    f"`{flag}` has {len(values)} values: give --tune, too, which chooses one of "
                    "them."
                )
        configuration = configuration_from(file, {**flags, **one_of(several)})
    with watching(quiet) as progress:
        from gradiometer.run.problem import problem_for
        from gradiometer.train import resume
        from gradiometer.train import train as start

        if tuning:
            run = resume(path, progress)
        else:
            run = start(problem_for(configuration), configuration, out, progress, name=name)
    return conclude(run, as_json=as_json, no_open=no_open, fail_on=fail_on)


def _tune(
    file: Path | None, flags: dict[str, Any], budget: float, out: Path, quiet: bool
) -> "ProblemTuned":
    """The tuning before the training."""
    given = settings_of(flags)
    chosen = [f"--{name.replace('_', '-')}" for name in CHOSEN if name in given]
    if chosen:
        raise BadArgument(f"`--tune` chooses the rate itself: leave out {', '.join(chosen)}.")
    if follows():
        raise BadArgument(
            "`--tune` works in one process: tune first, then give the file that it writes by "
            "--config."
        )
    several = lanes_in(file, flags)
    if len(several["batch_size"]) > 1:
        raise BadArgument(
            "`--tune` takes one batch size: choose it with `gradiometer tune --aim`, and give its "
            "file by --config."
        )
    configuration = configuration_to_tune(file, {**flags, **one_of(several)})
    made = tuned(configuration, out, budget, "here", quiet=quiet, several=several, aim=None)
    if not quiet:
        say_choice(made)
        click.echo()
    made.save()
    return made


@click.command(epilog="Example: gradiometer resume runs/digits-mlp-1")
@click.argument("run", type=click.Path(path_type=Path), shell_complete=runs_of)
@json_option
@no_open_option
def resume(run: Path, as_json: bool, no_open: bool) -> int:
    """Continue RUN from its last complete checkpoint.

    The final weights are the same, bit for bit, as those of a run that was never stopped.
    """
    from gradiometer.cli.progress import watching

    with watching(as_json or follows()) as progress:
        from gradiometer.train import resume as resume_run

        ended = resume_run(run, progress)
    return conclude(ended, as_json=as_json, no_open=no_open)
