"""Schedules read back from text, by name, without executing it."""

import ast
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from gradiometer.convergence.schedules import algebra as schedule_algebra
from gradiometer.convergence.schedules import cycles as schedule_cycles
from gradiometer.convergence.schedules import shapes as schedule_shapes
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.errors import BadArgument

FAMILIES = (schedule_shapes, schedule_cycles, schedule_algebra)
"""The files whose schedules can be named."""
METHODS = ("at_least", "at_most", "shifted", "warmed_up", "then", "held", "repeated")


def parsed(text: str) -> Schedule:
    """The schedule a piece of text describes: a `repr`, or schedules joined by +, * and the algebra's methods."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        schedule = _value(tree)
    except (SyntaxError, MemoryError, RecursionError):
        raise BadArgument(
            f"`text` {text[:80]!r} is not a schedule: write one such as Cosine(0.1, steps=1000)."
        ) from None
    if not isinstance(schedule, Schedule):
        raise BadArgument(f"`text` {text[:80]!r} is a number: write a schedule such as Constant({text.strip()[:20]}).")
    return schedule


def built(name: Any, values: Sequence[Any], settings: Mapping[str, Any]) -> Schedule:
    """A schedule from its name and settings, refused by name where they do not fit."""
    kind = Schedule.kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise BadArgument(f"`schedule` {name!r} is not known{_nearest(str(name), list(Schedule.kinds))}.")
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for setting in settings:
        if setting not in known:
            raise BadArgument(
                f"`{setting}` is not a setting of {name}{_nearest(setting, known)}; it has {_listed(known)}."
            )
    try:
        return kind(*(_tuples(value) for value in values), **{key: _tuples(value) for key, value in settings.items()})
    except TypeError as error:
        raise BadArgument(f"`{name}` cannot be made of these settings ({error}); it has {_listed(known)}.") from None


def _value(node: ast.AST) -> Any:
    match node:
        case ast.Constant(value=int() | float() | bool() | str() | None as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return tuple(map(_value, parts))
        case ast.Call(func=ast.Name(id=name), args=parts, keywords=keywords) if all(word.arg for word in keywords):
            return built(name, list(map(_value, parts)), _settings(keywords))
        case ast.Call(func=ast.Attribute(value=owner, attr=method), args=parts, keywords=keywords) if method in METHODS:
            return _applied(_value(owner), method, list(map(_value, parts)), _settings(keywords))
        case ast.BinOp(left=left, op=ast.Add() | ast.Mult() as op, right=right):
            one, two = _value(left), _value(right)
            return one + two if isinstance(op, ast.Add) else one * two
    raise BadArgument(f"`text`: {ast.unparse(node)[:80]} is not part of a schedule.")


def _settings(keywords: Sequence[ast.keyword]) -> dict[str, Any]:
    settings = {word.arg: _value(word.value) for word in keywords if word.arg is not None}
    if len(settings) < len(keywords):
        raise BadArgument(f"`text`: {_listed([str(word.arg) for word in keywords])}: a setting is given twice.")
    return settings


def _applied(owner: Any, method: str, values: list[Any], settings: dict[str, Any]) -> Any:
    if not isinstance(owner, Schedule):
        raise BadArgument(f"`text`: .{method} is asked of {owner!r}, which is no schedule.")
    try:
        return getattr(owner, method)(*values, **settings)
    except TypeError as error:
        raise BadArgument(f"`text`: .{method} cannot take these settings ({error}).") from None


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples a frozen dataclass holds."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f", did you mean {near[0]}?" if near else ""
