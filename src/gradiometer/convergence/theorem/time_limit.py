"""A limit of time for a call."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")


class _OutOfTime(BaseException):
    """The function took too long. Not an Exception, so that an `except Exception` in the function
    cannot catch it."""


def within(seconds: float, call: Callable[[], Result]) -> Result | None:
    """What a call returns, or None if it takes longer. In other threads than the main one there is
    no limit.

    The time is that of the processor, so that a busy machine does not change an answer, up to four
    times as long.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        return call()
    ours = _OutOfTime()
    armed = [True]

    def stop(_: int, __: FrameType | None) -> None:
        if not armed:
            return
        if time.thread_time() - spent < seconds and time.monotonic() - began < 4 * seconds:
            signal.setitimer(signal.ITIMER_REAL, seconds / 4)
            return
        armed.clear()
        raise ours

    began = time.monotonic()
    spent = time.thread_time()
    outer, _ = signal.getitimer(signal.ITIMER_REAL)
    seconds = min(seconds, outer) if outer else seconds
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        found = call()
        armed.clear()
        return found
    except _OutOfTime as error:
        if error is not ours:
            raise
        return None
    finally:
        armed.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if outer:  # the time of the outer call goes on
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.monotonic() - began), 1e-3))
