"""Single values of a configuration: their types, and the largest rate of a schedule that is a
formula."""

import difflib
import json
import re
from contextlib import suppress
from typing import Any, get_args

import msgspec

from gradiometer.errors import BadArgument

# Names of schedules. Cosine and linear decay to zero over the run, a trapezoid over its second
# half, and cycles in each of its `snapshots` cycles.
SCHEDULES = ("constant", "cosine", "linear", "trapezoid", "cycles")

_EXPECTED = {int: "an integer", float: "a number", str: "text in quotes", bool: "true or false"}


def largest_rate(schedule: str, learning_rate: float | None) -> float:
    """The largest η of a schedule given as a formula, over steps spaced geometrically up to a
    million.

    Raises:
        BadArgument: It cannot be read, it has no rate at step 0, or `learning_rate` is another than
            its largest η.
    """
    if re.fullmatch(r"[A-Za-z_-]{2,}|", schedule.strip()):
        nearest = difflib.get_close_matches(schedule, SCHEDULES, n=1)
        hint = (
            f"did you mean {nearest[0]}?"
            if nearest
            else f"use one of {', '.join(SCHEDULES)}, or a formula in t."
        )
        raise BadArgument(f"`schedule` {schedule!r} is unknown: {hint}")
    from gradiometer.convergence.theorem.theorem import read  # noqa: PLC0415 (slow, and `--help` does not need it)

    try:
        shape = read(schedule)
        largest = shape(0)
    except BadArgument as error:
        raise BadArgument(f"`schedule`: {error}") from None
    with suppress(BadArgument):  # the training checks all its steps
        for power in range(81):
            largest = max(largest, shape(int(2 ** (power / 4))))
    if learning_rate not in (largest, None):
        raise BadArgument(
            f"`learning_rate` is {learning_rate:g}, but `schedule` is a formula for η, up to "
            f"{largest:g}: leave it out."
        )
    return largest


def typed(name: str, value: Any, kind: Any) -> Any:
    """The value as its type.

    Raises:
        BadArgument: It cannot be converted.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        written = (
            "a table"
            if isinstance(value, dict)
            else json.dumps(value, default=repr, ensure_ascii=False)
        )
        raise BadArgument(f"`{name}` must be {_expected(kind)}, got {written}.") from None


def _expected(kind: Any) -> str:
    choices = get_args(kind)
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if type(None) in choices:
        return _expected(choices[0])
    return "one of " + ", ".join(f'"{choice}"' for choice in choices)
