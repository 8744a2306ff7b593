"""Code that is not ours: what it raises becomes one sentence that names it, and the line it was raised in."""

import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

from gradiometer.errors import BadArgument, GradiometerError

OURS = str(Path(__file__).resolve().parents[1])
INSTALLED = tuple(sysconfig.get_paths()[key] for key in ("stdlib", "purelib", "platlib"))


@contextmanager
def user_code(name: str, where: str = "") -> Iterator[None]:
    """A region that runs a person's own model, loss or data.

    Args:
        name: What is run, as its argument is called.
        where: On what, as the end of a sentence.

    Raises:
        BadArgument: Whatever was raised inside, with its own words.
    """
    try:
        yield
    except GradiometerError:
        raise
    except Exception as error:
        place = f" ({where})" if where else ""
        raise BadArgument(f"`{name}` raised {said(error)}{_line(error)}{place}.") from error


def user_module(name: str) -> ModuleType:
    """Import a module of the user's, from the current folder first."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise BadArgument(f"there is no module `{error.name}`, neither installed nor in {here}.") from error
        raise BadArgument(f"importing `{name}` raised {said(error)}.") from error
    except (Exception, SystemExit) as error:
        raise BadArgument(f"importing `{name}` raised {said(error)}.") from error


def said(error: BaseException) -> str:
    """Type and message of an error, as part of a sentence."""
    first_line = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def _line(error: BaseException) -> str:
    """The last line in a file of their own that led to the error."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((OURS, *INSTALLED, "<")):
            return f", at {Path(frame.filename).name}:{frame.lineno}"
    return ""
