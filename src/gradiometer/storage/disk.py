"""File writes that survive a killed process, a power cut and a full disk."""

import errno
import math
import os
import re
import shlex
import shutil
import stat
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from gradiometer.errors import BadArgument, Interrupted, StorageFailed

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
# No more files can be opened, or memory has run out: no fault of the path.
_SHORTAGE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


# Flag for `os.open` that refuses a link in the place of a file. Windows has none, and lets few
# users make links.
NO_LINK = getattr(os, "O_NOFOLLOW", 0)


# Largest share of the memory that a file of text may have: as objects its lines take several times
# as much. A live page that read a damaged file as large as the memory took all of it.
OF_MEMORY = 1 / 8


@lru_cache(maxsize=1)
def memory() -> float:
    """The memory of this machine, or of this container, in bytes; inf if it is not known."""
    known = math.inf
    with suppress(AttributeError, ValueError, OSError):  # Windows has no `sysconf`
        known = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ValueError, OSError):  # it is "max" without a limit
        known = min(known, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return known


def open_to_read(path: Path, of_memory: float = OF_MEMORY) -> BinaryIO:
    """Open a regular file. A FIFO, a socket or a device could block a reader for ever, or never
    end.

    Args:
        path: The file.
        of_memory: The largest share of the memory that it may have.

    Raises:
        OSError: It is no regular file, is too large for the memory, or cannot be opened.
    """
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    status = os.fstat(descriptor)
    mode = status.st_mode
    if status.st_size > of_memory * memory():
        os.close(descriptor)
        why = f"it has {status.st_size / 1e9:,.1f} GB, more than {of_memory:.0%} of the memory"
        raise OSError(errno.EFBIG, why, str(path))
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, of_memory: float = OF_MEMORY) -> bytes:
    """The content of a regular file. The arguments and the errors are those of `open_to_read`.

    Some files of Linux, such as /proc/kmsg, pass for regular, and a reader of them waits for ever.
    They are refused.
    """
    with open_to_read(path, of_memory) as file:
        content: bytes | None = file.read()
    if content is None:
        raise OSError(errno.EINVAL, "it has no content yet, and is no file on a disk", str(path))
    return content


def check_inside(path: Path) -> None:
    """Refuse a path in the folder of a run that leaves this folder by a symbolic link.

    A downloaded run could have links in the place of its folders, and a write or a deletion
    would follow them. The folder of the run itself may be reached by a link, and so may paths that
    are in no run.

    Raises:
        OSError: A folder between the run's folder and the path is a link.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 (`resolve` would follow the links)
    # A fork of a run has files three levels deep; six folders are looked at. Most have no
    # `run.toml`, which is quick to see.
    parents = path.parents[:6]
    roots = [
        place
        for place, folder in enumerate(parents)
        if os.path.lexists(f"{folder}/run.toml") and is_run(folder)
    ]
    # The outermost one counts: a link may lead to a folder that looks like a run, too.
    for parent in parents[: max(roots, default=0)]:
        if parent.is_symlink():
            raise OSError(
                errno.ELOOP, "a symbolic link leads out of the folder of the run", str(parent)
            )


def is_run(folder: Path) -> bool:
    """True if this is the folder of a run. A `run.toml` without `format` is a configuration that
    somebody named so."""
    try:
        return _has_format(read_file(folder / "run.toml"))
    except (
        FileNotFoundError,
        NotADirectoryError,
        ValueError,
        RecursionError,
    ):
        # none that could be opened as a run
        return False
    except OSError:
        return True


# every file that is written asks for it, and to parse it takes longer than to write
@lru_cache(maxsize=8)
def _has_format(content: bytes) -> bool:
    return "format" in tomllib.loads(content.decode())


def write_new(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk (fsync). A link in its place is
    refused."""
    _write(path, content, os.O_TRUNC, sync=True)


def append(path: Path, content: bytes) -> int:
    """Add to the end of a file, and return at which byte the addition begins. A link in its place
    is refused."""
    return _write(path, content, os.O_APPEND, sync=False)


def open_to_write(path: Path, how: int) -> int:
    """The descriptor of a file, which is created if missing. A link in its place is refused.

    Args:
        path: The file.
        how: Flags of `os.open`, such as O_APPEND, and how it is read and written.
    """
    check_inside(path)
    return os.open(path, os.O_CREAT | how | getattr(os, "O_BINARY", 0) | NO_LINK, 0o666)


def _write(path: Path, content: bytes, how: int, *, sync: bool) -> int:
    """Write, and return at which byte the content begins."""
    descriptor = open_to_write(path, os.O_WRONLY | how)
    try:
        begin = os.fstat(descriptor).st_size
        rest = memoryview(content)
        while rest:  # a write may be short
            rest = rest[os.write(descriptor, rest) :]
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return begin


