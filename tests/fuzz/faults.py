"""A shim under the file operations of a block: the n-th call fails, or all from it on, as a full
disk would make them."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from gradiometer import GradiometerError, Interrupted, RunDamaged, StorageFailed

CALLS = (
    "open",
    "write",
    "fsync",
    "rename",
    "replace",
    "mkdir",
    "listdir",
    "scandir",
    "unlink",
    "rmdir",
)
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE, errno.EROFS)
REFUSALS = (StorageFailed, Interrupted)
UNREADABLE = (*REFUSALS, RunDamaged)
"""Errors of work that reads files too."""


class Shim:
    """Counts the calls, and fails one of them, or this one and all that follow.

    Attributes:
        calls: Names of the calls made, in order.
    """

    def __init__(self, fails_at: int | None, number: int, *, lasting: bool = False) -> None:
        self.calls: list[str] = []
        self._number = number
        self._fails = (
            range(0)
            if fails_at is None
            else range(fails_at, sys.maxsize if lasting else fails_at + 1)
        )

    def wrapped(self, name: str, really: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) - 1 in self._fails:
                raise OSError(
                    self._number, os.strerror(self._number), *(str(each) for each in given[:1])
                )
            return really(*given, **named)

        return call


@contextmanager
def failing(
    fails_at: int | None, number: int = errno.EIO, *, lasting: bool = False
) -> Iterator[Shim]:
    """The file operations of the block go through a shim."""
    shim = Shim(fails_at, number, lasting=lasting)
    with ExitStack() as stack:
        for name in CALLS:
            stack.enter_context(patch.object(os, name, shim.wrapped(name, getattr(os, name))))
        yield shim


def check_sentence(
    error: BaseException | None, refusals: tuple[type[GradiometerError], ...], label: str
) -> bool:
    """An error must be one of these, with a sentence that names a file. Returns True if there is
    one."""
    if error is not None:
        assert isinstance(error, refusals), (
            f"{label}: {type(error).__name__}: {error} {getattr(error, '__notes__', '')}"
        )
        assert "`" in str(error) and str(error).endswith("."), f"{label}: {error}"
    return error is not None
