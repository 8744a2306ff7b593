"""The snapshots of a training run, taken at the end of each cycle, each with its own BatchNorm statistics."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from gradiometer.convergence.averaging import refresh_batch_norm, tracked
from gradiometer.exploration.ensembles.snapshots import SnapshotCollector
from gradiometer.measurement.batch import Batch
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem
from gradiometer.problems.user_code import user_code
from gradiometer.run.folder import RunFolder
from gradiometer.run.snapshots import save_snapshot
from gradiometer.train.training import Training


def collector_of(training: Training, folder: RunFolder) -> SnapshotCollector | None:
    """The collector that writes this training's snapshots into its run folder, or None without snapshots."""
    if training.cycle is None:
        return None
    prepare = None
    if tracked(training.model):
        size = training.configuration.batch_size
        prepare = partial(refresh, training.problem, training.data, size=size)
    return SnapshotCollector(training.cycle, partial(save_snapshot, folder.snapshots_path), prepare)


def refresh(problem: Problem, data: Examples, model: nn.Module, *, size: int) -> None:
    """Re-estimate BatchNorm's statistics on all training data, in random batches of equal size."""
    with user_code("loss", "while BatchNorm's statistics were re-estimated"):
        refresh_batch_norm(model, _shuffled(data, size), problem.loss)


def _shuffled(data: Examples, size: int) -> Iterator[Batch]:
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    for part in order.split(size):
        if len(part) == min(size, len(data)):
            yield data.batch(part)
