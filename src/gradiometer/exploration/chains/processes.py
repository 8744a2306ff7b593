"""Run parts of some work in forked processes, one thread each."""

import io
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from gradiometer.errors import BadArgument, Interrupted

Part = TypeVar("Part")
Answer = TypeVar("Answer")

_work: list[Callable[[Any], Any]] = []
"""The function that a process runs. It is set after the fork, so that it need not be picklable."""


def in_processes(work: Callable[[Part], Answer], parts: Sequence[Part]) -> list[Answer]:
    """Call `work` on every part, each part in its own process, and return the answers in order.

    The processes are forked, so only the parts and the answers must be picklable. Works on Linux only.

    Raises:
        BadArgument: This is not Linux.
        Interrupted: A process was killed.
        Exception: The error that `work` raised in a process. Its cause holds the traceback.
    """
    if not sys.platform.startswith("linux"):
        raise BadArgument(f"`processes` works only on Linux, where forking is safe, and this is {sys.platform}: use 1.")
    context = multiprocessing.get_context("fork")
    try:
        with ProcessPoolExecutor(len(parts), context, initializer=_prepare, initargs=(work,)) as pool:
            return [torch.load(io.BytesIO(answer), weights_only=False) for answer in pool.map(_run, parts)]
    except BrokenProcessPool as error:
        raise Interrupted(
            "a process was killed, perhaps because memory ran out: run again with fewer `processes`."
        ) from error


def _prepare(work: Callable[[Any], Any]) -> None:
    torch.set_num_threads(1)  # torch must not use more threads than one after a fork
    _work.append(work)


def _run(part: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(_work[-1](part), buffer)
    return buffer.getvalue()
