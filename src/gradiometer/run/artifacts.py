"""Results kept in a run's folder beside its readings: certificates, surveys of the curvature, ensemble reports."""

import json
from dataclasses import fields
from typing import Any, TypeVar

import msgspec
import numpy as np

from gradiometer.measurement.artifact import Artifact
from gradiometer.run.disk import replace_file
from gradiometer.run.journal import plain, restored
from gradiometer.run.reader import Run

Kind = TypeVar("Kind", bound=Artifact)


def save_artifact(run: Run, artifact: Artifact) -> str:
    """Write an artifact into the run, over one of the same step.

    Returns:
        The file's name within the run.
    """
    name = artifact.files.replace("*", f"{getattr(artifact, 'step', 0):06d}")
    path = run.path / name
    path.parent.mkdir(exist_ok=True)
    replace_file(path, json.dumps(plain(artifact)).encode())
    return name


def load_artifacts(run: Run, kind: type[Kind]) -> tuple[Kind, ...]:
    """All artifacts of a kind in a run, by step. A file that cannot be read is left out."""
    names = {field.name for field in fields(kind)}
    found = []
    for path in sorted(run.path.glob(kind.files), key=lambda path: (len(path.name), path.name)):
        try:
            written = restored(json.loads(path.read_text(encoding="utf-8")))
            known = {name: value for name, value in written.items() if name in names}
            found.append(msgspec.convert(known, kind, dec_hook=_array))
        except (OSError, ValueError, TypeError, AttributeError):
            continue
    return tuple(found)


def _array(_: type, value: Any) -> Any:
    """The only type of a field that JSON and msgspec do not know is an array of doubles."""
    return np.array(value, dtype=np.float64)
