"""Alternatives that replace a part of training: another optimizer, or anything that a function can
do."""

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from gradiometer.convergence.formulas.expression import nearest
from gradiometer.errors import BadArgument
from gradiometer.loop.changes.alternative import Alternative
from gradiometer.loop.loop import Loop
from gradiometer.problems.user_code import user_code


@dataclass(frozen=True, init=False)
class Using(Alternative):
    """Another optimizer for all parameters, with an empty state. The schedule keeps its shape, at
    the new rate.

    Args:
        optimizer: The class of the optimizer.
        settings: Its settings, such as lr=1e-3. They hold for all parameter groups.

    >>> from gradiometer.loop import Using
    >>> Using(torch.optim.AdamW, lr=0.001).name
    'AdamW(lr=0.001)'
    """

    optimizer: type[torch.optim.Optimizer]
    settings: tuple[tuple[str, Any], ...]

    def __init__(self, optimizer: type[torch.optim.Optimizer], **settings: Any) -> None:
        if not (isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)):
            raise BadArgument(f"`optimizer` must be the class of an optimizer, got {optimizer!r}.")
        object.__setattr__(self, "optimizer", optimizer)
        object.__setattr__(self, "settings", tuple(settings.items()))
        with torch.random.fork_rng(devices=[]):
            self._make([{"params": [nn.Parameter(torch.zeros(1))]}])

    @property
    def name(self) -> str:
        """Such as "AdamW(lr=0.001)"."""
        return called(self.optimizer.__name__, self.settings)

    def __repr__(self) -> str:
        return f"Using({', '.join([self.optimizer.__name__, *(f'{key}={value!r}' for key, value in self.settings)])})"

    def __call__(self, loop: Loop) -> None:
        """Replace the optimizer."""
        loop.use(self._make([{"params": group["params"]} for group in loop.optimizer.param_groups]))

    def to_dict(self) -> dict[str, Any]:
        """The class by its name, and the settings."""
        where = f"{self.optimizer.__module__}.{self.optimizer.__qualname__}"
        return {"kind": "Using", "optimizer": where, "settings": dict(self.settings)}

    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        try:
            return self.optimizer(groups, **dict(self.settings))
        except (TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise BadArgument(
                f"`settings` cannot be those of {self.optimizer.__name__}: {reason}."
            ) from error


@dataclass(frozen=True)
class Custom(Alternative):
    """Any change that a function makes to the model, the optimizer or the batches of a branch.

    Args:
        label: The alternative in a few words. A stored fork knows a function by its label only.
        function: Called once as `function(model, optimizer, batches)`, with the branch's own
            copies, before the first update. It changes the model and the optimizer in place, and
            may add hooks or modules to them. If it returns an optimizer, this one is used; if it
            returns an iterable, its batches are.

    >>> from gradiometer.loop import Custom
    >>> def freeze(model, optimizer, batches):
    ...     model[0].requires_grad_(False)
    >>> Custom("freeze the first layer", freeze).name
    'freeze the first layer'
    """

    label: str
    function: Callable[[nn.Module, torch.optim.Optimizer, Iterable[Any]], Any] = field(
        compare=False
    )

    def __post_init__(self) -> None:
        if not (isinstance(self.label, str) and self.label.strip()):
            raise BadArgument(f"`label` must be a text of a few words, got {self.label!r}.")
        if not callable(self.function):
            raise BadArgument(
                "`function` must be a function of (model, optimizer, batches), got "
                f"{type(self.function).__name__}."
            )

    @property
    def name(self) -> str:
        """The label."""
        return self.label

    def __call__(self, loop: Loop) -> None:
        """Call the function."""
        with user_code("alternatives", self.label):
            changed = self.function(loop.model, loop.optimizer, loop.stream.batches)
        if isinstance(changed, torch.optim.Optimizer):
            loop.use(changed)
        elif changed is not None:
            try:
                loop.stream.batches = iter(changed)
            except TypeError as error:  # also of a tensor without axes, which is an Iterable
                raise BadArgument(
                    f"`function` of {self.label!r} returned a {type(changed).__name__} that gives "
                    "no batches: return nothing, an optimizer, or an iterable of batches."
                ) from error

    def to_dict(self) -> dict[str, Any]:
        """The label only: a function cannot be stored."""
        return {"kind": "Custom", "label": self.label}

    @classmethod
    def stored(cls, label: str) -> "Custom":
        """The alternative of a stored fork, which has its label and no function."""
        return cls(label, partial(_missing, label))


def called(name: str, settings: Iterable[tuple[str, Any]]) -> str:
    """An optimizer with its settings as text, such as "AdamW(lr=0.001)"."""
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in settings)})"


def _missing(label: str, *_: Any) -> None:
    raise BadArgument(
        f"`alternatives` has {label!r} from a file, without its function: give the object itself."
    )


def using_of(text: str) -> Using:
    """An optimizer with its settings, such as SGD(lr=0.1, momentum=0.9)."""
    try:
        call = ast.parse(text, mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or call.args:
            raise ValueError(text)
        settings = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise BadArgument(
            f"`alternatives` names {text[:80]!r}, which is not one: write AdamW(lr=0.001)."
        ) from None
    return Using(_optimizer_class(call.func.id), **settings)


def _optimizer_class(name: str) -> type[torch.optim.Optimizer]:
    kinds = {
        key: kind
        for key, kind in vars(torch.optim).items()
        if isinstance(kind, type)
        and issubclass(kind, torch.optim.Optimizer)
        and kind is not torch.optim.Optimizer
    }
    if name not in kinds:
        raise BadArgument(
            f"`alternatives` names the optimizer {name!r}, not one of "
            f"torch.optim.{nearest(name, kinds)}"
        )
    return kinds[name]


def stored_replacement(stored: Mapping[str, Any]) -> Alternative:
    """The alternative from the result of its `to_dict`. A class outside of torch is known by its
    label."""
    if "label" in stored:
        return Custom.stored(stored["label"])
    module, _, name = stored["optimizer"].rpartition(".")
    given = stored["settings"].items()
    if module.partition(".")[0] != "torch":
        return Custom.stored(called(name, given))
    made = {key: tuple(value) if isinstance(value, list) else value for key, value in given}
    return Using(_optimizer_class(name), **made)
