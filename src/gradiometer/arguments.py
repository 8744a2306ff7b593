"""Checks of arguments: the same mistake gets the same sentence everywhere."""

import os
import sys
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from gradiometer.errors import BadArgument

# More threads help on no machine, and torch ends the process if the system refuses it a thread.
MOST_THREADS = 512


def check_number(name: str, value: Any, *, positive: bool = False) -> None:
    """Raise unless `value` is a finite number and positive, or at least 0.

    >>> from gradiometer.arguments import check_number
    >>> check_number("learning_rate", 0.1, positive=True)
    >>> check_number("learning_rate", float("nan"), positive=True)
    Traceback (most recent call last):
    gradiometer.errors.BadArgument: `learning_rate` must be positive and finite, got nan.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not (number and 0 <= value <= sys.float_info.max and (value > 0 or not positive)):
        least = "positive" if positive else "at least 0"
        raise BadArgument(f"`{name}` must be {least} and finite, got {shown(value)}.")


def check_whole(name: str, value: Any, least: int, most: int | None = None, why: str = "") -> None:
    """Raise unless `value` is a whole number, at least `least`, at most `most` if that is given,
    and small enough for files and tensors. `why` ends the sentence."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole:
        raise BadArgument(f"`{name}` must be a whole number, got {shown(value)}.")
    reason = f": {why}" if why else ""
    end = f", got {shown(value)}{reason}."
    if most is not None and not least <= value <= most:
        raise BadArgument(f"`{name}` must lie between {least:,} and {most:,}{end}")
    if not value >= least:
        raise BadArgument(f"`{name}` must be at least {least}{end}")
    if not value < 2**63:
        raise BadArgument(f"`{name}` must be below 2^63, got {shown(value)}.")


def check_threads(threads: Any) -> None:
    """Raise unless `threads` is a number of threads that torch can start."""
    check_whole("threads", threads, 1)
    if not threads <= MOST_THREADS:
        raise BadArgument(f"`threads` must be at most {MOST_THREADS}, got {shown(threads)}.")


def check_level(level: Any, name: str = "level") -> None:
    """Raise unless `level` is a confidence level."""
    number = isinstance(level, Real)
    if not (number and 0 < level < 1):
        raise BadArgument(
            f"`{name}` must lie between 0 and 1, got {shown(level)}: write 0.9 for 90 %."
        )


def path_of(name: str, value: Any) -> Path:
    """The path of a folder. Raise for what is no path."""
    if not isinstance(value, str | os.PathLike):
        raise BadArgument(f"`{name}` must be the path of a folder, got {type_name(value)}.")
    if "\0" in os.fspath(value):
        raise BadArgument(f"`{name}` must be the path of a folder, got {shown(value)}.")
    return Path(value)


def folder_of(name: str, value: Any) -> Path:
    """A folder that is there or can be made. Raise for what is no path, and for a file."""
    path = path_of(name, value)
    # unlike that of `Path`, this one is False for a name that the system refuses
    if os.path.isfile(value):  # noqa: PTH113
        raise BadArgument(f"`{name}` must be a folder, got the file {value}.")
    return path


def check_scaler(scaler: Any) -> None:
    """Raise unless this is a gradient scaler, or None."""
    methods = ("is_enabled", "get_scale")
    if scaler is not None and not all(hasattr(scaler, method) for method in methods):
        raise BadArgument(f"`scaler` must be a torch.amp.GradScaler, got {type_name(scaler)}.")


def type_name(value: Any) -> str:
    """The type of a value, with its module unless that is Python's own."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def shown(value: Any) -> str:
    """A value as an error quotes it: its type, if it is too long to read."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return f"about {'-' * (value < 0)}2^{value.bit_length() - 1}"
    text = str(value) if isinstance(value, Real) else repr(value)
    # 100: about a line
    return text if len(text) <= 100 and text.isprintable() else type_name(value)
