"""Requests to stop: Ctrl-C and SIGTERM."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets. A second Ctrl-C stops at once."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def way_out(step: int, reason: str) -> str:
    """Advice after a divergence. If the first loss is NaN, the cause is as often in the examples as in the rate."""
    if not step:
        return "look at the examples and at how the model starts"
    examples = ", or look for an example that is not finite" if reason.endswith("nan") else ""
    return f"try a smaller --lr{examples}"
