"""The snapshots of a training run, taken at the end of each cycle, each with its own BatchNorm
statistics."""

from functools import partial

from gradiometer.convergence.averaging import tracking_layers
from gradiometer.exploration.ensembles.snapshots import SnapshotCollector
from gradiometer.problems.problem import refresh
from gradiometer.run.artifacts import save_snapshot
from gradiometer.run.folder import RunFolder
from gradiometer.train.training import Training


def collector_of(training: Training, folder: RunFolder) -> SnapshotCollector | None:
    """The collector that writes this training's snapshots into its run folder, or None without
    snapshots."""
    if training.cycle is None:
        return None
    prepare = None
    if tracking_layers(training.model):
        size = training.configuration.batch_size
        prepare = partial(refresh, training.problem, training.data, size=size)
    return SnapshotCollector(training.cycle, partial(save_snapshot, folder.snapshots_path), prepare)
