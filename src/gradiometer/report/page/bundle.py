"""Vega, Vega-Lite and vega-embed as one script, built once (in about a second) and kept in the
user's cache.

It is the same for every page until the version of vl-convert changes. A page has it compressed,
which makes it half as long; `page.js` unpacks it when the first chart is drawn.
"""

import base64
import hashlib
import os
import sys
import zlib
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import vl_convert

from gradiometer.report.charts.charts import vl_version
from gradiometer.report.page.markup import script_hash
from gradiometer.storage.disk import read_file, replace_file

SNIPPET = "window.vegaEmbed = vegaEmbed;"
"""The only global name that the script defines."""


class Bundle(NamedTuple):
    """The script as a page has it.

    Attributes:
        packed: The script, compressed with zlib, in base64.
        script_hash: The hash that allows the unpacked script in a Content Security Policy.
    """

    packed: str
    script_hash: str

    @classmethod
    def of(cls, script: str) -> "Bundle":
        """Pack a script."""
        return cls(
            base64.b64encode(zlib.compress(script.encode(), 9)).decode(), script_hash(script)
        )


@cache
def bundle() -> Bundle:
    """The packed script. It is built again if the cache cannot be read."""
    folder = cache_folder()
    path = None if folder is None else folder / _name()
    script = None if path is None else _kept(path)
    if script is None:
        script = vl_convert.javascript_bundle(SNIPPET, vl_version())
        if path is not None:
            _keep(path, script)
    return Bundle.of(script)


def cache_folder() -> Path | None:
    """Our folder in the user's cache: below XDG_CACHE_HOME or ~/.cache on Linux.

    Returns:
        The folder, which may not exist yet; None if the user has no home folder.
    """
    variable, below = {
        "win32": ("LOCALAPPDATA", "AppData/Local"),
        "darwin": ("", "Library/Caches"),
    }.get(sys.platform, ("XDG_CACHE_HOME", ".cache"))
    named = Path(os.environ.get(variable, "")) if variable else Path()
    if named.is_absolute():
        return named / "gradiometer"
    try:
        return Path.home() / below / "gradiometer"
    except RuntimeError:
        return None


def _name() -> str:
    """Name of the file. It changes with the version of every part."""
    asked = hashlib.sha256(SNIPPET.encode()).hexdigest()[:8]
    return f"vega-{vl_version()}-by-vl-convert-{version('vl-convert-python')}-{asked}.js"


def _kept(path: Path) -> str | None:
    """The script from a complete file, whose first line is the checksum of the rest; otherwise
    None."""
    try:
        checksum, _, content = read_file(path).partition(b"\n")
    except OSError:
        return None
    return content.decode() if checksum == _checksum(content) else None


def _keep(path: Path, script: str) -> None:
    content = script.encode()
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, _checksum(content) + b"\n" + content)


def _checksum(content: bytes) -> bytes:
    return f"// {hashlib.sha256(content).hexdigest()}".encode()
