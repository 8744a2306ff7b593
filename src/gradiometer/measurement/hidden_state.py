"""What a loss and its model keep besides parameters, buffers and seen generators, saved and put
back around a call that training does not make."""

import argparse
import array
import functools
import io
import random
import types
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from itertools import chain
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradiometer.errors import UserCodeFailed
from gradiometer.measurement import put_back
from gradiometer.measurement.code_reading import is_of_user, is_user_module, names_in, writes
from gradiometer.measurement.put_back import MISSING, Check, Place

# Most objects that a whole walk looks at: some 0.1 s. Beyond it the loss is not run again.
MOST_OBJECTS = 20_000

# Most numbers that are copied in one walk: 16 MiB in single precision. A larger tensor is compared
# by its version and a sum of its bits: a change is seen, and cannot be put back.
MOST_NUMBERS = 2**22

# Most numbers of a tensor that is copied at every call though no call has changed it so far.
FEW_NUMBERS = 2**16

# A longer container is compared by the identity of its items, and its tensors by their versions.
LONG = 1_000

# Methods that Python or torch calls, and that no code needs to name.
_CALLED = {"forward", "backward", "setup_context", "jvp", "vmap", "__call__", "__next__"}
_CALLED |= {"__iter__", "__getitem__", "__setitem__", "__getattr__", "__setattr__", "__len__"}
_CALLED |= {"__enter__", "__exit__", "__add__", "__mul__", "__bool__", "__torch_function__"}

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_PLAIN = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device, ModuleType)
_CONTAINERS = (dict, list, set, deque, bytearray, tuple, frozenset, array.array)
_STATE = (Tensor, np.ndarray, ContextVar, *_GENERATORS, *_CONTAINERS)
# Classes of Python whose attributes are a person's.
_OPEN = (nn.Module, types.SimpleNamespace, argparse.Namespace)
# Installed packages whose objects are not looked into: they have threads, files or caches.
_CLOSED = {"torch", "gradiometer", "numpy", "logging", "threading", "multiprocessing", "asyncio"}
_CLOSED |= {"concurrent", "unittest", "_pytest", "pytest", "pathlib", "inspect", "types"}

# Attributes that every module has.
_OF_MODULES = frozenset(vars(nn.Module()))

Key = tuple[int, Any]


class HiddenState:
    """The state that calls of a loss may change and that training would see.

    A whole walk looks at everything that the loss and the model lead to: attributes, slots, class
    attributes, containers, closures, and the globals that functions of the person name. Installed
    packages are not walked, except for their modules. It is made around the calls 1, 2, 4, 8, ...
    The other calls save what such a walk found changed, and what the code may write.

    Args:
        loss: The loss, or several functions in a tuple.
        model: Its model.
    """

    def __init__(self, loss: Any, model: nn.Module) -> None:
        self._loss = loss
        self._model = model
        # Number of calls so far.
        self.calls = 0
        # The call around which the next whole walk is made.
        self.next = 1
        # True if calls before it need nothing saved.
        self.is_clean = False
        # Why the loss is not run again; empty while it may be.
        self.why_not = ""
        # Places that some call has changed.
        self._changed: set[Key] = set()
        self._newest: _Walk | None = None

    def untouched(self) -> AbstractContextManager[object]:
        """A context for the next call, at whose end everything that it changed is put back.

        Raises:
            UserCodeFailed: The loss uses something that cannot be put back, or leads to more
                objects than can be saved.
        """
        if self.why_not:
            raise UserCodeFailed(self.why_not)
        self.calls += 1
        if self.calls < self.next:
            return nullcontext() if self.is_clean else self._around_few()
        self.next = 2 * self.calls
        return self._around_all()

    @contextmanager
    def _around_all(self) -> Iterator[None]:
        walk = _Walk(self._changed)
        walk.walk([("model", self._model), ("loss", self._loss)])
        if walk.fixed:
            self._refuse(f"`{walk.fixed[0]}` changes with each call and cannot be put back")
        if walk.is_cut:
            self._refuse(
                f"it leads to more than {MOST_OBJECTS:,} objects, most of them in "
                f"`{walk.largest()}`, which would have to be saved before each call"
            )
        with self._putting_back(walk):
            yield
        self._newest = walk
        walk.plan(self._changed)
        self.is_clean = not (walk.wholes or walk.places or walk.hooks)

    @contextmanager
    def _around_few(self) -> Iterator[None]:
        newest = self._newest
        assert newest is not None
        walk = _Walk(self._changed, newest)
        walk.walk_again()
        with self._putting_back(walk):
            yield

    @contextmanager
    def _putting_back(self, walk: "_Walk") -> Iterator[None]:
        lost: list[str] = []
        try:
            yield
        finally:
            lost = walk.restore()
            self._changed |= walk.changed
        if lost:
            self._refuse(f"`{lost[0]}` changes with each call and cannot be put back")

    def _refuse(self, why: str) -> None:
        self.why_not = (
            f"`loss` is not run again, since {why}: keep it in a buffer of the model, or call "
            "`watch` without `loss`."
        )
        raise UserCodeFailed(self.why_not)


