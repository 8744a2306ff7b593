"""Contexts that restore every module's mode, or what a loss uses besides its model."""

import functools
import gc
import pickle
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

# How the state of a generator is read, set, and made from a seed.
GENERATORS: dict[type, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
    torch.Generator: (
        torch.Generator.get_state,
        torch.Generator.set_state,
        torch.Generator.manual_seed,
    ),
    np.random.Generator: (
        lambda generator: generator.bit_generator.state,
        lambda generator, state: setattr(generator.bit_generator, "state", state),
        lambda generator, seed: setattr(
            generator.bit_generator, "state", type(generator.bit_generator)(seed).state
        ),
    ),
    np.random.RandomState: (
        np.random.RandomState.get_state,
        np.random.RandomState.set_state,
        lambda generator, seed: generator.seed(seed % 2**32),
    ),
    random.Random: (
        random.Random.getstate,
        random.Random.setstate,
        lambda generator, seed: generator.seed(seed % 2**32),
    ),
}

# Packages whose functions and objects are not looked through.
LIBRARIES = (
    "torch",
    "numpy",
    "builtins",
    "typing",
    "collections",
    "functools",
    "jaxtyping",
    "beartype",
)


@contextmanager
def in_eval_mode(*models: nn.Module) -> Iterator[None]:
    """Run with the models in eval mode, then restore the mode of every module."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


class Surroundings:
    """Random generators, and modules with buffers, that a loss uses besides its model, as far as
    they can be found.

    Looked for in closures, default arguments, attributes, and the global names that functions use.

    Args:
        loss: The loss, or several objects in a tuple.
        model: Its model, whose buffers are not among them. Without it only the loss is looked at.
    """

    def __init__(self, loss: Any, model: nn.Module | None = None) -> None:
        found = list(_reachable([loss, model]))
        own = set[int]() if model is None else set(map(id, model.modules()))
        pythons: Any = random.getstate
        # `untouched_randomness` restores the global ones.
        is_global = {
            id(np.random.mtrand._rand),
            id(torch.default_generator),
            id(pythons.__self__),
        }
        self.generators = [
            one for one in found if isinstance(one, tuple(GENERATORS)) and id(one) not in is_global
        ]
        self.modules = [
            one
            for one in found
            if isinstance(one, nn.Module)
            and id(one) not in own
            and list(one.buffers(recurse=False))
        ]

    def states(self) -> list[bytes]:
        """The states of the generators."""
        return [pickle.dumps(_how(generator)[0](generator)) for generator in self.generators]

    def restore(self, states: Sequence[tuple[Any, bytes]]) -> None:
        """Put these generators into states that `states` has returned, as far as they are among
        those found."""
        found = set(map(id, self.generators))
        for generator, state in states:
            if id(generator) in found:
                _how(generator)[1](generator, pickle.loads(state))

    @contextmanager
    def untouched(self, seed: int) -> Iterator[None]:
        """Seed the generators inside. Restore their states, and the buffers of modules in training
        mode, at the end."""
        states = list(zip(self.generators, self.states(), strict=True))
        buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in self.modules
            if module.training
            for name, buffer in module.named_buffers(recurse=False)
        ]
        for generator in self.generators:
            _how(generator)[2](generator, seed)
        try:
            yield
        finally:
            self.restore(states)
            for module, name, buffer, before in buffers:
                module._buffers[name] = buffer
                # as batch normalization does: a graph that has saved it stays valid
                buffer.data.copy_(before)


def _reachable(roots: Iterable[Any]) -> Iterator[Any]:
    """Every object that can be reached from these, each once, the nearest first."""
    waiting, seen = deque(roots), dict[int, Any]()
    plain = (str, bytes, int, float, complex, type, type(None), torch.Tensor, np.ndarray)
    # 5000: most objects that are looked at.
    while waiting and len(seen) < 5000:
        one = waiting.popleft()
        if id(one) in seen or isinstance(one, plain):
            continue
        seen[id(one)] = one
        yield one
        waiting += _inside(one)


def _inside(one: Any) -> list[Any]:
    if isinstance(one, FunctionType):
        return used_by(one)
    # What these hold is looked through, though they are of Python itself. Of a long collection
    # (above 1,000) nothing is.
    if isinstance(one, MethodType | functools.partial | dict | list | tuple | set):
        is_long = not callable(one) and len(one) > 1000
        return [] if is_long else gc.get_referents(one)
    library = type(one).__module__.partition(".")[0] in LIBRARIES and not isinstance(one, nn.Module)
    closed = library or isinstance(one, (ModuleType, *GENERATORS))
    return [] if closed else list(getattr(one, "__dict__", {}).values())


def used_by(function: FunctionType) -> list[Any]:
    """What a function of Python refers to: closure, defaults, and the global names in its code."""
    if (function.__module__ or "").partition(".")[0] in LIBRARIES:
        return []
    used: list[Any] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not filled yet
            used.append(cell.cell_contents)
    names = _names(function.__code__)
    known = [function.__globals__[name] for name in names & function.__globals__.keys()]
    for value in known:
        if isinstance(value, ModuleType) and value.__name__.partition(".")[0] not in LIBRARIES:
            used += [vars(value)[inner] for inner in names & vars(value).keys()]
    return used + known


def _names(code: CodeType) -> set[str]:
    """Global names and attributes in a code and in the functions defined inside of it."""
    return set(code.co_names).union(
        *(_names(inner) for inner in code.co_consts if isinstance(inner, CodeType))
    )


def _how(generator: Any) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    return next(how for kind, how in GENERATORS.items() if isinstance(generator, kind))
