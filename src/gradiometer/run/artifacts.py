"""Results that commands store in a run: certificates, curvature surveys, ensemble reports."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np

from gradiometer.errors import RunDamaged, RunNotFound
from gradiometer.measurement.artifact import Artifact, PerExample
from gradiometer.run.reader import Run
from gradiometer.storage.disk import (
    append,
    interrupted_by_disk,
    open_to_read,
    read_file,
    reason_of,
    replace_file,
    writing,
)
from gradiometer.storage.journal import plain, restored

if TYPE_CHECKING:  # a run is read on a machine without torch
    from gradiometer.exploration.ensembles.snapshots import Snapshot


Kind = TypeVar("Kind", bound=Artifact)


def save_artifact(run: Run, artifact: Artifact) -> None:
    """Write an artifact into the run. One of the same step is replaced.

    Raises:
        StorageFailed: It cannot be written.
    """
    name = artifact.files.replace("*", f"{getattr(artifact, 'step', 0):06d}")
    path = run.path / name
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        replace_file(path, json.dumps(plain(artifact)).encode())


def load_artifacts(run: Run, kind: type[Kind]) -> tuple[Kind, ...]:
    """All artifacts of a kind in a run, in the order of their steps.

    A file that cannot be read is skipped, and `run.warnings` names it.
    """
    names = {field.name for field in fields(kind)}
    found = []
    for path in sorted(run.path.glob(kind.files), key=lambda path: (len(path.name), path.name)):
        try:
            written = restored(json.loads(read_file(path)))
            known = {name: value for name, value in written.items() if name in names}
            # The only field type that JSON and msgspec do not know is an array of doubles.
            found.append(
                msgspec.convert(known, kind, dec_hook=lambda _, value: np.array(value, np.float64))
            )
        except (
            OSError,
            ValueError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            run.unread[path.relative_to(run.path).as_posix()] = (
                str(error).partition("\n")[0].rstrip(".")
            )
    return tuple(found)


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
            content = read_file(path, of_memory=1.0)
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
        if (name := re.compile(r"step_(\d{6,})\.safetensors").fullmatch(path.name))
    ]
    return [path for _, path in sorted(numbered)]


FILE = "examples.f32"

# Single precision: a difference of two losses is then exact to a ten-millionth of them.
KIND = np.dtype("<f4")


def write_examples(folder: Path, examples: Mapping[str, PerExample]) -> dict[str, list[int]]:
    """Append numbers to the file of a run, and return at which byte each begins and how many it
    has.

    Numbers that are not finite are left out, since their mean says nothing.
    """
    kept = {name: values for name, values in examples.items() if np.isfinite(values).all()}
    if not kept:
        return {}
    # once for all of them: to open the file takes longer than to write
    begin = append(
        folder / FILE, b"".join(values.astype(KIND).tobytes() for values in kept.values())
    )
    places: dict[str, list[int]] = {}
    for name, values in kept.items():
        places[name] = [begin, len(values)]
        begin += len(values) * KIND.itemsize
    return places


def read_examples(folder: Path, begin: int, count: int) -> PerExample | None:
    """The numbers at this place; None if the file does not have them."""
    size = count * KIND.itemsize
    try:
        with open_to_read(folder / FILE) as file:
            # checked before reading, since a damaged event may name any number
            if begin + size > os.fstat(file.fileno()).st_size:
                return None
            file.seek(begin)
            values = np.frombuffer(file.read(size), KIND).astype(np.float64)
    except (OSError, ValueError):
        return None
    return values if np.isfinite(values).all() else None
