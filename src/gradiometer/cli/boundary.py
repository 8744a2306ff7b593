"""The boundary between commands and the system: every error becomes one sentence and an exit code,
and standard output and standard error never end a command.

A failed write is remembered and later ones are dropped, so that a command still stores its results
if the reader of its output has ended or the disk is full. Letters that the encoding lacks are
spelled in ASCII: η as eta, ± as +-.
"""

import codecs
import errno
import io
import os
import re
import signal
import sys
import threading
import traceback
import unicodedata
from _thread import start_new_thread
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import click

from gradiometer.errors import (
    BadArgument,
    GradiometerError,
    Interrupted,
    StorageFailed,
    UserCodeFailed,
    of_user,
    printable,
    ran_out_of_memory,
    summary,
    text_of,
    user_line,
)

# Environment variable that adds the traceback to every error.
DEBUG = "GRADIOMETER_DEBUG"

REFUSED = StorageFailed.exit_code

# Exit code of other programs whose reader has ended: a shell adds 128 to the number of SIGPIPE.
READER_ENDED = 128 + 13

# Most letters of a sentence.
LONGEST = 2_000

_BUG = "this is a bug in gradiometer; the traceback above shows where"

# Errors of the system that are never a bug, with a way out.
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EACCES: "check the permissions, or choose another folder",
    errno.EPERM: "check the permissions, or choose another folder",
    errno.EROFS: "choose another folder",
    errno.EIO: "check the disk",
    errno.EFBIG: "raise the limit of the size of a file with `ulimit -f`",
}

# Errors that are a bug, unless the path is one that the user has chosen.
_OF_A_PATH = {
    errno.ENOENT: "check that it still exists",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a file",
    errno.EEXIST: "choose another path",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "check the links in the path",
}

_MORE_MEMORY = (
    "there is not enough memory: use a smaller batch, fewer examples, or close other programs."
)


def explain(error: BaseException, arguments: Sequence[str]) -> tuple[str, int]:
    """One sentence for an error, and the exit code. The code is 1 if the error is a bug of
    gradiometer.

    A sentence that quotes a very long text is shortened in its middle.
    """
    sentence, code = _explain(error, arguments)
    return shorten(printable(sentence)), code


def shorten(sentence: str) -> str:
    """The sentence, without the middle of a very long text that it quotes."""
    if len(sentence) <= LONGEST:
        return sentence
    return f"{sentence[: LONGEST // 2]} … {sentence[-LONGEST // 2 :]}"


def _explain(error: BaseException, arguments: Sequence[str]) -> tuple[str, int]:
    theirs = None if _is_interrupt(error) else of_user(error)
    if theirs is not None:
        theirs.__cause__, error = error, theirs
    if isinstance(error, UserCodeFailed):
        shortage = _MORE_MEMORY if ran_out_of_memory(error) else _shortage(error.__cause__ or error)
        if shortage is not None:
            return f"{str(error).rstrip('.')}: {shortage}", REFUSED
    if isinstance(error, GradiometerError):
        return str(error), error.exit_code
    if _is_interrupt(error):
        return "stopped before the end.", Interrupted.exit_code
    if not isinstance(error, Exception):
        return (
            f"{summary(error)} was raised{user_line(error)}, which ends a program.",
            UserCodeFailed.exit_code,
        )
    sentence = _shortage(error) or (
        _refusal(error, arguments) if isinstance(error, OSError) else None
    )
    if sentence is None and sys.flags.optimize > 1 and "Found no doc" in text_of(error):
        return (
            "the charts need the docstrings that Python's -OO (PYTHONOPTIMIZE=2) removes: leave it "
            "out.",
            REFUSED,
        )
    return (_BUG, 1) if sentence is None else (sentence, REFUSED)


def check_environment() -> None:
    """Refuse a value that a library would stumble over while it is imported.

    Raises:
        BadArgument: SOURCE_DATE_EPOCH, which NumPy reads, is not a whole number.
    """
    written = os.environ.get("SOURCE_DATE_EPOCH")
    if written is not None and not re.fullmatch(r"\s*[0-9]{1,18}\s*", written):
        raise BadArgument(
            "the environment variable SOURCE_DATE_EPOCH must be a number of seconds, got "
            f"{written!r}: unset it."
        )