def sync_folder(path: Path) -> None:
    """Wait until the folder's entries are on the disk. A rename is safe only then."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other process or thread is inside with this folder. Without effect where there
    are no locks."""
    if sys.platform == "win32":
        yield
        return
    import fcntl  # noqa: PLC0415  (POSIX only)

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # a forked child that still has the folder open must not keep the lock
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Write under a hidden name, fsync, rename: a reader sees the old file or the new one, never a
    part.

    Of several processes one writes at a time, since the hidden name is the same for all.
    """
    check_inside(path)
    if path.is_char_device():  # /dev/null takes what is written, and is not to be replaced
        path.write_bytes(content)
        return
    aside = path.with_name(f".{path.name}.partial")
    with one_at_a_time(path.parent):
        write_new(aside, content)
        aside.replace(path)
    sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Rename a folder to a hidden name, then delete it: a reader sees the complete
    folder or none."""
    check_inside(path)
    hidden = path if path.name.startswith(".") else path.with_name(f".{path.name}.removed")
    if hidden != path:
        _delete(hidden)
        path.rename(hidden)
    _delete(hidden)


def _delete(path: Path) -> None:
    """Delete a folder, or a link in its place, which is not followed."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _remedy(error: OSError) -> str | None:
    """The way out if a limit of the process refuses a write, and not the disk or the path."""
    if error.errno in _SHORTAGE:
        return "close other programs, or raise their limits with `ulimit`"
    return (
        "raise the limit of the size of a file with `ulimit -f`"
        if error.errno == errno.EFBIG
        else None
    )


def reason_of(error: OSError) -> str:
    """The system's reason, such as "permission denied"."""
    return (error.strerror or str(error)).lower().rstrip(".")


@contextmanager
def writing(path: Path, remedy: str = "check the permissions and the free space") -> Iterator[None]:
    """Raise StorageFailed if the system refuses a write inside.

    Args:
        path: The file or folder to write, for the message.
        remedy: The way out, as the end of a sentence.
    """
    try:
        yield
    except OSError as error:
        way = _remedy(error) or remedy
        raise StorageFailed(f"`{path}` could not be written: {reason_of(error)}; {way}.") from error


@contextmanager
def interrupted_by_disk(path: Path, folder: Path, safe: str, then: str = "") -> Iterator[None]:
    """Raise Interrupted if the disk is full or fails inside, StorageFailed if the system refuses
    the write otherwise.

    Args:
        path: The file to write.
        folder: The folder of the run or of the file.
        safe: The data that is on the disk already, as the middle of a sentence.
        then: How to continue, as the end of a sentence. Default: the command that resumes the run.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM | {errno.EIO, errno.EROFS, errno.EFBIG}:
            way = _remedy(error) or f"check that `{folder}` exists and can be written to"
            raise StorageFailed(
                f"`{path}` could not be written ({reason_of(error)}), {safe}: {way}."
            ) from error
        reason = os.strerror(error.errno or 0).lower()
        remedy = (
            "free some space" if error.errno in _NO_ROOM else _remedy(error) or "check the disk"
        )
        then = then or f"continue with `gradiometer resume {shlex.quote(str(folder))}`"
        raise Interrupted(
            f"`{path}` could not be written ({reason}), {safe}: {remedy}, then {then}."
        ) from error


def read_toml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The values of a file, and the line number of every key, with `_` for `-`.

    Raises:
        BadArgument: It cannot be read, or is no TOML.
    """
    try:
        text = read_file(path).decode("utf-8-sig")
        values, lines = tomllib.loads(text), dict[str, int]()
    except OSError as error:
        raise BadArgument(
            f"`{path}` cannot be read as a configuration: {reason_of(error)}."
        ) from error
    except UnicodeDecodeError as error:
        raise BadArgument(f"`{path}` is not UTF-8 text: a configuration is a TOML file.") from error
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        # tomllib has the number of the line at the end of its message
        found = re.match(r"(.*) \(at line (\d+), column (\d+)\)$", str(error))
        place, reason = path.name, str(error)
        if found is not None:
            place, reason = f"{path.name}:{found[2]}", f"{found[1]}, at column {found[3]}"
        raise BadArgument(f"{place}: not valid TOML: {reason}.") from error
    # the first one if a name is repeated, also that of a table
    for number, line in enumerate(text.splitlines(), start=1):
        key = re.match(r"""\s*(?:\[+\s*)?["']?([\w-]+)["']?\s*[=.\]]""", line)
        if key:
            lines.setdefault(key[1].replace("-", "_"), number)
    return values, lines
