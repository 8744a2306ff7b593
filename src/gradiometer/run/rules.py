"""What the values of a configuration must be: their types, their ranges, what fits together, and
the largest rate of a schedule that is a formula."""

import difflib
import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, get_args

import msgspec

from gradiometer.arguments import MOST_THREADS
from gradiometer.errors import BadArgument

# Names of schedules. Cosine and linear decay to zero over the run, a trapezoid over its second
# half, and cycles in each of its `snapshots` cycles.
SCHEDULES = ("constant", "cosine", "linear", "trapezoid", "cycles")

_EXPECTED = {int: "an integer", float: "a number", str: "text in quotes", bool: "true or false"}

# Numbers of steps are below this. Above it, a float does not tell one step from the next.
MOST_STEPS = 2**53

_COUNTS = (
    "batch_size",
    "epochs",
    "steps",
    "accumulation",
    "parts",
    "every",
    "snapshots",
    "keep_checkpoints",
)

_SHARE = (lambda value: 0 <= value < 1, "be at least 0 and below 1")
_POSITIVE = (lambda value: 0 < value < math.inf, "be positive and finite")
_NOT_NEGATIVE = (lambda value: 0 <= value < math.inf, "be at least 0 and finite")
_AT_LEAST_ONE = (lambda value: value >= 1, "be at least 1")

# What a single value must be, if it is given. NaN passes none of these.
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda value: 0 <= value < 2**63, "be at least 0 and below 2^63"),
    "threads": (lambda value: 1 <= value <= MOST_THREADS, f"lie between 1 and {MOST_THREADS}"),
    "batch_size": _AT_LEAST_ONE,
    "epochs": _AT_LEAST_ONE,
    "accumulation": _AT_LEAST_ONE,
    "keep_checkpoints": _AT_LEAST_ONE,
    "checkpoint_seconds": (lambda value: value >= 0, "be at least 0"),
    "learning_rate": _POSITIVE,
    "held_out": _SHARE,
    "momentum": _SHARE,
    "weight_decay": _NOT_NEGATIVE,
    "clip": _POSITIVE,
    "cool_budget": _NOT_NEGATIVE,
    "fork_budget": _NOT_NEGATIVE,
    "budget": (_SHARE[0], "be a share of the training time, at least 0 and below 1"),
    "steps": _AT_LEAST_ONE,
    "every": (_AT_LEAST_ONE[0], "be at least 1 step"),
    "level": (lambda value: 0 < value < 1, "lie between 0 and 1"),
}

# What must hold of a whole configuration `c`, and the sentence where it does not.
RULES: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (
        lambda c: bool(re.fullmatch(r"( *\d{1,15} *(, *\d{1,15} *)*)?", c.checkpoint_at)),
        "`checkpoint_at` must be steps with commas between them, such as 500,1000, got "
        "{c.checkpoint_at!r}.",
    ),
    (
        lambda c: c.snapshots == 0 or c.snapshots >= 2,
        "`snapshots` must be 0 or at least 2, got {c.snapshots}: the average of one model is that "
        "model.",
    ),
    (
        lambda c: c.schedule != "cycles" or c.snapshots,
        "`schedule` is cycles, and `snapshots` is the number of cycles: set snapshots, for example "
        "to 5.",
    ),
    (
        lambda c: c.optimizer == "sgd" or not (c.momentum or c.nesterov),
        "`momentum` and `nesterov` are settings of SGD, and `optimizer` is {c.optimizer}: leave "
        "them out.",
    ),
    (
        lambda c: (
            c.optimizer != "schedulefree"
            or (c.schedule == "constant" and c.cool == "off" and not c.snapshots)
        ),
        "`optimizer` is schedulefree, which needs no schedule: leave out `schedule`, `cool` and "
        "`snapshots`.",
    ),
    (
        lambda c: not c.nesterov or c.momentum > 0,
        "`nesterov` needs a momentum above 0, got {c.momentum}: set momentum, for example to 0.9.",
    ),
    (
        lambda c: c.accumulation <= c.batch_size,
        "`accumulation` must be at most batch_size = {c.batch_size}, got {c.accumulation} "
        "micro-batches.",
    ),
    (
        lambda c: c.cool == "off" or c.schedule not in ("cosine", "linear", "trapezoid"),
        "`cool` is {c.cool!r}, but the {c.schedule} schedule decays to zero by itself: leave out "
        "one of the two.",
    ),
    (
        lambda c: c.cool == "off" or not c.snapshots,
        "`cool` is {c.cool!r}, but the cycles of `snapshots` decay to zero by themselves: leave "
        "out one.",
    ),
    (
        lambda c: not c.fork_budget or (c.cool == "off" and c.level > 0.5),
        "`fork_budget` needs cool = off and a level above 0.5, got cool = {c.cool} and level = "
        "{c.level}.",
    ),
    (
        lambda c: c.cool != "auto" or c.level > 0.5,
        "`level` must be above 0.5 for `cool` = auto, whose forks decide by one-sided bounds, got "
        "{c.level}.",
    ),
    (
        lambda c: c.every is None or c.budget > 0,
        "`every` is {c.every}, but a budget of 0 switches measuring off: leave out one of the two.",
    ),
    (
        lambda c: c.parts is None or c.parts == 0 or c.parts >= 2,
        "`parts` must be 0 (per example) or at least 2, got {c.parts}: a single gradient has no "
        "spread.",
    ),
    (
        lambda c: c.budget == 0 or c.batch_size > 1,
        "`batch_size` is 1, so a step has no spread: raise batch_size to at least 2, or set budget "
        "to 0.",
    ),
    (
        lambda c: c.budget == 0 or c.accumulation > 1 or (c.parts or 2) <= c.batch_size,
        "`parts` must be at most batch_size, got {c.parts} parts of a batch of {c.batch_size}: "
        "lower it, or set it to 0 to measure per example.",
    ),
)


def check_values(configuration: Any) -> None:
    """Refuse values out of their ranges, and values that do not fit together."""
    for name in ("problem", "model", "device", "data_dir"):
        text = getattr(configuration, name)
        if text is not None and not text.strip():
            raise BadArgument(f"`{name}` must not be empty: give a value, or leave it out.")
    for name in _COUNTS:
        count = getattr(configuration, name) or 0
        if not count < MOST_STEPS:
            raise BadArgument(f"`{name}` must be below 2^53, got about 2^{count.bit_length() - 1}.")
    for name, (holds, wanted) in RANGES.items():
        value = getattr(configuration, name)
        if value is not None and not holds(value):
            raise BadArgument(f"`{name}` must {wanted}, got {value}.")
    for holds, sentence in RULES:
        if not holds(configuration):
            raise BadArgument(sentence.format(c=configuration))


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
        choices = [choice for choice in get_args(kind) if isinstance(choice, str)]
        nearest = difflib.get_close_matches(str(value), choices, n=1)
        hint = f" (did you mean {nearest[0]}?)" if nearest else ""
        raise BadArgument(f"`{name}` must be {_name_of(kind)}, got {written}{hint}.") from None


def _name_of(kind: Any) -> str:
    choices = get_args(kind)
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if type(None) in choices:
        return _name_of(choices[0])
    return "one of " + ", ".join(f'"{choice}"' for choice in choices)
