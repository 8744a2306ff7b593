"""A process of a pool, seen from inside: it performs jobs until the program that started it ends."""

import os
import queue
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from gradiometer.jobs.caller import Caller
from gradiometer.jobs.channel import PREPARE, READY, Channel
from gradiometer.jobs.job import Outcome
from gradiometer.jobs.parcels import packed_outcome, read_shared, unpacked
from gradiometer.jobs.performing import failed, performed


def serve() -> None:
    """Perform jobs, one at a time, and never return."""
    channel = _taken_over()
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    desk = Desk()
    threading.Thread(target=_listen, args=(channel, messages, desk), daemon=True).start()
    channel.send(READY)
    while True:
        message = messages.get()
        if message[:1] == PREPARE:
            desk.prepare(*unpacked(message[1:]))
            continue
        outcome = desk.perform(message[1:])
        sys.stdout.flush()
        channel.send(packed_outcome(outcome))


class Desk:
    """Performs jobs, and keeps what they share.

    Attributes:
        path: The file of what the jobs share, if they share something.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self._shared: Any = None

    def prepare(self, caller: Caller, path: Path | None) -> None:
        """Take over the settings and the shared object for the jobs that follow."""
        self.path, self._shared = path, None
        caller.imitate()

    def perform(self, parcel: bytes) -> Outcome:
        """The outcome of a job."""
        try:
            if self._shared is None and self.path is not None:
                self._shared = read_shared(self.path)
            job = unpacked(parcel)
        except Exception as error:  # such as a module that is not in the search path
            return failed("", error, 0.0)
        return performed(job, self._shared)


def _taken_over() -> Channel:
    """Keep standard input and output for messages, and give jobs an empty input and standard error as their output."""
    channel = Channel(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"))
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return channel


def _listen(channel: Channel, messages: "queue.SimpleQueue[bytes]", desk: Desk) -> None:
    """Receive messages, also during a job, to notice at once that the other program has ended."""
    try:
        while True:
            messages.put(channel.receive())
    except (EOFError, OSError):
        if desk.path is not None:
            shutil.rmtree(desk.path.parent, ignore_errors=True)
        if sys.platform != "win32" and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)  # also the processes that a job has started
        os._exit(1)
