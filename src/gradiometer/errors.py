"""Every error gradiometer raises on purpose: one sentence a user can act on, and the exit code of the command line.

    GradiometerError
    ├── BadArgument       2   an argument, option or file cannot be used; `.argument` names it       (a ValueError)
    ├── Unsupported       2   a model, optimizer or loop that gradiometer cannot measure             (a ValueError)
    ├── UserCodeFailed    2   the loss, model or problem given by the user raised or returned nonsense
    ├── RunNotFound       2   there is no run in this folder, or it has no checkpoint or no snapshots
    ├── RunDamaged        2   a run, a checkpoint or an artifact cannot be read
    ├── Diverged          4   a loss or a gradient is not finite
    ├── Interrupted       5   stopped before the end; the run can be resumed
    └── StorageFailed     6   something could not be written: permission, space, a deleted folder

Exit code 1 is left for bugs of ours, 3 for a finding at or above `--fail-on`. Code 6 also stands for what the system
itself refuses, such as memory or open files, and 141 for a reader of the output that has ended.
"""

import errno
import re
import sysconfig
import traceback
from pathlib import Path
from typing import ClassVar

_OURS = str(Path(__file__).resolve().parent)
_INSTALLED = tuple(sysconfig.get_paths()[key] for key in ("stdlib", "purelib", "platlib"))

_NO_MEMORY = ("out of memory", "not allocate memory", "t allocate memory", "unable to allocate")
_UNMAPPED = re.compile("failed to map segment from shared object(?!:)")
"""A library for which there is no room. With another reason it ends with a colon and that reason."""


class GradiometerError(Exception):
    """Base class of all errors raised on purpose. The message is one sentence a user can act on."""

    exit_code: ClassVar[int] = 2


class BadArgument(GradiometerError, ValueError):
    """An argument, an option or a file cannot be used. The message says what was given and what to do instead.

    Attributes:
        argument: Name of the argument; empty if the message names none.

    >>> BadArgument("`parts` must be at least 2, got 1.").argument
    'parts'
    """

    @property
    def argument(self) -> str:
        """The first name in backticks of the message."""
        named = re.search(r"`-*([^`\s]+)`", str(self))
        return named[1] if named else ""


class Unsupported(GradiometerError, ValueError):
    """A model, an optimizer or a training loop that gradiometer cannot measure."""


class UserCodeFailed(GradiometerError):
    """The user's own loss, model or problem raised an error, or returned something that cannot be used."""


class RunNotFound(GradiometerError):
    """There is no run in this folder, or it has no checkpoint or no snapshots."""


class RunDamaged(GradiometerError):
    """A run, a checkpoint or an artifact exists but cannot be read."""


class Diverged(GradiometerError):
    """Training produced a loss or a gradient that is not finite, or a loss beyond all bounds."""

    exit_code: ClassVar[int] = 4


class Interrupted(GradiometerError):
    """Training stopped before its end, and the run can be resumed. The message says how."""

    exit_code: ClassVar[int] = 5


class StorageFailed(GradiometerError):
    """Something could not be written: no permission, no space, or a folder that was deleted meanwhile."""

    exit_code: ClassVar[int] = 6


def text_of(error: BaseException) -> str:
    """The message of an error; empty if it cannot be printed."""
    try:
        return str(error)
    except Exception:
        return ""


def summary(error: BaseException) -> str:
    """Type and message of an error, as part of a sentence. The type alone if no message can be printed.

    Letters that UTF-8 lacks, as in a file name of other bytes, become question marks.
    """
    first_line = text_of(error).strip().partition("\n")[0].rstrip(".").encode(errors="replace").decode()
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def user_line(error: BaseException) -> str:
    """The last line in a file of the user that led to an error, as part of a sentence; empty if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((_OURS, *_INSTALLED, "<")):
            return f", at {Path(frame.filename).name}:{frame.lineno}"
    return ""


def ran_out_of_memory(error: BaseException) -> bool:
    """True if an error, or the error of the user's code that it quotes, says that there is no more memory."""
    words = text_of(error).lower()
    if isinstance(error, UserCodeFailed):
        if error.__cause__ is not None:
            return ran_out_of_memory(error.__cause__)
        return any(each in words for each in ("memoryerror", *_NO_MEMORY))  # another process sends no cause
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if isinstance(error, ImportError) and _UNMAPPED.search(words):
        return True
    return isinstance(error, RuntimeError | ImportError | OSError) and any(each in words for each in _NO_MEMORY)
