"""A process of a pool, seen from inside: it performs jobs until the program that started it ends."""

import importlib
import os
import queue
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from gradiometer.jobs.channel import PREPARE, Channel
from gradiometer.jobs.parcels import packed_outcome, read_shared, unpacked
from gradiometer.jobs.performing import Desk


def serve(modules: Sequence[str] = ()) -> None:
    """Perform jobs, one at a time, and never return.

    Args:
        modules: Names of modules to import first.
    """
    channel = _taken_over()
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    desk, folders = Desk(), list[Path]()
    threading.Thread(target=_listen, args=(channel, messages, folders), daemon=True).start()
    for name in modules:
        importlib.import_module(name)
    with suppress(BrokenPipeError):  # the program has ended, and `_listen` ends this process
        channel.say_ready()
    while True:
        message = messages.get()
        if message[:1] == PREPARE:
            folder, _, caller = message[1:].partition(b"\0")
            unpacked(caller).imitate()
            desk.prepare(os.fsdecode(folder), partial(read_shared, Path(os.fsdecode(folder))) if folder else None)
        else:
            with suppress(BrokenPipeError):
                channel.send(packed_outcome(desk.perform(message[1:])))


def _taken_over() -> Channel:
    """Keep standard input and output for messages, and give jobs an empty input and standard error as their output."""
    channel = Channel(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"))
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return channel


def _listen(channel: Channel, messages: "queue.SimpleQueue[bytes]", folders: list[Path]) -> None:
    """Receive messages, also during a job, to notice at once that the other program has ended."""
    try:
        while True:
            message = channel.receive()
            if message[:1] == PREPARE:  # noted at once: this may be the last message
                shared = message[1:].partition(b"\0")[0]
                folders[:] = [Path(os.fsdecode(shared))] if shared else []
            messages.put(message)
    except (EOFError, OSError):
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        if sys.platform != "win32" and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)  # also the processes that a job has started
        os._exit(1)
