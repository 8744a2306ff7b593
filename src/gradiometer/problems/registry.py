"""The names of the problems, and `load`."""

import os
from collections.abc import Iterable, KeysView
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING

from gradiometer.errors import BadArgument
from gradiometer.extensions import Registry

if TYPE_CHECKING:  # the command line lists the names without torch
    import gradiometer.problems.problem


@dataclass(frozen=True)
class Shipped:
    """A problem that comes with this or another package, by its name.

    Args:
        home: The module whose `load` makes it.
        models: Names of its models, the default first.
        takes: The settings its data depend on, out of "data_dir" and "seed".
    """

    home: str
    models: tuple[str, ...]
    takes: frozenset[str] = frozenset()


_SHIPPED: dict[str, Shipped] = {
    "digits": Shipped("gradiometer.problems.images.digits", ("mlp", "cnn")),
    "fashion-mnist": Shipped(
        "gradiometer.problems.images.fashion_mnist", ("mlp", "cnn"), frozenset({"data_dir"})
    ),
}
KNOWN: Registry[Shipped] = Registry(
    "gradiometer.problems",
    "problem",
    _SHIPPED,
    lambda name, found: "" if isinstance(found, Shipped) else "is no `problems.Shipped`",
)

# A view: packages are searched for problems when somebody looks.
NAMES: KeysView[str] = KNOWN.keys()


def load(
    name: str,
    *,
    model: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> "gradiometer.problems.problem.Problem":
    """The problem with this name.

    Args:
        name: One of `NAMES`, or `module:function` for your own. The module may be in the current
            folder. The function takes no argument, or any of the keywords `model`, `data_dir` and
            `seed`, and returns a `Problem` or a tuple (model, loss, train) or (model, loss, train,
            test).
        model: Name of the model; the default is the first one of the problem.
        data_dir: Folder of the data that do not come with the package.
        seed: Seed of the data that are drawn, also by your own function.

    Raises:
        BadArgument: There is no such problem or model, or its data are missing.
        UserCodeFailed: Your own function or its module raised, or the function returned something
            else.

    Example:
        >>> from gradiometer.problems import load
        >>> load("quadratic", seed=1).description
        'A noisy quadratic of 20 parameters, 2,000 examples to train on.'
    """
    if ":" in name:
        # Imported when asked for: the names of problems are listed without torch.
        imported = import_module("gradiometer.problems.imported")
        own: gradiometer.problems.problem.Problem = imported.load(
            name, model=model, data_dir=data_dir, seed=seed
        )
        return own
    if name not in KNOWN:
        raise BadArgument(
            f"`problem` {name!r} is unknown: {nearest(name, NAMES)}, and module:function for your "
            "own."
        )
    known = KNOWN[name]
    if model is not None and model not in known.models:
        raise BadArgument(
            f"`model` {model!r} is not a model of {name}: {nearest(model, known.models)}."
        )
    if data_dir is not None and "data_dir" not in known.takes:
        raise BadArgument(f"`data_dir` is not used by {name}, whose data need no folder: omit it.")
    settings = {"data_dir": data_dir, "seed": seed}
    taken = {key: value for key, value in settings.items() if key in known.takes}
    made: gradiometer.problems.problem.Problem = import_module(known.home).load(
        model or known.models[0], **taken
    )
    return made


def nearest(wanted: str, names: Iterable[str]) -> str:
    """For a message: the most similar name, if one is similar, and all names."""
    names = tuple(names)
    close = get_close_matches(wanted.lower().replace("_", "-"), names, n=1)
    return f"{f'did you mean {close[0]}? Available' if close else 'available'}: {', '.join(names)}"
