"""Messages of bytes through a pair of pipes."""

import struct
from typing import BinaryIO

READY, PREPARE, JOB = b"R", b"P", b"J"
"""The kind of a message, its first byte: a process is ready, settings for the jobs that follow, a job."""

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
        """
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        return self._read(length)

    def _read(self, length: int) -> bytes:
        found = self._incoming.read(length)
        if len(found) < length:
            raise EOFError
        return found
