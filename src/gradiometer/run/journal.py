"""Append-only files of JSON lines, that a kill, a torn line or a full disk leaves readable.

JSON has no non-finite numbers: they are the strings "inf", "-inf" and "nan", and are read back as floats.
These three strings therefore mean numbers wherever they stand.
"""

import errno
import math
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gradiometer.errors import BadArgument
from gradiometer.run.disk import interrupted_by_disk

NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}

_BUFFER = 1 << 16
_PATIENCE_SECONDS = 0.5
_encode = msgspec.json.Encoder().encode


class JournalWriter:
    """Appends records to a file, buffered. One process writes a journal at a time; the system's lock holds that.

    A line that an earlier process left torn is closed off first, so that it costs only itself.

    Args:
        path: The file; made where it is missing.
        run: Folder of the run, for the command to resume it.

    Raises:
        BadArgument: Another process is writing it.
        Interrupted: The disk is full; what was written before is safe, what is buffered stays buffered.
    """

    def __init__(self, path: Path, run: Path) -> None:
        self.path = path
        self._run = run
        self._buffer = bytearray()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        with self._guarded():
            self._descriptor = os.open(path, flags, 0o666)
        self._release: Callable[[], object] = weakref.finalize(self, _unlock_and_close, self._descriptor)
        if not _lock(self._descriptor):
            self._release()
            raise BadArgument(f"`{path}` is being written by another process: one run has one writer.")
        size = os.fstat(self._descriptor).st_size
        if size > 0 and not _ends_in_newline(self._descriptor, size):
            self._buffer += b"\n"

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line; it is written when the buffer is full, or by `flush`."""
        self._buffer += _encode(plain(record))
        self._buffer += b"\n"
        if len(self._buffer) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """Hand every line to the system: it survives a kill, though not a power cut."""
        with self._guarded():
            while self._buffer:
                # One slice at a time: what is written is forgotten, so that nothing is written twice.
                del self._buffer[: os.write(self._descriptor, self._buffer)]

    def sync(self) -> None:
        """Flush, and wait until it is on the disk: it survives a power cut."""
        self.flush()
        with self._guarded():
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Flush and let the file go; it is let go also where the flush fails."""
        try:
            if not self.closed:
                self.flush()
        finally:
            self._release()

    @property
    def closed(self) -> bool:
        """Whether the file was let go."""
        return not getattr(self._release, "alive", False)

    def _guarded(self) -> Any:
        return interrupted_by_disk(self.path, self._run, "what was written before and the last checkpoint are safe")


class Line(NamedTuple):
    """A record and the number of its line, from 1."""

    number: int
    record: Any


def read_journal(path: Path, kind: Any = dict[str, Any]) -> tuple[list[Line], list[str]]:
    """Every readable line of a journal, and a sentence for those that are not.

    Args:
        path: The file; one that is missing has no lines.
        kind: What a line must be, as a type that msgspec can check.

    Returns:
        The lines in order, and warnings that name file and line.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise BadArgument(f"`{path}` cannot be read: {(error.strerror or str(error)).lower()}.") from error
    decoder = msgspec.json.Decoder(kind)
    *whole, last = content.split(b"\n")
    lines: list[Line] = []
    garbled: list[int] = []
    for number, text in enumerate(whole, start=1):
        _decode_into(lines, garbled, decoder, number, text)
    torn: list[int] = []
    if last:
        _decode_into(lines, torn, decoder, len(whole) + 1, last)
    warnings = [f"{path.name}:{place}: {count} left out." for place, count in grouped(garbled)]
    if torn:
        warnings.append(f"{path.name}:{torn[0]}: the last line is torn, its writing did not finish: left out.")
    return lines, warnings


def being_written(path: Path) -> bool:
    """Whether a process holds this journal now; True also where the system cannot tell."""
    if sys.platform == "win32":
        return path.exists()
    import fcntl  # noqa: PLC0415  (POSIX only)

    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False
    finally:
        os.close(descriptor)


def plain(value: Any) -> Any:
    """A value as JSON has it: arrays as lists, dataclasses as objects, non-finite numbers and the rest as text."""
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


def restored(value: Any) -> Any:
    """The inverse of `plain` for numbers: the three strings become floats again, at any depth."""
    if isinstance(value, str):
        return NOT_FINITE.get(value, value)
    if isinstance(value, dict):
        return {name: restored(part) for name, part in value.items()}
    if isinstance(value, list):
        return [restored(part) for part in value]
    return value


def _decode_into(lines: list[Line], garbled: list[int], decoder: Any, number: int, text: bytes) -> None:
    if not text.strip():
        return
    try:
        lines.append(Line(number, restored(decoder.decode(text))))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        garbled.append(number)


def grouped(numbers: Iterable[int]) -> list[tuple[str, str]]:
    """Neighbouring lines as one place: a damaged megabyte is one warning, not ten thousand."""
    numbers = list(numbers)
    if not numbers:
        return []
    breaks = [0, *(i for i, (a, b) in enumerate(pairwise(numbers), start=1) if b != a + 1), len(numbers)]
    groups = [numbers[a:b] for a, b in pairwise(breaks)]
    return [
        (f"{group[0]}", "a garbled line is")
        if len(group) == 1
        else (f"{group[0]}-{group[-1]}", f"{len(group)} garbled lines are")
        for group in groups
    ]


def _lock(descriptor: int) -> bool:
    """Hold the file until it is closed or the process ends; False where another holds it."""
    if sys.platform == "win32":
        return True
    import fcntl  # noqa: PLC0415  (POSIX only)

    patience = time.monotonic() + _PATIENCE_SECONDS  # whoever asks `being_written` holds it for an instant
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


def _unlock_and_close(descriptor: int) -> None:
    if sys.platform != "win32":
        import fcntl  # noqa: PLC0415  (POSIX only)

        with suppress(OSError):  # a forked child that still has the file open must not hold the lock
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _ends_in_newline(descriptor: int, size: int) -> bool:
    os.lseek(descriptor, size - 1, os.SEEK_SET)
    return os.read(descriptor, 1) == b"\n"
