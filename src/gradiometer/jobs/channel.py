"""Messages of bytes through a pair of pipes."""

import errno
import os
import struct
from typing import BinaryIO

READY = b"\0gradiometer is ready\0"
"""The first bytes from a process. Earlier ones are text that was printed while Python started, as by sitecustomize."""

PREPARE, JOB = b"P", b"J"
"""The kind of a message, its first byte: the shared folder and settings for the jobs that follow, or a job."""

LARGEST = 1 << 48
"""Bytes of a message. A larger number is not the length of one."""

_LENGTH = struct.Struct("<Q")


class Channel:
    """Sends and receives messages of any length.

    Args:
        incoming: The pipe to read from.
        outgoing: The pipe to write to.
    """

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming, self._outgoing = incoming, outgoing

    def send(self, message: bytes) -> None:
        """Send a message.

        Raises:
            OSError: The other process has ended.
        """
        self._outgoing.write(_LENGTH.pack(len(message)))
        self._outgoing.write(message)
        self._outgoing.flush()

    def receive(self) -> bytes:
        """Wait for a message.

        Raises:
            EOFError: The other process has ended.
            OSError: What came is no message.
        """
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > LARGEST:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        return self._read(length)

    def say_ready(self) -> None:
        """Say that this process is ready for messages."""
        self._outgoing.write(READY)
        self._outgoing.flush()

    def wait_until_ready(self) -> None:
        """Wait until the other process is ready, and skip what was printed earlier.

        Raises:
            EOFError: The other process has ended.
        """
        last = b""
        while last != READY:
            last = (last + self._read(1))[-len(READY) :]

    def _read(self, length: int) -> bytes:
        found = self._incoming.read(length)
        if len(found) < length:
            raise EOFError
        return found