def report_error(error: BaseException, arguments: Sequence[str]) -> tuple[str, int]:
    """Print an error on standard error, with its traceback if it is a bug or asked for. Returns
    sentence and code."""
    sentence, code = explain(error, arguments)
    if code == 1 or os.environ.get(DEBUG, "0") not in ("", "0"):
        click.echo(printable("".join(traceback.format_exception(error))), err=True, nl=False)
    click.echo(f"error: {sentence}", err=True)
    return sentence, code


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt inside, like Ctrl-C, so that a command ends in order.

    Python ignores an exception in `__del__`, in a callback of a weak reference and in
    `sys.unraisablehook`. If it ignores this one, SIGTERM is sent again a little later, as often as
    needed. Without a new thread for that, the process ends at once. If a library makes another
    error of it, the command has ended by SIGTERM nevertheless.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "pthread_kill"
    ):
        yield
        return
    main, over, hook = threading.get_ident(), threading.Event(), sys.unraisablehook
    asked = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        if any(each.f_code is ignore.__code__ for each, _ in traceback.walk_stack(frame)):
            send_again()
        else:
            raise KeyboardInterrupt

    def ignore(what: "sys.UnraisableHookArgs") -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            send_again()
        else:
            hook(what)

    def send_again() -> None:
        try:
            start_new_thread(send, ())
        except RuntimeError:  # the system starts no more threads
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    def send() -> None:
        if not over.wait(0.01):
            signal.pthread_kill(main, signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    sys.unraisablehook = ignore
    try:
        yield
    except Exception as error:
        if asked and not isinstance(
            error, GradiometerError | click.exceptions.Exit | click.ClickException
        ):
            raise KeyboardInterrupt from error
        raise
    finally:
        over.set()
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)


def _is_interrupt(error: BaseException | None) -> bool:
    """True for KeyboardInterrupt, also as the cause: Python 3.11 turns one in `__set_name__` into a
    RuntimeError."""
    return error is not None and (
        isinstance(error, KeyboardInterrupt) or _is_interrupt(error.__cause__)
    )


def _shortage(error: BaseException) -> str | None:
    """A sentence if memory, open files or processes have run out."""
    if ran_out_of_memory(error):
        return _MORE_MEMORY
    if _is_descriptors(error):
        return (
            "too many files are open: raise the limit with `ulimit -n 4096`, or close other "
            "programs."
        )
    if "can't start new thread" in text_of(error) or (
        isinstance(error, OSError) and error.errno == errno.EAGAIN
    ):
        return (
            "the system starts no more threads or processes: raise `ulimit -u`, or close other "
            "programs."
        )
    return None


def _refusal(error: OSError, arguments: Sequence[str]) -> str | None:
    """A sentence if a file is refused that the user has chosen."""
    number = error.errno or 0
    reason = (error.strerror or str(error)).lower()
    try:
        Path.cwd()
    except OSError:
        return "the current folder was deleted: change to another one."
    place = (
        f"`{os.fsdecode(error.filename)}`" if isinstance(error.filename, str | bytes) else "a file"
    )
    if number in _REMEDIES:
        return f"{place} could not be read or written ({reason}): {_REMEDIES[number]}."
    if number in _OF_A_PATH and isinstance(error.filename, str | bytes):
        # Was the path given on the command line, or does it lie in a folder that was, or in the
        # folder of the runs, or on the way to one?
        path = Path(os.fsdecode(error.filename)).absolute()
        given = [argument.partition("=")[2] or argument for argument in arguments if argument]
        folders = [Path(each).absolute() for each in (*given, "runs")]
        if any(path.is_relative_to(each) or each.is_relative_to(path) for each in folders):
            return f"{place} could not be read or written ({reason}): {_OF_A_PATH[number]}."
    return None


def _is_descriptors(error: BaseException) -> bool:
    """True if no more files can be opened. An import then says that there is no such module."""
    if isinstance(error, OSError):
        return error.errno in (errno.EMFILE, errno.ENFILE)
    if not isinstance(error, ImportError):
        return False
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as refused:
        return refused.errno in (errno.EMFILE, errno.ENFILE)
    return False


