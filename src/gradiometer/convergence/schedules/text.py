"""Schedules from text. The text is parsed, never executed as code."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from gradiometer.arguments import require
from gradiometer.convergence.formulas.expression import DEEPEST, nearest
from gradiometer.convergence.schedules import cycles as schedule_cycles
from gradiometer.convergence.schedules import shapes as schedule_shapes
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.errors import BadArgument

# The files with the classes that a text can name.
FAMILIES = (schedule_shapes, schedule_cycles)

# Characters in the longest text accepted.
LONGEST = 20_000
METHODS = ("warmed_up", "then")


def parse(text: str) -> Schedule:
    """The schedule in a text: a `repr`, or schedules combined by * and the methods of `Schedule`.

    >>> from gradiometer import Schedule
    >>> Schedule.parse("Cosine(0.1, steps=100) * 0.5")(0)
    0.05
    """
    require(
        len(text) <= LONGEST, f"`text` must have at most {LONGEST:,} characters, got {len(text):,}."
    )
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        schedule = _value(tree)
    except (SyntaxError, MemoryError, RecursionError):
        raise BadArgument(
            f"`text` {text[:80]!r} is not a schedule: write one such as Cosine(0.1, steps=1000)."
        ) from None
    if not isinstance(schedule, Schedule):
        raise BadArgument(
            f"`text` {text[:80]!r} is a number: write a schedule such as "
            f"Constant({text.strip()[:20]})."
        )
    return schedule


def build(name: Any, values: Sequence[Any], settings: Mapping[str, Any]) -> Schedule:
    """A schedule from its class name and settings."""
    kind = Schedule.kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise BadArgument(f"`schedule` {name!r} is not known.{nearest(str(name), Schedule.kinds)}")
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for setting in settings:
        if setting not in known:
            raise BadArgument(
                f"`{setting}` is not a setting of {name}.{nearest(setting, known)} Its settings "
                f"are {', '.join(known)}."
            )
    try:
        return kind(
            *(_tuples(value) for value in values),
            **{key: _tuples(value) for key, value in settings.items()},
        )
    except TypeError as error:
        raise BadArgument(
            f"`{name}` does not accept these settings ({error}); its settings are "
            f"{', '.join(known)}."
        ) from None


def _value(node: ast.AST, depth: int = 0) -> Any:
    # The parser accepts deeper texts than a recursion over its tree survives.
    require(depth < DEEPEST, f"`text` is nested more than {DEEPEST} deep: combine fewer schedules.")

    def inner(part: ast.AST) -> Any:
        return _value(part, depth + 1)

    def settings(keywords: Sequence[ast.keyword]) -> dict[str, Any]:
        given = {word.arg: inner(word.value) for word in keywords if word.arg is not None}
        names = ", ".join(str(word.arg) for word in keywords)
        require(len(given) == len(keywords), f"`text`: a setting is given twice in {names}.")
        return given

    match node:
        case ast.Constant(value=int() | float() | bool() | str() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return tuple(map(inner, parts))
        case ast.Call(func=ast.Name(id=name), args=parts, keywords=keywords) if all(
            word.arg for word in keywords
        ):
            return build(name, list(map(inner, parts)), settings(keywords))
        case ast.Call(
            func=ast.Attribute(value=owner, attr=method), args=parts, keywords=keywords
        ) if method in METHODS:
            schedule = inner(owner)
            require(
                isinstance(schedule, Schedule),
                f"`text`: .{method} needs a schedule on its left, got {schedule!r}.",
            )
            try:
                return getattr(schedule, method)(*map(inner, parts), **settings(keywords))
            except TypeError as error:
                raise BadArgument(
                    f"`text`: .{method} does not accept these settings ({error})."
                ) from None
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return inner(left) * inner(right)
    raise BadArgument(f"`text`: {ast.unparse(node)[:80]} is not part of a schedule.")


def _tuples(value: Any) -> Any:
    """Turns the lists of JSON into tuples, which a frozen dataclass needs."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
