"""A user's own problem, named `module:function` as uvicorn names an app."""

import copy
import inspect
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from gradiometer.errors import BadArgument, GradiometerError
from gradiometer.measurement.untouched import untouched_randomness
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem
from gradiometer.problems.registry import nearest
from gradiometer.problems.user_code import said, user_module


def load(
    name: str, *, model: str | None = None, data_dir: str | os.PathLike[str] | None = None, seed: int = 0
) -> Problem:
    """Call the function and make a problem of what it returns.

    The function is given those of `model`, `data_dir` and `seed` that its signature has. It runs with torch's,
    NumPy's and Python's global random numbers seeded by `seed`, and they are put back after it.

    Raises:
        BadArgument: There is no such module or function, one of them raised, or it returned something else.
    """
    function = _function(name)
    settings = _settings(name, function, {"model": model, "data_dir": data_dir, "seed": seed})
    with untouched_randomness(seed, []):
        try:
            returned = function(**settings)
        except GradiometerError:
            raise
        except (Exception, SystemExit) as error:
            raise BadArgument(f"`{name}` raised {said(error)}.") from error
    return returned if isinstance(returned, Problem) else _of_tuple(name, returned, model)


def _function(name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    is_file = module_name.endswith(".py")
    if is_file or not (_dotted(module_name) and function_name.isidentifier()):
        hint = f": write {Path(module_name).stem}:{function_name}" if is_file else ""
        raise BadArgument(f"`problem` {name!r} is not of the form module:function{hint}.")
    module = user_module(module_name)
    if not hasattr(module, function_name):
        functions = inspect.getmembers(module, inspect.isfunction)
        own = tuple(key for key, function in functions if function.__module__ == module_name)
        which = f": {nearest(function_name, own)}" if own else ", nor any other"
        raise BadArgument(f"`{module_name}` has no function {function_name!r}{which}.")
    function: Callable[..., Any] = getattr(module, function_name)
    if not callable(function):
        raise BadArgument(
            f"`{name}` is of type {type(function).__name__}, a function that makes a problem was expected."
        )
    return function


def _settings(name: str, function: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """Those of the settings that the function takes; one that was asked for and is not taken is refused."""
    parameters = inspect.signature(function).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    by_keyword = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    for p in parameters:
        if p.default is p.empty and p.kind not in variadic and not (p.name in offered and p.name in by_keyword):
            raise BadArgument(
                f"`{name}` has an argument {p.name!r} that nothing is known about: it may take {', '.join(offered)} "
                "by keyword, all else needs a default."
            )
    for key in ("model", "data_dir"):
        if offered[key] is not None and not (takes_any or key in by_keyword):
            raise BadArgument(f"`{key}` was given, but `{name}` takes no such argument: leave it out, or add it there.")
    wanted = {key: value for key, value in offered.items() if takes_any or key in by_keyword}
    defaulted = {p.name for p in parameters if p.default is not p.empty}
    return {key: value for key, value in wanted.items() if not (value is None and key in defaulted)}


def _of_tuple(name: str, returned: Any, model_name: str | None) -> Problem:
    """The problem of a tuple (model, loss, train) or (model, loss, train, test)."""
    if not isinstance(returned, tuple) or len(returned) not in (3, 4):
        got = f"a tuple of {len(returned)}" if isinstance(returned, tuple) else type(returned).__name__
        raise BadArgument(f"`{name}` returned {got}: a Problem, or (model, loss, train[, test]) was expected.")
    model, loss, train, test = (*returned, None)[:4]
    train = _examples(train, "train")
    return Problem(
        name=name,
        model=partial(copy.deepcopy, model) if isinstance(model, nn.Module) else model,
        loss=loss,
        train=train,
        test=None if test is None else _examples(test, "test"),
        model_name=model_name or _model_name(model),
        description=f"{name}, {len(train):,} examples to train on.",
    )


def _examples(part: Any, name: str) -> Examples:
    return part if isinstance(part, Examples) else Examples(part, name)


def _model_name(model: Any) -> str:
    if isinstance(model, nn.Module):
        return type(model).__name__
    return str(getattr(model, "__name__", "model")).strip("<>")


def _dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))