_ERRORS = "spelled_out"
_SIGNS = {
    "λ": "lambda",  # Unicode calls it lamda
    "Λ": "Lambda",
    "±": "+-",
    "×": "x",
    "·": "*",
    "−": "-",
    "–": "-",
    "—": "-",
    "→": "->",
    "←": "<-",
    "∞": "inf",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "≈": "~",
    "‖": "||",
    "√": "sqrt ",
    "∇": "grad ",
    "✓": "ok",
    "✗": "x",
    "◆": "*",
    "▲": "!",
    "▸": ">",
    "▶": ">",
    "─": "-",
    "│": "|",
    **dict(zip("▁▂▃▄▅▆▇█", "_.,-~=*#", strict=True)),
}


def in_ascii(text: str) -> str:
    """The text in ASCII.

    >>> in_ascii("η = 0.1 ± 0.02, ‖ĝ‖²")
    'eta = 0.1 +- 0.02, ||g||^2'
    """
    return "".join(letter if letter.isascii() else _name_of(letter) for letter in text)


def _name_of(letter: str) -> str:
    if letter in _SIGNS:
        return _SIGNS[letter]
    name = unicodedata.name(letter, "").split()
    if name[:1] == ["GREEK"] and "LETTER" in name:
        return name[-1].capitalize() if "CAPITAL" in name else name[-1].lower()
    kind = unicodedata.decomposition(letter).partition(" ")[0]
    parts = unicodedata.normalize("NFKD", letter).replace("\N{FRACTION SLASH}", "/")
    plain = "".join(part for part in parts if part.isascii())
    if plain:
        return {"<super>": "^", "<sub>": "_"}.get(kind, "") + plain
    return "" if unicodedata.combining(letter) else "?"


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_ascii(error.object[error.start : error.end]), error.end


codecs.register_error(_ERRORS, _spell)


class _Text(io.TextIOWrapper):
    """A stream that stays open: after `sys.stdout.close()` in the user's code a command still has
    an answer to print."""

    def close(self) -> None:
        """Write what is buffered."""
        self.flush()


class _Buffer(io.BufferedWriter):
    """The same for `sys.stdout.buffer.close()`."""

    def close(self) -> None:
        """Write what is buffered."""
        self.flush()


class _AsciiText(_Text):
    """A stream in ASCII."""

    # No name that click knows: it replaces a stream in plain ASCII by one in UTF-8.
    encoding = "spelled_ascii"

    def write(self, text: str) -> int:
        return super().write(in_ascii(text))


class _Sink(io.RawIOBase):
    """An open file that remembers the first write that failed, and drops later ones."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.failed: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._file.fileno())

    def isatty(self) -> bool:
        return bool(self._file.isatty())

    def write(self, content: Any) -> int | None:
        if self.failed is None:
            try:
                written: int | None = self._file.write(content)
                return written
            except OSError as error:
                self.failed = error
            except ValueError:  # the user's code has closed the file itself, `sys.__stdout__`
                self.failed = OSError(errno.EBADF, os.strerror(errno.EBADF))
        return len(content)


class Streams:
    """Replaces `sys.stdout` and `sys.stderr` during a command, unless the program that calls it has
    replaced them."""

    def __enter__(self) -> "Streams":
        self._before = sys.stdout, sys.stderr
        sys.stdout, self._out = _safe(sys.stdout, sys.__stdout__)
        sys.stderr, _ = _safe(sys.stderr, sys.__stderr__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.failure()
        sys.stdout, sys.stderr = self._before

    def failure(self) -> OSError | None:
        """Write what is buffered. Returns the first error of standard output, or None."""
        for stream in (sys.stdout, sys.stderr):
            # the user's code may have put another stream here, or None, and closed it
            if stream is not None and not stream.closed:
                stream.flush()
        return None if self._out is None else self._out.failed


def _safe(stream: Any, original: Any) -> tuple[Any, _Sink | None]:
    if stream is None:  # closed by the shell, as in `>&-`
        return Path(os.devnull).open("w", encoding="utf-8"), None
    if stream is not original or not isinstance(stream, io.TextIOWrapper):
        return stream, None
    stream.flush()
    sink = _Sink(getattr(stream.buffer, "raw", stream.buffer))
    kind = _AsciiText if codecs.lookup(stream.encoding).name == "ascii" else _Text
    lines = stream.line_buffering or stream.write_through
    buffered = _Buffer(sink)
    return kind(buffered, stream.encoding, _ERRORS, line_buffering=lines), sink
