"""`run.toml` as it is read: every key has a type, and one that does not fit is left out with a
warning."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from gradiometer.errors import RunDamaged
from gradiometer.measurement.reading import Draw
from gradiometer.run.columns import StepNumber
from gradiometer.storage.disk import read_file

_Count = Annotated[int, msgspec.Meta(ge=1, lt=2**53)]


class _Drawn(msgspec.Struct):
    draw: Draw
    examples: _Count | None = None


class _Problem(msgspec.Struct):
    name: str = ""
    model: str = ""
    parameters: StepNumber = 0
    fingerprint: str = ""
    description: str = ""
    optimizer: str = ""


class _Gauge(msgspec.Struct):
    """A gauge that was given as an object."""

    name: str
    path: str
    repr: str
    settings: str = "{}"


# The types of what readers look into, apart from `configuration` and `format`, without which there
# is no run.
KINDS: dict[str, Any] = {
    "name": str,
    "created": str,
    "made_by": str,
    "versions": dict[str, str],
    "seeds": dict[str, int],
    "sampling": _Drawn,
    "probe": _Drawn,
    "layers": list[str],
    "mode": str,
    "ranks": _Count,
    "steps": _Count,
    "gauges": list[_Gauge],
    "problem": _Problem,
}


def read_manifest(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The content of a `run.toml`, and a warning for each key that does not fit and was left out.

    Raises:
        OSError: It cannot be opened.
        RunDamaged: It is not TOML, or its `configuration` is not a table.
    """
    try:
        text = read_file(path).decode()
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunDamaged(f"`{path}` is damaged: it is not valid TOML ({error}).") from error
    if not isinstance(content.setdefault("configuration", {}), dict):
        raise RunDamaged(f"`{path}` is damaged: `configuration` is not a table.")
    warnings = []
    for key in KINDS.keys() & content.keys():
        try:
            msgspec.convert(content[key], KINDS[key])
        except (msgspec.ValidationError, OverflowError) as error:
            warnings.append(
                f"{path.name}:{_line_of(key, text)}: `{key}` is damaged: left out ({error})."
            )
            del content[key]
    return content, warnings


def _line_of(key: str, text: str) -> int:
    """The number of the line of a table, or of a key above the first table; 1 if it is written in
    another way."""
    above = True
    for number, line in enumerate(text.splitlines(), start=1):
        above = above and not line.startswith("[")
        if re.match(rf"\[+{key}\]", line) or (above and re.match(rf"{key} *=", line)):
            return number
    return 1
