"""Snapshots on disk: written aside and renamed, checked when read."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gradiometer.errors import BadArgument
from gradiometer.run.disk import interrupted_by_disk, replace_file

if TYPE_CHECKING:  # a run is read on a machine without torch
    from gradiometer.exploration.ensembles.snapshots import Snapshot

_NAME = re.compile(r"step_(\d{6,})\.safetensors")


def save_snapshot(folder: Path, snapshot: "Snapshot") -> Path:
    """Write `step_000123.safetensors`: whoever looks sees a whole one or none.

    A run that is taken up again writes the same bits over it.

    Args:
        folder: The snapshots of a run; made where it is missing.

    Raises:
        Interrupted: The disk is full; what is there already is untouched.
    """
    path = folder / f"step_{snapshot.step:06d}.safetensors"
    with interrupted_by_disk(path, folder.parent, "the last checkpoint is safe"):
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, snapshot.to_bytes())
    return path


def load_snapshots(folder: Path) -> list["Snapshot"]:
    """All snapshots in a folder, in the order they were taken.

    Raises:
        BadArgument: One of them is torn or changed, or there is none.
    """
    found = list(_read(folder))
    if not found:
        raise BadArgument(f"`{folder}` holds no snapshot: train with `--snapshots 5`, for example.")
    return found


def snapshot_paths(folder: Path) -> list[Path]:
    """The files, in the order of their steps."""
    numbered = [(int(name[1]), path) for path in folder.glob("step_*") if (name := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered)]


def _read(folder: Path) -> Iterator["Snapshot"]:
    from gradiometer.exploration.ensembles.snapshots import Snapshot  # noqa: PLC0415 (imports torch)

    for path in snapshot_paths(folder):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BadArgument(f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}.") from error
        yield Snapshot.from_bytes(content, f"`{path}`")
