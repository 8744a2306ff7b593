"""Checks of numbers given as arguments: the same mistake gets the same sentence everywhere."""

import math
from typing import Any

import numpy as np

from gradiometer.errors import BadArgument


def check_number(name: str, value: Any, *, positive: bool = False) -> None:
    """Raise unless `value` is a finite number and positive, or at least 0.

    >>> from gradiometer.arguments import check_number
    >>> check_number("learning_rate", 0.1, positive=True)
    >>> check_number("learning_rate", float("nan"), positive=True)
    Traceback (most recent call last):
    gradiometer.errors.BadArgument: `learning_rate` must be positive and finite, got nan.
    """
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not (number and 0 <= value < math.inf and (value > 0 or not positive)):
        shown = value if number else repr(value)
        raise BadArgument(
            f"`{name}` must be {'positive' if positive else 'at least 0'} and finite, got {shown}."
        )


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise unless `value` is a whole number, at least `least`, and small enough for files and
    tensors."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise BadArgument(f"`{name}` must be a whole number, got {value!r}.")
    if not value >= least:
        raise BadArgument(f"`{name}` must be at least {least}, got {value}.")
    if not value < 2**63:
        raise BadArgument(
            f"`{name}` must be below 2^63, got about 2^{int(value).bit_length() - 1}."
        )


def check_level(level: float, name: str = "level") -> None:
    """Raise unless `level` is a confidence level."""
    if not 0 < level < 1:
        raise BadArgument(f"`{name}` must lie between 0 and 1, got {level}: write 0.9 for 90 %.")
