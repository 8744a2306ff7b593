"""A point of training that verbs look at: the training that stands there, and the run it belongs to."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from gradiometer.run.reader import Run
    from gradiometer.train.training import Training


@dataclass(frozen=True)
class Place:
    """A point of training: a training that stands there, and its run, if it has one."""

    training: "Training"
    run: "Run | None" = None


def is_run(target: str) -> bool:
    """Whether a folder is meant: one that is there, or a path to one."""
    from gradiometer.problems.registry import NAMES

    return target not in NAMES and ":" not in target and (Path(target).is_dir() or len(Path(target).parts) > 1)


def started_again(path: Path) -> "tuple[Training, Run]":
    """The training of a run as it stood before its first step, and the run."""
    from gradiometer.run.budget import Budget
    from gradiometer.run.reader import Run
    from gradiometer.train.loop import problem_of
    from gradiometer.train.training import Training

    run = Run.open(path)
    return Training(problem_of(run), run.configuration, Budget(0.0)), run


def restored(training: "Training", path: Path) -> None:
    """Put a training where the last whole checkpoint of its run stands."""
    from gradiometer.errors import BadArgument
    from gradiometer.run.checkpoints import load_latest
    from gradiometer.run.folder import RunFolder
    from gradiometer.train.state import restore

    checkpoint, warnings = load_latest(RunFolder.open(path))
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    if checkpoint is None:
        raise BadArgument(f"`{path}` has no checkpoint: there is no model to look at.")
    restore(training, checkpoint.tensors, checkpoint.state)
