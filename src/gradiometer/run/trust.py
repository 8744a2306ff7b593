"""Which runs are one's own. Nothing is imported or called because the folder of a foreign run names
it.

A run of a problem of your own remembers `module:function`, and commands such as `fork` and `resume`
import and call it. A downloaded folder may name anything. So a run is signed when it is made, with
a key that never leaves the machine: the signature covers all that would be imported, and the text
that would be given to it.
"""

import hashlib
import hmac
import json
import os
import platform
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from gradiometer.errors import BadArgument

# The key of the signature in `run.toml`.
SIGNATURE = "made_by"

_trusts: ContextVar[bool] = ContextVar("trusts", default=False)


@contextmanager
def trusting() -> Iterator[None]:
    """Code that foreign runs name may be imported and called inside: you have looked at it."""
    before = _trusts.set(True)
    try:
        yield
    finally:
        _trusts.reset(before)


def names_code(configuration: Mapping[str, Any]) -> bool:
    """True if a configuration names a function or a class of somebody's own."""
    return any(":" in str(configuration.get(name) or "") for name in ("problem", "gauges"))


def signature(created: str, configuration: Mapping[str, Any]) -> str:
    """The signature of a run that this user makes on this machine."""
    signed = {name: configuration.get(name) for name in ("problem", "model", "data_dir", "gauges")}
    return hmac.new(_key(), json.dumps([created, signed]).encode(), hashlib.sha256).hexdigest()


def check_trust(manifest: Mapping[str, Any], path: Path, verb: str) -> None:
    """Refuse to run code that a foreign run names.

    Args:
        manifest: Content of the run's `run.toml`.
        path: Folder of the run, for the message.
        verb: The command, for the message.

    Raises:
        BadArgument: The run names code, and was made by another user, on another machine, or was
            changed since.
    """
    configuration = manifest["configuration"]
    if _trusts.get() or not names_code(configuration):
        return
    expected = signature(str(manifest.get("created")), configuration)
    if hmac.compare_digest(expected.encode(), str(manifest.get(SIGNATURE)).encode()):
        return
    raise BadArgument(
        f"`{path}` was made by another user, on another machine, or was changed since, and {verb} "
        f"would {_would_run(configuration)}. Nothing was imported. Look at that code, then write "
        f"`gradiometer --trust {verb} …` (in Python: with gradiometer.run.trusting())."
    )


def _would_run(configuration: Mapping[str, Any]) -> str:
    problem, gauges = (
        str(configuration.get("problem") or ""),
        str(configuration.get("gauges") or ""),
    )
    acts = []
    if ":" in problem:
        module, _, function = problem.partition(":")
        given = [
            f"{name}={configuration[name]!r}"
            for name in ("model", "data_dir")
            if configuration.get(name)
        ]
        acts.append(f"import {module!r} and call {function}({', '.join(given)})")
    acts += [f"import the gauge {name.strip()!r}" for name in gauges.split(",") if ":" in name]
    return " and ".join(acts)


def _key() -> bytes:
    """A secret of this user on this machine; where no file can be kept, what only they know of the
    machine."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    try:
        if not state.is_absolute():  # unset, or another folder in each working folder
            state = Path.home() / ".local" / "state"
        return _kept_key(state / "gradiometer" / "key")
    except (OSError, RuntimeError):  # a home that cannot be written to, or none
        known = [
            platform.node(),
            str(os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME")),
        ]
        with suppress(OSError):
            known.append(Path("/etc/machine-id").read_text())
        return hashlib.sha256(json.dumps(known).encode()).digest()


def _kept_key(path: Path) -> bytes:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # a file that its owner alone can read
        with NamedTemporaryFile(dir=path.parent, prefix=".key.", buffering=0) as written:
            written.write(secrets.token_bytes(32))
            os.fsync(written.fileno())
            with suppress(FileExistsError):  # another process was faster: its key counts
                os.link(written.name, path)
    key = path.read_bytes()
    if len(key) < 32:
        raise OSError(f"{path} is no key")
    return key
