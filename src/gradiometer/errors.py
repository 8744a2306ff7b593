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

import re
from typing import ClassVar


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
