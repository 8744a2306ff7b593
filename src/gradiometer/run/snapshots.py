"""Snapshots on disk: each file is complete or absent, and is checked when it is read."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from gradiometer.errors import RunDamaged, RunNotFound
from gradiometer.storage.disk import interrupted_by_disk, read_file, reason_of, replace_file

if TYPE_CHECKING:  # a run is read on a machine without torch
    from gradiometer.exploration.ensembles.snapshots import Snapshot

_NAME = re.compile(r"step_(\d{6,})\.safetensors")


def save_snapshot(folder: Path, snapshot: "Snapshot") -> Path:
    """Write `step_000123.safetensors`, so that a reader sees the complete file or none.

    A resumed run overwrites it with the same bits.

    Args:
        folder: The folder for the snapshots of a run. It is created if missing.
        snapshot: The snapshot.

    Raises:
        Interrupted: The disk is full. Existing files are unchanged.
        StorageFailed: The folder cannot be written to.
    """
    path = folder / f"step_{snapshot.step:06d}.safetensors"
    with interrupted_by_disk(path, folder.parent, "the last checkpoint is safe"):
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, snapshot.to_bytes())
    return path


def load_snapshots(folder: Path) -> list["Snapshot"]:
    """All snapshots in a folder, in the order in which they were taken.

    Raises:
        RunNotFound: The folder has no snapshots.
        RunDamaged: A snapshot is incomplete, changed or unreadable.
    """
    from gradiometer.exploration.ensembles.snapshots import Snapshot  # noqa: PLC0415 (imports torch)

    found = []
    for path in snapshot_paths(folder):
        try:
            content = read_file(path)
        except OSError as error:
            raise RunDamaged(f"`{path}` cannot be read: {reason_of(error)}.") from error
        found.append(Snapshot.from_bytes(content, f"`{path}`"))
    if not found:
        raise RunNotFound(f"`{folder}` has no snapshots: train with `--snapshots 5`, for example.")
    return found


def snapshot_paths(folder: Path) -> list[Path]:
    """The snapshot files in a folder, in the order of their steps."""
    numbered = [
        (int(name[1]), path)
        for path in folder.glob("step_*")
        if (name := _NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(numbered)]
