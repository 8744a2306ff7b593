"""Results that commands store in a run: certificates, curvature surveys, ensemble reports."""

import json
from dataclasses import fields
from typing import Any, TypeVar

import msgspec
import numpy as np

from gradiometer.measurement.artifact import Artifact
from gradiometer.run.reader import Run
from gradiometer.storage.disk import read_file, replace_file, writing
from gradiometer.storage.journal import plain, restored

Kind = TypeVar("Kind", bound=Artifact)


def save_artifact(run: Run, artifact: Artifact) -> str:
    """Write an artifact into the run and return the file's name there. One of the same step is
    replaced.

    Raises:
        StorageFailed: It cannot be written.
    """
    name = artifact.files.replace("*", f"{getattr(artifact, 'step', 0):06d}")
    path = run.path / name
    with writing(path):
        path.parent.mkdir(exist_ok=True)
        replace_file(path, json.dumps(plain(artifact)).encode())
    return name


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
            found.append(msgspec.convert(known, kind, dec_hook=_array))
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


def _array(_: type, value: Any) -> Any:
    """The only field type that JSON and msgspec do not know is an array of doubles."""
    return np.array(value, dtype=np.float64)
