"""Which runs are one's own. Nothing is imported or called because the folder of a foreign run names
it.

A run of a problem of your own remembers `module:function`, and commands such as `fork` and `resume`
import and call it. A downloaded folder may name anything. So a run is signed when it is made, with
a key that never leaves the machine: the signature covers all that would be imported, and the text
that would be given to it, and a digest of the files that the import would run. A run that was given
away and comes back with another file of that name beside it is not run either.
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

from gradiometer.errors import BadArgument, StorageFailed
from gradiometer.storage.disk import reason_of

# The keys of the signature and of the digest of the code in `run.toml`.
SIGNATURE = "made_by"
CODE = "code"

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


def origin(created: str, configuration: Mapping[str, Any]) -> dict[str, str]:
    """What `run.toml` says about a run that this user makes on this machine: the digest of the code
    that it names, and the signature. Empty if it names no code.

    Raises:
        StorageFailed: The code cannot be read.
    """
    if not names_code(configuration):
        return {}
    from gradiometer.problems.imported_files import digest  # noqa: PLC0415 (few runs name code)

    code = digest(_files(configuration))
    return {CODE: code, SIGNATURE: _signature(created, configuration, code)}


def _signature(created: str, configuration: Mapping[str, Any], code: str) -> str:
    signed = {name: configuration.get(name) for name in ("problem", "model", "data_dir", "gauges")}
    return hmac.new(
        _key(), json.dumps([created, signed, code]).encode(), hashlib.sha256
    ).hexdigest()


def check_trust(manifest: Mapping[str, Any], path: Path, verb: str) -> None:
    """Refuse to run code that a foreign run names.

    Args:
        manifest: Content of the run's `run.toml`.
        path: Folder of the run, for the message.
        verb: The command, for the message.

    Raises:
        BadArgument: The run names code, and was made by another user, on another machine, or was
            changed since; or the code has changed, or lies in the folder of the run.
        StorageFailed: The code cannot be read.
    """
    configuration = manifest["configuration"]
    if _trusts.get() or not names_code(configuration):
        return
    reason = _reason_to_refuse(manifest, path)
    if reason is not None:
        raise BadArgument(
            f"{reason}, and {verb} would {_would_run(configuration)}. Nothing was imported. Look "
            f"at that code, then write `gradiometer --trust {verb} …` (in Python: with "
            "gradiometer.run.trusting())."
        )


def _reason_to_refuse(manifest: Mapping[str, Any], path: Path) -> str | None:
    from gradiometer.problems.imported_files import digest  # noqa: PLC0415 (few runs name code)

    configuration, code = manifest["configuration"], str(manifest.get(CODE))
    expected = _signature(str(manifest.get("created")), configuration, code)
    if not hmac.compare_digest(expected.encode(), str(manifest.get(SIGNATURE)).encode()):
        return f"`{path}` was made by another user, on another machine, or was changed since"
    files = _files(configuration)
    folder = path.resolve()
    inside = [each for each in files.values() if each.resolve().is_relative_to(folder)]
    if inside:
        return f"`{inside[0]}` lies in the folder of the run"
    # A module that is not there is missed by the import, which says where it looked.
    if files and digest(files) != code:
        names = ", ".join(f"`{each}`" for each in list(files.values())[:3])
        return f"the code of `{path}` is not the one that it was made with ({names})"
    return None


def _modules(configuration: Mapping[str, Any]) -> list[str]:
    """The names of the modules that would be imported."""
    gauges = str(configuration.get("gauges") or "").split(",")
    named = [str(configuration.get("problem") or ""), *gauges]
    return [each.strip().partition(":")[0] for each in named if ":" in each]


def _files(configuration: Mapping[str, Any]) -> dict[str, Path]:
    """The files that would be run, by module and place."""
    from gradiometer.problems.imported_files import files_of  # noqa: PLC0415 (few runs name code)

    try:
        return {
            f"{module}/{place}": file
            for module in _modules(configuration)
            for place, file in files_of(module).items()
        }
    except OSError as error:
        raise StorageFailed(
            f"the code that the run names cannot be read: {reason_of(error)}."
        ) from error


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
