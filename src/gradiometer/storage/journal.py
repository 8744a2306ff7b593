"""Append-only files of JSON lines that stay readable after a killed process, an incomplete line or
a full disk.

JSON has no non-finite numbers: they are written as the strings "inf", "-inf" and "nan" and read
back as floats. These three strings therefore mean numbers everywhere in a journal.
"""

import errno
import json
import math
import os
import stat
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gradiometer.errors import BadArgument, RunDamaged, StorageFailed
from gradiometer.storage.disk import (
    interrupted_by_disk,
    open_to_read,
    open_to_write,
    read_file,
    reason_of,
)

NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class JournalWriter:
    """Appends records to a file, buffered. A lock of the system allows one writing process at a
    time.

    If an earlier process left an incomplete line, a newline is added first, so that only that line
    is lost. A forked copy of the process writes nothing as long as the process that opened the file
    lives.

    Args:
        path: The file. It is created if missing.
        folder: The folder of the run or of the file, for messages.
        then: How to continue after a full disk, as the end of a sentence. Default: the command that
            resumes the run.

    Raises:
        BadArgument: Another process is writing it.
        Interrupted: The disk is full. Written lines are safe, and buffered lines stay in the
            buffer.
        StorageFailed: The file cannot be written.
    """

    def __init__(self, path: Path, folder: Path, then: str = "") -> None:
        self.path = path
        self._folder = folder
        self._then = then
        self._buffer = bytearray()
        self._owner = os.getpid()
        self._open()
        try:
            with self._guard():
                self._begin()
        except BaseException:  # the error itself keeps this object alive, and with it the lock
            self._release()
            raise

    def _begin(self) -> None:
        # another process replaced it before this one had the lock
        while not _is_at(self.path, self._descriptor):
            self._release()
            self._open()
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise StorageFailed(f"`{self.path}` cannot be written: not a regular file. Remove it.")
        if status.st_size > 0 and not _ends_in_newline(self._descriptor):
            self._buffer += b"\n"

    def _open(self) -> None:
        with self._guard():
            self._descriptor = open_to_write(self.path, os.O_RDWR | os.O_APPEND)
        self._release: Callable[[], object] = weakref.finalize(
            self, _unlock_and_close, self._descriptor, os.getpid()
        )
        if not _lock(self._descriptor):
            self._release()
            raise BadArgument(
                f"`{self.path}` is being written by another process: only one process can write it."
            )

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line. It is written by `flush` or when the buffer is full."""
        try:
            # Most records are written during training, and `plain` takes longer than the rest.
            line = _encode(record)
            if b"null" in line:  # perhaps a number that is not finite
                line = _encode(plain(record))
        except (TypeError, UnicodeEncodeError, RecursionError):
            # A name that is no text, which msgspec hands over without an end, becomes text. Letters
            # that UTF-8 lacks, as in a file name of other bytes, become question marks.
            text = json.dumps(plain(record), ensure_ascii=False, allow_nan=False)
            line = text.encode(errors="replace")
        self._buffer += line
        self._buffer += b"\n"
        if len(self._buffer) >= 2**16:
            self.flush()

    def flush(self) -> None:
        """Give all lines to the system. They survive a killed process but not a power cut."""
        if self.closed:
            # its descriptor may be that of another file by now
            raise StorageFailed(f"`{self.path}` is closed: nothing more can be written.")
        with self._guard():
            while self._buffer and not self._is_copy():
                # Written bytes leave the buffer at once, so that nothing is written twice.
                del self._buffer[: os.write(self._descriptor, self._buffer)]

    def sync(self) -> None:
        """Flush, and wait until all lines are on the disk. They survive a power cut."""
        self.flush()
        with self._guard():
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Flush and close the file. It is closed also if the flush fails."""
        try:
            if not self.closed:
                self.flush()
        finally:
            with self._guard():
                self._release()

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return not getattr(self._release, "alive", False)

    def _is_copy(self) -> bool:
        """True in a forked copy of the process. If the process itself has ended, as with a daemon,
        the copy writes."""
        if os.getpid() == self._owner:
            return False
        try:
            os.kill(self._owner, 0)
        except (
            ProcessLookupError,
            PermissionError,
        ):
            # its number may be that of another one by now
            self._owner = os.getpid()
            return False
        return True

    def _guard(self) -> Any:
        safe = (
            "but earlier lines are safe"
            if self._then
            else "but earlier lines and the last checkpoint are safe"
        )
        return interrupted_by_disk(self.path, self._folder, safe, self._then)


class Line(NamedTuple):
    """A record and its line number, from 1."""

    number: int
    record: Any


def _ends_in_newline(descriptor: int) -> bool:
    """True if the last byte of a file that is not empty ends a line."""
    os.lseek(descriptor, -1, os.SEEK_END)
    return os.read(descriptor, 1) == b"\n"


