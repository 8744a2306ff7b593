"""The training of a run for commands that measure it: at its start, or at its last checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradiometer.errors import RunDamaged, RunNotFound

if TYPE_CHECKING:
    from gradiometer.run.reader import Run
    from gradiometer.train.training import Training


def is_run(target: str) -> bool:
    """True if a command's target is a folder or the path of one, not the name of a problem."""
    from gradiometer.problems.registry import NAMES

    return (
        target not in NAMES
        and ":" not in target
        and (Path(target).is_dir() or len(Path(target).parts) > 1)
    )


def training_at_start(path: Path, verb: str) -> "tuple[Training, Run]":
    """The training of a run before its first step, and the run. `verb` is the command that needs
    it."""
    from gradiometer.run.budget import Budget
    from gradiometer.run.problem import configuration_of, problem_of
    from gradiometer.run.reader import Run
    from gradiometer.train.training import Training

    run = Run.open(path)
    return Training(problem_of(run, verb), configuration_of(run, verb), Budget(0.0)), run


def load_last_checkpoint(training: "Training", path: Path) -> None:
    """Load the last complete checkpoint of a run into its training.

    Raises:
        RunNotFound: The run has no checkpoint.
        RunDamaged: None of its checkpoints can be read.
    """
    from gradiometer.run.checkpoints import load_latest
    from gradiometer.run.folder import RunFolder
    from gradiometer.train.restoring import restore

    folder = RunFolder.open(path)
    checkpoint, warnings = load_latest(
        folder, use=lambda found: restore(training, found.tensors, found.state)
    )
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if checkpoint is None and warnings:
        raise RunDamaged(
            f"`{path}` has no checkpoint that can be read, so there is no model to measure."
        )
    if checkpoint is None:
        raise RunNotFound(f"`{path}` has no checkpoint, so there is no model to measure.")
    # if the run was stopped, its checkpoint is at the point of the gradients
    training.end_at_average()
