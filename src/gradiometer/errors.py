"""Every error gradiometer raises on purpose: one sentence, and the exit code the command line gives it."""

from typing import ClassVar


class GradiometerError(Exception):
    """The family of all errors raised on purpose. Its message is one sentence a user can act on."""

    exit_code: ClassVar[int] = 1


class BadInput(GradiometerError, ValueError):
    """Something handed to us cannot be used: it is named, with what was got and the way out."""

    exit_code: ClassVar[int] = 2


class Diverged(GradiometerError):
    """Training produced a loss or a gradient that is not finite, or a loss beyond all bounds."""

    exit_code: ClassVar[int] = 4


class Interrupted(GradiometerError):
    """Training stopped before its end, and the run can be resumed; the message says how."""

    exit_code: ClassVar[int] = 5