def read_journal(
    path: Path, repeats: Callable[[Any], bool] | None = None
) -> tuple[list[Line], list[str]]:
    """The readable lines of a journal in order, and warnings that name file and line of the others.

    Args:
        path: The file. A missing one has no lines.
        repeats: True for a record from which on a new process writes again what the one before did
            not finish. An incomplete line directly before it is lost without a loss, and gives no
            warning. Default: no record.

    Raises:
        RunDamaged: The file cannot be read.
    """
    try:
        content = read_file(path)
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise RunDamaged(f"`{path}` cannot be read: {reason_of(error)}.") from error
    *whole, last = content.split(b"\n")
    lines: list[Line] = []
    garbled: list[int] = []
    for number, text in enumerate(whole, start=1):
        _decode_into(lines, garbled, number, text)
    again = {number - 1 for number, record in lines if repeats and repeats(record)}
    garbled = [
        number for number in garbled if number not in again or not is_incomplete(whole[number - 1])
    ]
    torn: list[int] = []
    if last:
        _decode_into(lines, torn, len(whole) + 1, last)
    return lines, skipped_lines(path.name, garbled, torn[0] if torn else None)


def being_written(path: Path) -> bool:
    """True if a process has this journal open for writing. False without locks. On Windows, True if
    the file exists."""
    if sys.platform == "win32":
        return path.exists()
    import fcntl  # noqa: PLC0415  (POSIX only)

    try:
        file = open_to_read(path)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        # Any other error is that of a file system without locks, where nobody can tell.
        return isinstance(error, BlockingIOError)
    else:
        return False
    finally:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
        with suppress(OSError):
            file.close()


def plain(value: Any) -> Any:
    """A value that JSON can store: arrays as lists, dataclasses as objects, non-finite numbers and
    others as text.

    >>> plain({"loss": float("nan"), "steps": (1, 2)})
    {'loss': 'nan', 'steps': [1, 2]}
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(part) for part in value]
    if hasattr(value, "tolist"):  # numpy and torch, without importing either
        return plain(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    return value if value is None or isinstance(value, bool | int) else str(value)


_encode = msgspec.json.Encoder(enc_hook=plain).encode


def restored(value: Any) -> Any:
    """The inverse of `plain` for numbers: "inf", "-inf" and "nan" become floats, at any depth."""
    if isinstance(value, str):
        return NOT_FINITE.get(value, value)
    if isinstance(value, dict):
        return {name: restored(part) for name, part in value.items()}
    if isinstance(value, list):
        return [restored(part) for part in value]
    return value


def is_incomplete(text: bytes) -> bool:
    """True if a line is the beginning of a record, whose process ended while it was written."""
    return not text.rstrip().endswith(b"}")


def _decode_into(lines: list[Line], garbled: list[int], number: int, text: bytes) -> None:
    if not text.strip():
        return
    try:
        lines.append(Line(number, restored(_decode(text))))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        garbled.append(number)


def skipped_lines(name: str, garbled: Sequence[int], torn: int | None) -> list[str]:
    """Warnings about lines of a file that cannot be read. Neighbouring lines give one warning.

    Args:
        name: Name of the file.
        garbled: Numbers of the lines that cannot be decoded, in increasing order.
        torn: Number of the last line if it is incomplete.
    """
    breaks = [
        0,
        *(i for i, (a, b) in enumerate(pairwise(garbled), start=1) if b != a + 1),
        len(garbled),
    ]
    warnings = [
        f"{name}:{group[0]}: a line cannot be read: skipped."
        if len(group) == 1
        else f"{name}:{group[0]}-{group[-1]}: {len(group)} lines cannot be read: skipped."
        for group in (garbled[a:b] for a, b in pairwise(breaks))
        if group
    ]
    return (
        warnings
        if torn is None
        else [*warnings, f"{name}:{torn}: the last line is incomplete: skipped."]
    )


def _lock(descriptor: int) -> bool:
    """Lock the file until it is closed or the process ends. False if another process
    has locked it."""
    if sys.platform == "win32":
        return True
    import fcntl  # noqa: PLC0415  (POSIX only)

    # a call of `being_written` locks it for a moment
    patience = time.monotonic() + 0.5
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                return True  # a file system without locks
            if time.monotonic() > patience:
                return False
            time.sleep(0.01)
        else:
            return True


def _unlock_and_close(descriptor: int, owner: int) -> None:
    # a forked copy that ends must not unlock it for the others
    if sys.platform != "win32" and os.getpid() == owner:
        import fcntl  # noqa: PLC0415  (POSIX only)

        # a forked child that still has the file open must not keep the lock
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """True if the file that was opened is still the one at this path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
