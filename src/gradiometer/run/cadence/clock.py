"""The clock of the budget."""

import threading
import time
from collections.abc import Callable


def clock_for(device: str) -> Callable[[], float]:
    """The clock that counts what training and measuring cost on this kind of device.

    On the CPU it is the processor time of the thread that trains: on a busy machine the wall clock
    also counts other processes, and the time of the process a second training in another thread.
    With an accelerator it is the wall clock, since the processor does not do the work; measured
    steps wait for the accelerator before they are timed.

    Args:
        device: `torch.device.type` of the parameters.
    """
    return ThreadClock() if device == "cpu" else time.perf_counter


class ThreadClock:
    """Processor seconds of the thread that calls it. It goes on where it was if another thread
    does."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._offset = 0.0
        self._last = 0.0

    def __call__(self) -> float:
        """The seconds so far."""
        now = time.thread_time()
        thread = threading.get_ident()
        if thread != self._thread:
            self._thread = thread
            self._offset = self._last - now
        self._last = now + self._offset
        return self._last
