"""Writing that survives a kill, a power cut and a full disk."""

import errno
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradiometer.errors import Interrupted

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_FAILING = {errno.EIO, errno.EROFS, errno.EFBIG}


def write_new(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    try:
        rest = memoryview(content)
        while rest:  # a write may be short
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk: a rename is safe only then."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part: aside, fsync, rename."""
    aside = path.with_name(f".{path.name}.partial")
    write_new(aside, content)
    aside.replace(path)
    sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Delete a folder so that whoever looks sees all of it or nothing: under a hidden name."""
    hidden = path if path.name.startswith(".") else path.with_name(f".{path.name}.removed")
    if hidden != path:
        shutil.rmtree(hidden, ignore_errors=True)
        path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def interrupted_by_disk(path: Path, run: Path, safe: str) -> Iterator[None]:
    """Turn a full or failing disk into `Interrupted`, one sentence that ends in the command to go on.

    Args:
        path: What is being written.
        run: Folder of the run.
        safe: What is on the disk all the same, as the middle of a sentence.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM | _FAILING:
            raise
        reason = os.strerror(error.errno or 0).lower()
        remedy = "free some space" if error.errno in _NO_ROOM else "see to the disk"
        raise Interrupted(
            f"`{path}` could not be written ({reason}), {safe}: {remedy}, then go on with"
            f" `gradiometer resume {shlex.quote(str(run))}`."
        ) from error
