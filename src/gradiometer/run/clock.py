"""The clock of a training: its time, without that of other loops in the same thread."""

import time
from collections.abc import Callable
from threading import RLock, get_ident
from typing import Any, ClassVar
from weakref import WeakSet


class Turns:
    """A clock that counts one watched loop, also if several take turns in one thread.

    A loop signals at every `step` and after every update. The time from one signal to the next,
    whoever gave it, belongs to the loop that gives the later one. A loop that is alone signals
    nothing.

    The processor time of a thread goes on where it was if another thread asks for it.

    Args:
        seconds: The clock that is shared by all loops of the thread.

    >>> now = 0.0
    >>> first, second = Turns(lambda: now), Turns(lambda: now)
    >>> first.enter()
    >>> second.enter()
    >>> now = 3.0
    >>> first.signal()
    >>> now = 8.0
    >>> second.signal()
    >>> first(), second()
    (3.0, 5.0)
    >>> second.leave()
    >>> first.leave()
    """

    # True if more than one loop is watched now, in any thread.
    several: ClassVar[bool] = False
    _entered: ClassVar[WeakSet["Turns"]] = WeakSet()
    # the set must not change while another thread goes through it
    _lock: ClassVar[Any] = RLock()

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._of_thread = seconds is time.thread_time
        self._reader = get_ident()
        self._offset = 0.0
        self._last = 0.0
        self._thread = 0
        self._mark = 0.0

    def __call__(self) -> float:
        """The seconds of this loop."""
        now = self._seconds() + self._offset
        if self._of_thread:
            thread = get_ident()
            if thread != self._reader:
                self._reader = thread
                self._offset += self._last - now
                now = self._last
            self._last = now
        return now

    def enter(self) -> None:
        """This loop is watched from now on, by the thread that calls."""
        with self._lock:
            self._entered.add(self)
            Turns.several = len(self._entered) > 1
            self._thread = get_ident()
            for clock in self._entered:
                if clock._thread == self._thread:
                    clock._mark = clock()

    def signal(self) -> None:
        """The time since the last signal of any loop in this thread was this loop's."""
        with self._lock:
            self._thread = get_ident()
            # a loop whose watch was never closed is forgotten with it
            Turns.several = len(self._entered) > 1
            for clock in self._entered:
                if clock._thread == self._thread:
                    now = clock()
                    if clock is self:
                        clock._mark = now
                    else:
                        # back by the time of this loop
                        clock._offset -= now - clock._mark
                        clock._last -= now - clock._mark

    def leave(self) -> None:
        """This loop is watched no longer."""
        if self in self._entered:
            self.signal()
        with self._lock:
            self._entered.discard(self)
            Turns.several = len(self._entered) > 1


def clock_for(device: str) -> Callable[[], float]:
    """The clock that counts what training and measuring cost on this kind of device.

    On the CPU it is the processor time of the thread that trains: on a busy machine the wall clock
    also counts other processes, and the time of the process a second training in another thread.
    With an accelerator it is the wall clock, since the processor does not do the work; measured
    steps wait for the accelerator before they are timed.

    Args:
        device: `torch.device.type` of the parameters.
    """
    return Turns(time.thread_time) if device == "cpu" else time.perf_counter
