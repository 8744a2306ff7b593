"""Shape checks in less than half of the time: jaxtyping's own wrapper takes most of the time of a
small function.

`--jaxtyping-packages` puts `jaxtyping.jaxtyped` around every function and dataclass, which binds
the arguments at every call and gives them to two checkers. In its place stands `checked`: one
checker of beartype's, which sees the same arguments and the same result, and a scope for the names
of axes only if an array is annotated. Functions within functions, which are made at every call, are
checked only if they annotate an array.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jaxtyping
from beartype import beartype


def checked(made: Any = None, **_: Any) -> Any:
    """In place of `jaxtyping.jaxtyped`, of which `--jaxtyping-packages` makes use as
    a decorator."""
    if made is None:
        return checked
    if made == "context":
        return usual("context")
    if not inspect.isclass(made):
        return with_checks(made)
    if "__dataclass_fields__" in vars(made) and "__init__" in vars(made):
        made.__init__ = with_checks(made.__init__)
    return made


def with_checks(function: Callable[..., Any]) -> Callable[..., Any]:
    # its body, and beartype's look at it, come after the scope has ended
    if inspect.isgeneratorfunction(function):
        return usual(function, typechecker=beartype)
    hints = hints_of(function)
    of_arrays = "jaxtyping." in repr(hints)
    if "<locals>" in function.__qualname__ and not of_arrays:
        return function
    inner: Callable[..., Any] | None = None

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal inner
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if inner is None:
            inner = checker_of(function, hints)
        if not of_arrays:
            return inner(*args, **kwargs)
        with usual("context"):
            return inner(*args, **kwargs)

    return wrapped


def checker_of(function: Callable[..., Any], hints: dict[str, Any]) -> Callable[..., Any]:
    """The function under beartype, which takes milliseconds: only for what is called."""
    written, function.__annotations__ = function.__annotations__, hints
    try:
        return beartype(function)
    finally:
        function.__annotations__ = written


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations without strings; `Any` for a name that is not there yet."""
    hints = {}
    for name, written in function.__annotations__.items():
        one = SimpleNamespace(__annotations__={name: written})
        try:
            hints |= typing.get_type_hints(one, function.__globals__, include_extras=True)
        except Exception:
            hints[name] = Any
    return hints


usual, jaxtyping.jaxtyped = jaxtyping.jaxtyped, checked
