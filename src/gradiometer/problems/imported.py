"""A problem of your own, given as `module:function`."""

import copy
import inspect
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from gradiometer.errors import BadArgument, GradiometerError, UserCodeFailed, summary, user_line
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem
from gradiometer.problems.registry import nearest
from gradiometer.problems.user_code import user_module
from gradiometer.randomness import untouched_randomness


def load(
    name: str,
    *,
    model: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Problem:
    """Call the function and make a problem of its result.

    The function gets those of `model`, `data_dir` and `seed` that are in its signature. Torch's,
    NumPy's and Python's global random numbers are seeded with `seed` for the call, and restored
    afterwards.

    Raises:
        BadArgument: There is no such module or function, or its arguments do not fit.
        UserCodeFailed: The module or the function raised, or the function returned something else.
    """
    function = function_of(name, "problem")
    settings = _settings(name, function, {"model": model, "data_dir": data_dir, "seed": seed})
    with untouched_randomness(seed, []):
        try:
            returned = function(**settings)
        except GradiometerError:
            raise
        except (Exception, SystemExit) as error:
            raise UserCodeFailed(f"`{name}` raised {summary(error)}{user_line(error)}.") from error
    return returned if isinstance(returned, Problem) else _of_tuple(name, returned, model)


def function_of(name: str, argument: str) -> Callable[..., Any]:
    """The function that is given as `module:function` for an argument.

    Raises:
        BadArgument: There is no such module or function.
        UserCodeFailed: The module raised.
    """
    module_name, _, function_name = name.partition(":")
    # A common slip, for which the message has the right form.
    is_file = module_name.endswith(".py")
    if is_file or not all(part.isidentifier() for part in (*module_name.split("."), function_name)):
        hint = f": write {Path(module_name).stem}:{function_name}" if is_file else ""
        raise BadArgument(f"`{argument}` must have the form module:function, got {name!r}{hint}.")
    module = user_module(module_name)
    if not hasattr(module, function_name):
        functions = inspect.getmembers(module, inspect.isfunction)
        # A module also has the functions that it imports.
        own = tuple(key for key, function in functions if function.__module__ == module_name)
        which = nearest(function_name, own) if own else "the module defines no function"
        raise BadArgument(f"`{module_name}` has no function {function_name!r}: {which}.")
    function: Callable[..., Any] = getattr(module, function_name)
    if not callable(function):
        raise BadArgument(
            f"`{name}` must be a function that returns a {argument}, got {type(function).__name__}."
        )
    return function


def _settings(name: str, function: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """The settings that the function takes. A setting that was given but is not taken
    is an error."""
    parameters = inspect.signature(function).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    by_keyword = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    for p in parameters:
        if not (
            p.default is not p.empty
            or p.kind in variadic
            or (p.name in offered and p.name in by_keyword)
        ):
            raise BadArgument(
                f"`{name}` has an unknown argument {p.name!r}: it can take {', '.join(offered)} by "
                "keyword, and every other argument needs a default."
            )
    for key in ("model", "data_dir"):
        if not (offered[key] is None or (takes_any or key in by_keyword)):
            raise BadArgument(
                f"`{key}` was given, but `{name}` takes no such argument: omit it, or add it there."
            )
    wanted = {key: value for key, value in offered.items() if takes_any or key in by_keyword}
    # An argument that was not given keeps the default of the function.
    defaulted = {p.name for p in parameters if p.default is not p.empty}
    return {key: value for key, value in wanted.items() if not (value is None and key in defaulted)}


def _of_tuple(name: str, returned: Any, model_name: str | None) -> Problem:
    """The problem of a tuple (model, loss, train) or (model, loss, train, test)."""
    if not isinstance(returned, tuple) or len(returned) not in (3, 4):
        got = (
            f"a tuple of {len(returned)}"
            if isinstance(returned, tuple)
            else type(returned).__name__
        )
        raise UserCodeFailed(
            f"`{name}` returned {got}: return a Problem, or (model, loss, train[, test])."
        )
    model, loss, train, test = (*returned, None)[:4]
    train = _examples(train, "train")
    # A lambda has no name that says more than "model".
    made_of = str(getattr(model, "__name__", "model")).strip("<>")
    if isinstance(model, nn.Module):
        made_of = type(model).__name__
    return Problem(
        name=name,
        # Every run starts from its own copy of a model that was made once.
        model=partial(copy.deepcopy, model) if isinstance(model, nn.Module) else model,
        loss=loss,
        train=train,
        test=None if test is None else _examples(test, "test"),
        model_name=model_name or made_of,
        description=f"{name}, {len(train):,} examples to train on.",
    )


def _examples(part: Any, name: str) -> Examples:
    return part if isinstance(part, Examples) else Examples(part, name)
