"""Requests to stop that a long computation heeds between its steps.

Training itself heeds a request between two updates. A computation before the first update, such as
the check of the
edge of stability, has no updates: it asks `heed` before each Hessian product instead.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_asked: ContextVar[Callable[[], bool] | None] = ContextVar("asked", default=None)


class StopAsked(BaseException):
    """A stop was asked for, and the computation ended before its result. Nothing of it is kept.

    No Exception, so that no handler of errors on the way takes it for a failure of the computation.
    """


@contextmanager
def heeding(asked: Callable[[], bool]) -> Iterator[None]:
    """Computations inside end with StopAsked at their next step once `asked()` is true."""
    before = _asked.set(asked)
    try:
        yield
    finally:
        _asked.reset(before)


def heed() -> None:
    """Raise StopAsked if a stop was asked for, and the caller of the computation is ready for it.

    >>> heed()  # nobody listens
    >>> with heeding(lambda: True):
    ...     heed()
    Traceback (most recent call last):
    gradiometer.interruption.StopAsked
    """
    asked = _asked.get()
    if asked is not None and asked():
        raise StopAsked
