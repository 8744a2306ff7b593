"""Calls of the user's code: an error becomes one sentence, with the line that raised it."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from gradiometer.errors import BadArgument, GradiometerError, UserCodeFailed, summary, user_line


class user_code:  # noqa: N801 (used as a function is; a generator costs three times as much at each call)
    """A context manager around the user's own model, loss or data.

    Args:
        name: Name of the argument that is run.
        where: End of the message: the examples or the time. It is only formatted if there is one.

    Raises:
        UserCodeFailed: Something was raised inside; the message quotes it.

    >>> with user_code("loss", "at step 3"):
    ...     1 / 0
    Traceback (most recent call last):
    gradiometer.errors.UserCodeFailed: `loss` raised ZeroDivisionError: division by zero... (at step 3).
    """

    __slots__ = ("name", "where")

    def __init__(self, name: str, where: object = "") -> None:
        self.name = name
        self.where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, GradiometerError):
            return
        place = f" ({self.where})" if self.where else ""
        raise UserCodeFailed(
            f"`{self.name}` raised {summary(error)}{user_line(error)}{place}."
        ) from error


def user_module(name: str) -> ModuleType:
    """Import a module of the user, from the current folder first, unless it is that of a run.

    Raises:
        BadArgument: There is no such module.
        UserCodeFailed: The module raised an error.
    """
    from gradiometer.problems.imported_files import search_path  # noqa: PLC0415 (few import code)

    here = str(Path.cwd())
    sys.path[:] = search_path()
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            raise BadArgument(f"there is no module `{missing}`, {_where(here)}.") from error
        raise UserCodeFailed(f"importing `{name}` raised {summary(error)}.") from error


def _where(here: str) -> str:
    if here in sys.path:
        return f"neither installed nor in {here}"
    return (
        "which is not installed; the folder of a run is not searched: change to that of your code"
    )
