"""The settings of the parameter groups of an optimizer at one step, and their form in a file."""

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # a run is read on a machine without torch
    from torch.optim import Optimizer


# sgd: `torch.optim.SGD`. adaptive: each step is divided by a running size of the gradient. other:
# all the rest.
Family = Literal["sgd", "adaptive", "other"]

# Names of adaptive optimizers in lower case, without endings such as 8bit.
ADAPTIVE = frozenset(
    {"adam", "adamw", "nadam", "radam", "adamax", "rmsprop", "adagrad"}
    | {"fusedadam", "cpuadam", "deepspeedcpuadam", "pagedadam", "pagedadamw"}
)

# Name of an optimizer that was not recorded.
UNKNOWN_OPTIMIZER = "unknown"


@dataclass(frozen=True)
class Group:
    """The settings of one parameter group at one step.

    Args:
        optimizer: Class name of its optimizer, such as "AdamW".
        family: The kind of optimizer: "sgd", "adaptive" or "other". Laws of SGD hold for the first
            only.
        learning_rate: η.
        momentum: μ of SGD and RMSprop, β₁ of Adam and its kind; 0 without.
        nesterov: True for Nesterov's momentum.
        weight_decay: Weight decay, as the optimizer defines it.

    >>> from gradiometer.measurement.optimizer.groups import Group
    >>> Group("AdamW", "adaptive", learning_rate=6e-4, momentum=0.9, weight_decay=0.1).learning_rate
    0.0006
    """

    optimizer: str
    family: Family
    learning_rate: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0


def family_of(classes: Iterable[str]) -> Family:
    """The family of an optimizer, from the names of its class and of the classes that it inherits
    from.

    >>> family_of(["AdamW8bit", "Optimizer8bit", "Optimizer"]), family_of(["Lion", "Optimizer"])
    ('adaptive', 'other')
    """
    names = [name.lower().removesuffix("8bit").removesuffix("32bit") for name in classes]
    if "sgd" in names:
        return "sgd"
    return "adaptive" if ADAPTIVE.intersection(names) else "other"


def group_of(optimizer: str, family: Family, settings: Mapping[str, Any]) -> Group:
    """The group with these `param_groups` settings. A setting that the optimizer does not have is
    zero."""
    betas = settings.get("betas")
    momentum = settings.get("momentum", betas[0] if betas else 0.0)
    return Group(
        optimizer,
        family,
        learning_rate=float(settings.get("lr", 0.0)),
        momentum=float(momentum or 0.0),
        nesterov=bool(settings.get("nesterov", False)),
        weight_decay=float(settings.get("weight_decay") or 0.0),
    )


def groups_of(optimizers: "Sequence[Optimizer]", own: Container[int]) -> tuple[Group, ...]:
    """The groups that hold at least one parameter of the model, as they are now.

    Args:
        optimizers: The optimizers.
        own: `id` of every parameter of the model that is trained.
    """
    found = []
    for optimizer in optimizers:
        kinds = type(optimizer).__mro__
        family = family_of(kind.__name__ for kind in kinds)
        found += [
            group_of(kinds[0].__name__, family, group)
            for group in optimizer.param_groups
            if any(id(parameter) in own for parameter in group["params"])
        ]
    return tuple(found)


def largest_rate(groups: Sequence[Group]) -> float:
    """The largest η of the groups, for which the edge of stability is lowest; 0 without groups."""
    return max((group.learning_rate for group in groups), default=0.0)


def written(groups: Sequence[Group]) -> dict[str, Any]:
    """The groups as columns: one value for all groups if they share it, else a list with one value
    per group.

    >>> written([Group("SGD", "sgd", 0.1), Group("SGD", "sgd", 0.01)])["learning_rate"]
    [0.1, 0.01]
    """
    columns = {name: [getattr(group, name) for group in groups] for name in NAMES}
    shared = {
        name: column[0] if len(set(column)) == 1 else column for name, column in columns.items()
    }
    return {"groups": len(groups), **shared}


def read(columns: Mapping[str, Any]) -> tuple[Group, ...]:
    """The groups that `written` has written.

    Raises:
        ValueError: They cannot be used: a wrong number of values, or a rate that is not a number.
    """
    count = int(columns["groups"])
    spread: dict[str, list[Any]] = {}
    for name in NAMES:
        column = columns[name]
        spread[name] = column if isinstance(column, list) else [column] * count
        if len(spread[name]) != count:
            raise ValueError(f"{len(spread[name])} values for {count} groups")
    found = tuple(
        Group(**{name: column[place] for name, column in spread.items()}) for place in range(count)
    )
    if not count or not all(math.isfinite(group.learning_rate) for group in found):
        raise ValueError("no group, or a learning rate that is not finite")
    return found


# Names of the settings of a group.
NAMES = tuple(field.name for field in fields(Group))


class Changes:
    """Writes the settings of an optimizer when they have changed. A step between two looks costs
    one comparison.

    Args:
        append: Takes one line of the journal.

    >>> lines = []
    >>> changes = Changes(lines.append)
    >>> for step in range(300):
    ...     if step >= changes.next_look:
    ...         changes.look(step, (Group("SGD", "sgd", 0.1 if step < 200 else 0.01),))
    >>> [(line["step"], line["learning_rate"]) for line in lines]
    [(0, 0.1), (201, 0.01)]
    """

    def __init__(self, append: Callable[[dict[str, Any]], None]) -> None:
        self._append = append
        self._last: tuple[Group, ...] = ()
        # The next step at which the settings should be read.
        self.next_look = 0

    def look(self, step: int, groups: tuple[Group, ...]) -> None:
        """Note the settings at this step, and choose the next step to read them."""
        # At least once in 64 steps of the first 4,096, and then once in a 64th of the steps so far.
        self.next_look = step + max(1, step >> 6)
        if (
            groups
            and groups != self._last
            and all(math.isfinite(group.learning_rate) for group in groups)
        ):
            self._last = groups
            self._append({"kind": "hyperparameters", "step": int(step), **written(groups)})

    def restart(self, step: int) -> None:
        """Read and write the settings again at this step, at which a run is continued."""
        self._last = ()
        self.next_look = step
