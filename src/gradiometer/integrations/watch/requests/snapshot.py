"""A snapshot of the model of a watched loop, as a member of an ensemble."""

from pathlib import Path

from gradiometer.exploration.ensembles.snapshots import Snapshot
from gradiometer.integrations.watch.requests.request import Request
from gradiometer.run.artifacts import save_snapshot, snapshot_paths


def snapshot(request: Request) -> Path | None:
    """Write the model into the run as a member of its ensemble, and return the file.

    Call it at the end of a cycle of the learning rate. One of the same step is replaced.

    Raises:
        BadArgument: There was no step yet.
        StorageFailed: It cannot be written.
    """
    with request.looking() as run:
        if run is None:
            return None
        folder = run.snapshots_path
        number = (
            sum(path.stem != f"step_{request.steps:06d}" for path in snapshot_paths(folder)) + 1
        )
        path = save_snapshot(
            folder, Snapshot.of(request.objective.model, number=number, step=request.steps)
        )
        request.event("snapshot", number=number)
        return path
