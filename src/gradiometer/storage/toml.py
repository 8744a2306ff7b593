"""TOML files written by people: faults are named with their line."""

import re
import tomllib
from pathlib import Path
from typing import Any

from gradiometer.errors import BadArgument
from gradiometer.storage.disk import read_file, reason_of


def read_toml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The values of a file, and the line number of every key, with `_` for `-`.

    Raises:
        BadArgument: It cannot be read, or is no TOML.
    """
    try:
        text = read_file(path).decode("utf-8-sig")
        return tomllib.loads(text), _lines_of_keys(text)
    except OSError as error:
        raise BadArgument(
            f"`{path}` cannot be read as a configuration: {reason_of(error)}."
        ) from error
    except UnicodeDecodeError as error:
        raise BadArgument(f"`{path}` is not UTF-8 text: a configuration is a TOML file.") from error
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise BadArgument(_syntax_sentence(path.name, str(error))) from error


def _lines_of_keys(text: str) -> dict[str, int]:
    """Line number of every key and every table name; the first one if a name is repeated."""
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if key := re.match(r"""\s*(?:\[+\s*)?["']?([\w-]+)["']?\s*[=.\]]""", line):
            lines.setdefault(key[1].replace("-", "_"), number)
    return lines


def _syntax_sentence(name: str, reason: str) -> str:
    """The message of tomllib, with the line number at the front."""
    found = re.match(r"(.*) \(at line (\d+), column (\d+)\)$", reason)
    if found is None:
        return f"{name}: not valid TOML: {reason}."
    return f"{name}:{found[2]}: not valid TOML: {found[1]}, at column {found[3]}."