class _Walk:
    """One walk: for every object that can change, a check that puts it back.

    Args:
        changed: Places that some call has changed.
        before: A whole walk whose plan is walked; None for a whole walk.
    """

    def __init__(self, changed: set[Key], before: "_Walk | None" = None) -> None:
        self._before = before
        self._known = changed
        # Path, place from which it was reached, check.
        self._checks: list[tuple[str, Key, Check]] = []
        # The places that a call has changed.
        self.changed: set[Key] = set()
        # Paths of iterators that the functions name, whose place cannot be set.
        self.fixed: list[str] = []
        # True if there were too many objects.
        self.is_cut = False
        # What the next calls save: dictionaries of attributes, and places with what is in them.
        self.wholes: list[tuple[str, dict[str, Any]]] = []
        self.places: list[Place] = []
        # The hooks of every module, and of modules that a call has given some.
        self.hooks: list[tuple[str, dict[Any, Any]]] = []
        # Paths of parameters, whose versions the next calls compare.
        self.parameters: list[tuple[str, Tensor]] = []
        # Those that this walk does not copy, with their versions before the call.
        self._compared: list[tuple[str, Tensor, int]] = []
        self._copied: set[int] = set()
        self._writes = False
        self._names: set[str] = set()
        self._seen: dict[int, Any] = {}
        self._numbers = MOST_NUMBERS
        # Methods that are not visited before some code names them.
        self._methods: dict[str, list[FunctionType]] = {}
        self._iterators: list[tuple[str, Any]] = []
        self._sizes: Counter[str] = Counter()
        self._count = 0
        self._key: Key = (0, "")
        self._all_wholes: list[tuple[str, dict[str, Any], bool]] = []
        self._all_places: list[tuple[Place, Any]] = []
        self._seen_places: set[Key] = set()
        self._waiting: deque[tuple[str, Any, Key]] = deque()

    def walk(self, roots: list[tuple[str, Any]]) -> None:
        """Look at everything."""
        self._checks.append(("torch", self._key, put_back.settings_of_torch()))
        self._waiting += [(path, one, (0, path)) for path, one in roots]
        self._visit_all()
        # Only what some code names: a trainer may hold the iterator of its data.
        for path, one in self._iterators:
            if path.rpartition(".")[2].partition("[")[0] not in self._names:
                continue
            if hasattr(type(one), "__next__"):
                self.fixed.append(path)
            else:
                self._visit_closed(path, one)
        self._visit_all()

    def walk_again(self) -> None:
        """Look at what an earlier walk has planned."""
        before = self._before
        assert before is not None
        self._checks.append(("torch", self._key, put_back.settings_of_torch()))
        for path, held in before.wholes:
            self._seen[id(held)] = held
            note = functools.partial(self._note, id(held))
            self._save(path, put_back.dictionary(held, note))
        for path, hooks in before.hooks:
            self._keep_hooks(path, hooks)
        for place in before.places:
            self._keep(place)
        self._visit_all()
        self._compared = [
            (path, one, one._version)
            for path, one in before.parameters
            if id(one) not in self._copied
        ]

    def plan(self, changed: set[Key]) -> None:
        """Choose what the next calls save, after a whole walk that was put back."""
        self.wholes = [
            (path, held)
            for path, held, is_ours in self._all_wholes
            if not is_ours or self._writes or (id(held), "") in changed
        ]
        by_data = "data" in self._names
        self.places = [
            place
            for place, value in self._all_places
            if place.key in changed
            or (
                self._writes
                and not isinstance(value, nn.Module | type | FunctionType)
                and (place.name in self._names or (by_data and isinstance(value, Tensor)))
            )
        ]
        if not any(name.startswith("register_") for name in self._names):
            self.hooks = [one for one in self.hooks if (id(one[1]), "") in changed]
        if not (self._writes or self.wholes or (0, "versions") in changed):
            self.parameters = []
        self._checks, self._seen, self._methods = [], {}, {}
        self._all_places, self._all_wholes = [], []

    def restore(self) -> list[str]:
        """Put everything back. Returns the paths of what could not be."""
        lost = []
        for path, key, check in self._checks:
            outcome = check()
            if outcome is not None:
                self.changed.add(key)
            if outcome is False:
                lost.append(path)
        for path, one, version in self._compared:
            if one._version != version:
                self.changed.add((0, "versions"))
                lost.append(path)
        return lost

    def largest(self) -> str:
        """The path of the container or object that leads to most objects."""
        return self._sizes.most_common(1)[0][0]

    def _visit_all(self) -> None:
        while self._waiting and not self.is_cut:
            path, one, self._key = self._waiting.popleft()
            if id(one) in self._seen:
                continue
            self._seen[id(one)] = one
            if not isinstance(one, nn.Module | nn.Parameter):
                self._sizes[path.partition("[")[0]] += 1
                self._count += 1
                self.is_cut = self._count > MOST_OBJECTS
            self._visit(path, one)

    def _visit(self, path: str, one: Any) -> None:  # noqa: PLR0912 (one branch a kind)
        if isinstance(one, Tensor):
            self._visit_tensor(path, one)
        elif isinstance(one, np.ndarray):
            self._visit_array(path, one)
        elif isinstance(one, _GENERATORS):
            if one is not torch.default_generator:  # that one is put back by others
                self._save(path, put_back.generator(one))
        elif isinstance(one, ContextVar):
            self._save(path, put_back.variable(one))
            self._add(path, one.get(None))
        elif isinstance(one, FunctionType):
            self._visit_function(path, one)
        elif isinstance(one, MethodType | functools.partial):
            self._visit_bound(path, one)
        elif isinstance(one, _CONTAINERS):
            self._visit_container(path, one)
        elif isinstance(one, type):
            self._visit_class(path, one)
        elif _is_open(one):
            self._visit_object(path, one)
        elif isinstance(inner := getattr(one, "__wrapped__", None), FunctionType):
            self._add(path, inner)
        elif path == "loss":  # a wrapper of ours around the loss of a person
            self._add_all(path, getattr(one, "__dict__", {}))
        elif _may_be_state(one):
            self._iterators.append((path, one))

    def _save(self, path: str, check: Check) -> None:
        self._checks.append((path, self._key, check))

    def _note(self, holder: int, name: Any) -> None:
        self.changed.add((holder, name))

    def _add(self, path: str, one: Any) -> None:
        if not isinstance(one, _PLAIN):
            self._waiting.append((path, one, self._key))

    def _add_all(self, path: str, named: Any) -> None:
        for name, one in named.items():
            self._add(f"{path}.{name}" if str(name)[:1] != "[" else f"{path}{name}", one)

    def _keep(self, place: Place) -> None:
        """Save the object at a place, and what is in it."""
        value = place.read()
        if not place.is_item or self._before is not None or place.path == place.name:
            self._checks.append((place.path, place.key, place.check(value)))
        if self._before is None:
            self._all_places.append((place, value))
        elif isinstance(value, nn.Module | type | FunctionType | MethodType):
            return
        if not isinstance(value, _PLAIN) and value is not MISSING:
            self._waiting.append((place.path, value, place.key))

    def _keep_whole(self, path: str, held: dict[str, Any], *, is_ours: bool = False) -> None:
        """Save a dictionary of attributes."""
        note = functools.partial(self._note, id(held))
        self._checks.append((path, (id(held), ""), put_back.dictionary(held, note)))
        self._all_wholes.append((path, held, is_ours))

    def _visit_bound(self, path: str, one: Any) -> None:
        if isinstance(one, functools.partial):
            self._add(path, one.func)
            self._add_all(path, {f"[{place}]": value for place, value in enumerate(one.args)})
            self._add_all(path, {f"[{name}]": value for name, value in one.keywords.items()})
        elif _is_open(one.__self__):
            self._add(path.rpartition(".")[0] or path, one.__self__)
            self._add(path, one.__func__)

    def _visit_object(self, path: str, one: Any) -> None:
        kind = type(one)
        is_of_torch = kind.__module__.partition(".")[0] in ("torch", "gradiometer")
        held = getattr(one, "__dict__", None)
        if isinstance(held, dict):
            self._keep_whole(path, held, is_ours=is_of_torch or is_of_user(kind))
            is_module = isinstance(one, nn.Module)
            for name, value in held.items():
                if is_module and name in ("_parameters", "_buffers", "_modules"):
                    self._save(path, put_back.dictionary(value))
                    for inner in value:
                        self._keep(Place(f"{path}.{inner}", value, inner, is_item=True))
                elif is_module and name.endswith("_hooks") and isinstance(value, dict):
                    self._keep_hooks(f"{path}.{name}", value)
                elif is_of_torch and isinstance(value, _PLAIN):
                    continue
                elif name in _OF_MODULES and isinstance(value, dict | set) and not value:
                    continue  # as in nearly every module
                else:
                    self._keep(Place(f"{path}.{name}", held, name, is_item=True))
        for base in kind.__mro__:
            slots = base.__dict__.get("__slots__", ()) if is_of_user(base) else ()
            for name in (slots,) if isinstance(slots, str) else slots:
                if name not in ("__dict__", "__weakref__"):
                    self._keep(Place(f"{path}.{name}", one, name, is_item=False))
        self._add(kind.__name__, kind)

    def _visit_closed(self, path: str, one: Any) -> None:
        """Save the attributes of an object of an installed package, and the state in them."""
        held = getattr(one, "__dict__", None)
        if isinstance(held, dict):
            self._keep_whole(path, held)
            for name, value in held.items():
                if isinstance(value, _STATE):
                    self._keep(Place(f"{path}.{name}", held, name, is_item=True))

    def _keep_hooks(self, path: str, hooks: dict[Any, Any]) -> None:
        """Save a person's hooks. Those of a watch come and go as it measures."""
        before = {name: hook for name, hook in hooks.items() if not _is_ours(hook)}

        def check() -> bool | None:
            now = {name: hook for name, hook in hooks.items() if not _is_ours(hook)}
            if now == before:
                return None
            ours = {name: hook for name, hook in hooks.items() if name not in now}
            hooks.clear()
            hooks.update(before | ours)
            return True

        self._checks.append((path, (id(hooks), ""), check))
        self.hooks.append((path, hooks))
        if self._before is None:
            for name, hook in before.items():
                self._add(f"{path}[{name}]", hook)

    def _visit_class(self, path: str, kind: type) -> None:
        for base in kind.__mro__:
            if not is_of_user(base) or (id(base) in self._seen and base is not kind):
                continue
            self._seen[id(base)] = base
            for name, value in list(vars(base).items()):
                function = getattr(value, "__func__", value)
                if isinstance(value, property):
                    function = value.fget
                function = getattr(function, "__wrapped__", function)
                if isinstance(function, FunctionType):
                    self._methods.setdefault(name, []).append(function)
                elif not name.startswith("__") and not hasattr(value, "__get__"):
                    self._keep(Place(f"{base.__name__}.{name}", base, name, is_item=False))
            self._save(path, functools.partial(_remove_new, base, set(vars(base))))
        self._find_methods(self._names)

    def _find_methods(self, names: Any) -> None:
        """Visit the methods that some code names; all if names are made at run time."""
        is_dynamic = not self._names.isdisjoint({"getattr", "__getattribute__", "eval", "vars"})
        for name in list(self._methods):
            if is_dynamic or name in _CALLED or name in names:
                for function in self._methods.pop(name):
                    if name != "__init__":
                        self._add(name, function)

    def _visit_function(self, path: str, function: FunctionType) -> None:
        if vars(function):
            self._keep_whole(path, vars(function), is_ours=True)
            self._add_all(path, vars(function))
        used = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        self._add_all(path, {f"[{place}]": value for place, value in enumerate(used)})
        code = function.__code__
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            self._keep(Place(name, cell, "cell_contents", is_item=False))
        if not is_of_user(function):
            return
        self._writes = self._writes or writes(code)
        names = names_in(code)
        self._names |= names
        if code.co_freevars:
            self._names |= {*code.co_freevars, "cell_contents"}
        for name in names:
            self._keep_global(name, function.__globals__)
            value = function.__globals__.get(name)
            if isinstance(value, ModuleType) and is_user_module(value.__name__):
                for inner in names & vars(value).keys():
                    self._keep_global(inner, vars(value))
        self._find_methods(names)

    def _keep_global(self, name: str, names: dict[str, Any]) -> None:
        place = Place(name, names, name, is_item=True)
        if place.key not in self._seen_places:
            self._seen_places.add(place.key)
            self._keep(place)

    def _visit_container(self, path: str, one: Any) -> None:
        if isinstance(one, dict):
            self._save(path, put_back.dictionary(one))
            items: Any = one.values()
        elif isinstance(one, array.array):
            self._save(path, put_back.numbers(one))
            return
        else:
            if not isinstance(one, tuple | frozenset):
                self._save(path, put_back.container(one))
            items = one
        if isinstance(one, bytearray):
            return
        if len(one) > LONG:
            self._visit_long(path, items)
        elif isinstance(one, dict):
            self._add_all(path, {f"[{name!r:.40}]": value for name, value in one.items()})
        else:
            for place, value in enumerate(one):
                self._add(f"{path}[{place}]", value)

    def _visit_long(self, path: str, items: Any) -> None:
        """Compare the tensors of a long container, and those of tuples in it, by their versions."""
        flat = list(items)
        kinds = set(map(type, flat))
        if any(issubclass(kind, tuple) for kind in kinds):
            flat = list(
                chain.from_iterable(one if isinstance(one, tuple) else [one] for one in flat)
            )
            kinds = set(map(type, flat))
        tensors = {kind for kind in kinds if issubclass(kind, Tensor)}
        others = {kind for kind in kinds - tensors if not issubclass(kind, _PLAIN)}
        if tensors:
            found = flat if kinds == tensors else [one for one in flat if type(one) in tensors]
            self._save(path, put_back.versions(found))
        if others:
            for one in flat:
                if type(one) in others:
                    self._add(f"{path}[...]", one)

    def _visit_tensor(self, path: str, tensor: Tensor) -> None:
        numbers = tensor.numel()
        is_trained = isinstance(tensor, nn.Parameter) and tensor.requires_grad
        if isinstance(tensor, nn.Parameter) and not tensor.is_inference():
            self.parameters.append((path, tensor))
        is_whole = self._before is None
        most = self._numbers
        if not is_whole and self._key not in self._known:
            most = min(most, FEW_NUMBERS)
        copied = numbers <= most
        if copied:
            self._numbers -= numbers
            self._copied.add(id(tensor))
        check = put_back.tensor(tensor, copied=copied, summed=is_whole or is_trained)
        if not is_whole or tensor.device.type in ("cpu", "meta") or tensor.is_inference():
            self._save(path, check)
            return
        # To compare numbers training would wait for the accelerator. Only a write through `.data`
        # leaves the version as it was.
        version = tensor._version
        self._save(
            path,
            lambda: None if tensor._version == version and "data" not in self._names else check(),
        )

    def _visit_array(self, path: str, one: Any) -> None:
        if not one.flags.writeable:
            return
        copied = one.size <= self._numbers
        if copied:
            self._numbers -= one.size
        self._save(path, put_back.array(one, copied=copied))
        if one.dtype == object:
            for place, value in enumerate(one.flat):
                self._add(f"{path}[{place}]", value)


def _remove_new(kind: type, before: set[str]) -> bool | None:
    """Take from a class what was added."""
    new = [name for name in set(vars(kind)) - before if not name.startswith("__")]
    for name in new:
        delattr(kind, name)
    return True if new else None


def _is_ours(hook: Any) -> bool:
    """True for a hook of a watch."""
    hook = getattr(hook, "__self__", getattr(hook, "func", hook))
    module = hook.__module__ if isinstance(hook, FunctionType) else type(hook).__module__
    return module.partition(".")[0] == "gradiometer"


def _is_open(one: Any) -> bool:
    """True if the attributes of an object are walked."""
    return isinstance(one, _OPEN) or is_of_user(type(one))


def _may_be_state(one: Any) -> bool:
    """True for an iterator, or for an object of an installed package that has attributes."""
    if hasattr(type(one), "__next__"):
        return not isinstance(one, io.IOBase) or (not one.closed and one.readable())
    return hasattr(one, "__dict__") and type(one).__module__.partition(".")[0] not in _CLOSED
