"""Every error gradiometer raises on purpose: one sentence a user can act on, and the exit code of
the command line.

    GradiometerError ├── BadArgument       2   an argument, option or file cannot be used;
    `.argument` names it       (a ValueError) ├── Unsupported       2   a model, optimizer or loop
    that gradiometer cannot measure             (a ValueError) ├── UserCodeFailed    2   the loss,
    model or problem given by the user raised or returned nonsense ├── RunNotFound       2   there
    is no run in this folder, or it has no checkpoint or no snapshots ├── RunDamaged        2   a
    run, a checkpoint or an artifact cannot be read ├── Diverged          4   a loss or a gradient
    is not finite ├── Interrupted       5   stopped before the end; the run can be resumed └──
    StorageFailed     6   something could not be written: permission, space, a deleted folder

Exit code 1 is left for bugs of ours, 3 for a finding at or above `--fail-on`. Code 6 also stands
for what the system itself refuses, such as memory or open files, and 141 for a reader of the output
that has ended.
"""

import errno
import re
import sysconfig
import traceback
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import ClassVar, ParamSpec, TypeVar

Given = ParamSpec("Given")
Returned = TypeVar("Returned")

# A library may be reached by a link, and lie outside of the environment: for all users, or for one.
# Beside this package lies the laboratory, whose name begins with that of this one.
_OURS = (str(Path(__file__).parent), str(Path(__file__).resolve().parent))
_STANDARD = sysconfig.get_path("stdlib")
_INSTALLED = {"site-packages", "dist-packages"}

# What cloudpickle names as the file of a function of a script that was sent to another process.
_SENT = "<dynamic-code>"

# Attribute of an error that was raised in a call of the user's code.
_MARK = "_gradiometer_called"

_NO_MEMORY = ("out of memory", "not allocate memory", "t allocate memory", "unable to allocate")

# A library for which there is no room. With another reason it ends with a colon and that reason.
_UNMAPPED = re.compile("failed to map segment from shared object(?!:)")


class GradiometerError(Exception):
    """Base class of all errors raised on purpose. The message is one sentence a user can act on."""

    exit_code: ClassVar[int] = 2


class BadArgument(GradiometerError, ValueError):
    """An argument, an option or a file cannot be used. The message says what was given and what to
    do instead.

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
    """The user's own loss, model or problem raised an error, or returned something that cannot be
    used."""


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
    """Something could not be written: no permission, no space, or a folder that was deleted
    meanwhile."""

    exit_code: ClassVar[int] = 6


def text_of(error: BaseException) -> str:
    """The message of an error; empty if it cannot be printed."""
    try:
        return str(error)
    except Exception:
        return ""


def summary(error: BaseException) -> str:
    """Type and message of an error, as part of a sentence. The type alone if no message can be
    printed.

    Letters that UTF-8 lacks, as in a file name of other bytes, become question marks.
    """
    first_line = (
        text_of(error).strip().partition("\n")[0].rstrip(".").encode(errors="replace").decode()
    )
    first_line = printable(first_line)
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def printable(text: str) -> str:
    """The text with control characters written as escapes, such as those that colour or clear a
    terminal.

    Line breaks stay.

    >>> printable("a \x1b[31mred\x1b[0m word")
    'a \\\\x1b[31mred\\\\x1b[0m word'
    """
    if text.isascii() and text.isprintable():
        return text
    # Control and format characters, halves of surrogate pairs, and separators of lines are not
    # shown.
    return "".join(
        letter
        if letter == "\n" or letter.isprintable() or unicodedata.category(letter) == "Zs"
        else ascii(letter)[1:-1]
        for letter in text
    )


class calling:  # noqa: N801 (used as a function is)
    """A context manager around a call of the user's code: it marks an error raised inside, and lets
    it pass.

    The error keeps its type, which the code around may know what to make of. If nothing does, the
    boundary of the
    command or of the public function makes UserCodeFailed of it: see `of_user`.

    Args:
        name: Name of the argument that is called.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            mark(error, self.name)


def mark(error: Exception, name: str) -> None:
    """Mark an error as one of the user's code, if it is not marked yet."""
    if not hasattr(error, _MARK):
        with suppress(AttributeError):  # a class with slots
            setattr(error, _MARK, name)


def of_user(error: BaseException) -> UserCodeFailed | None:
    """UserCodeFailed for an error that came out of the user's code; None for one of gradiometer's
    own.

    It came out of the user's code if it was raised in a call that is marked as one of it, or passed
    through a file that is neither gradiometer's nor an installed library's.
    """
    if isinstance(error, GradiometerError) or not isinstance(error, Exception):
        return None
    name, line = getattr(error, _MARK, None), user_line(error)
    if name is None and not line:
        return None
    return UserCodeFailed(f"{f'`{name}`' if name else 'your code'} raised {summary(error)}{line}.")


def bounded(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """A public function around code of the user: what that code raises is UserCodeFailed, with the
    user's line."""

    @wraps(function)
    def called(*given: Given.args, **named: Given.kwargs) -> Returned:
        try:
            return function(*given, **named)
        except Exception as error:
            theirs = of_user(error)
            if theirs is None:
                raise
            raise theirs from error

    return called


def user_line(error: BaseException) -> str:
    """The last line in a file of the user that led to an error, as part of a sentence; empty if
    there is none."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        file, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__"))
        if file == _SENT:
            file = (
                "<ours>"
                if module.partition(".")[0] in ("gradiometer", "gradiometer_lab")
                else frame.f_globals.get("__file__", module)
            )
        # A file of gradiometer, of Python or of an installed library, or none.
        is_installed = not _INSTALLED.isdisjoint(Path(file).parts)
        if not (is_installed or file.startswith((*_OURS, _STANDARD, "<"))):
            return f", at {Path(file).name}:{line}"
    return ""


def ran_out_of_memory(error: BaseException) -> bool:
    """True if an error, or the error of the user's code that it quotes, says that there is no more
    memory."""
    words = text_of(error).lower()
    if isinstance(error, UserCodeFailed):
        if error.__cause__ is not None:
            return ran_out_of_memory(error.__cause__)
        # another process sends no cause
        return any(each in words for each in ("memoryerror", *_NO_MEMORY))
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, ImportError) and _UNMAPPED.search(words) is not None)
        or (
            isinstance(error, RuntimeError | ImportError | OSError)
            and any(each in words for each in _NO_MEMORY)
        )
    )
