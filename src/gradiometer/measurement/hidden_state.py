"""What a loss and its model keep besides parameters, buffers and seen generators, saved and put
back around a call that training does not make."""

import dis
import functools
import io
import random
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from itertools import islice
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradiometer.errors import UserCodeFailed

# Most objects that a walk looks at, the nearest first.
MOST_OBJECTS = 100_000

# Most numbers that are copied in one walk: 16 MiB in single precision. A larger tensor is compared
# by its version and a sum of its bits: a change is seen, and cannot be put back.
MOST_NUMBERS = 2**22

# A longer container loses what was appended to it, and is not compared element by element.
LONG = 100_000

# Methods that Python or torch calls, and that no code needs to name.
_CALLED = {"forward", "backward", "setup_context", "jvp", "vmap", "__call__", "__next__"}
_CALLED |= {"__iter__", "__getitem__", "__setitem__", "__getattr__", "__setattr__", "__len__"}
_CALLED |= {"__enter__", "__exit__", "__add__", "__mul__", "__bool__", "__torch_function__"}

# Names in a code that writes more than its own variables.
_WRITING = {"append", "appendleft", "extend", "insert", "pop", "popleft", "popitem", "remove"}
_WRITING |= {"clear", "update", "setdefault", "add", "discard", "rotate", "sort", "reverse"}
_WRITING |= {"set", "reset", "send", "next", "setattr", "delattr", "exec", "eval", "vars"}
_WRITING |= {"globals", "__dict__", "data", "out", "fill", "put", "place", "copyto", "step"}
_WRITING |= {"backward", "train", "eval", "set_default_dtype", "shuffle", "partial_fit"}
_STORES = {"STORE_ATTR", "STORE_GLOBAL", "STORE_DEREF", "STORE_SUBSCR", "STORE_SLICE"}
_STORES |= {"DELETE_ATTR", "DELETE_GLOBAL", "DELETE_SUBSCR"}

Check = Callable[[], bool | None]

_MISSING = object()
_STANDARD = sysconfig.get_path("stdlib")
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_PLAIN = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device, ModuleType)


class HiddenState:
    """The state that calls of a loss may change and that training would see.

    Walks attributes, slots, class attributes, containers, closures and the globals that functions
    of the person name. Installed packages are not walked, except for their modules. A call is
    walked around if some code that it reaches may write more than its own variables, or if an
    earlier call has changed something. Else the calls 1, 2, 4, 8, ... are.

    Args:
        loss: The loss, or several functions in a tuple.
        model: Its model.
    """

    def __init__(self, loss: Any, model: nn.Module) -> None:
        self._loss = loss
        self._model = model
        # Number of calls so far, and the first that is walked around next.
        self.calls = 0
        self.next = 1
        # Why the loss is not run again; empty while it may be.
        self.why_not = ""

    def untouched(self) -> AbstractContextManager[None]:
        """A context for the next call, at whose end everything that it changed is put back.

        Raises:
            UserCodeFailed: The loss uses something that cannot be put back.
        """
        self.calls += 1
        return self._around() if self.calls >= self.next else nullcontext()

    @contextmanager
    def _around(self) -> Iterator[None]:
        if self.why_not:
            raise UserCodeFailed(self.why_not)
        # Parameters are compared by content in fewer calls: that reads them all.
        is_deep = self.calls <= 4 or self.calls & (self.calls - 1) == 0
        walk = _Walk(self._loss, self._model, is_deep=is_deep)
        if walk.fixed:
            self._refuse(walk.fixed[0])
        dtype = torch.get_default_dtype()
        lost: list[str] = []
        try:
            yield
        finally:
            if torch.get_default_dtype() is not dtype:
                torch.set_default_dtype(dtype)
            lost = walk.restore()
        if lost:
            self._refuse(lost[0])
        self.next = self.calls + 1 if walk.may_change else 2 * self.calls

    def _refuse(self, path: str) -> None:
        self.next = 0
        self.why_not = (
            f"`loss` is not run again, since `{path}` changes with each call and cannot be put "
            "back: keep it in a buffer of the model, or call `watch` without `loss`."
        )
        raise UserCodeFailed(self.why_not)


class _Walk:
    """One walk: for every object that can change, a function that puts it back.

    Args:
        loss: The loss.
        model: The model.
        is_deep: True to copy parameters, too.
    """

    def __init__(self, loss: Any, model: nn.Module, *, is_deep: bool) -> None:
        # Each returns None if the object is as it was, True if it was put back, else False.
        self._checks: list[tuple[str, Check]] = []
        # Paths of iterators that the functions name, whose place cannot be set.
        self.fixed: list[str] = []
        self._seen: dict[int, Any] = {}
        self._numbers = MOST_NUMBERS
        self._is_deep = is_deep
        # True if a next call may change something that is not in a parameter or a buffer.
        self.may_change = False
        self._names: set[str] = set()
        # Methods that are not visited before some code names them.
        self._methods: dict[str, list[FunctionType]] = {}
        self._iterators: list[str] = []
        self._waiting: deque[tuple[str, Any]] = deque([("model", model), ("loss", loss)])
        while self._waiting and len(self._seen) < MOST_OBJECTS:
            path, one = self._waiting.popleft()
            if id(one) not in self._seen and not isinstance(one, _PLAIN):
                self._seen[id(one)] = one
                self._visit(path, one)
        # Only iterators that some code names: a trainer may hold that of its data.
        for path in self._iterators:
            if path.rpartition(".")[2].partition("[")[0] in self._names:
                self.fixed.append(path)

    def restore(self) -> list[str]:
        """Put everything back. Returns the paths of what could not be."""
        lost = []
        for path, check in self._checks:
            outcome = check()
            self.may_change |= outcome is not None
            if outcome is False:
                lost.append(path)
        return lost

    def _visit(self, path: str, one: Any) -> None:
        if isinstance(one, Tensor):
            self._visit_tensor(path, one)
        elif isinstance(one, np.ndarray):
            self._visit_array(path, one)
        elif isinstance(one, _GENERATORS):
            self._visit_generator(path, one)
        elif isinstance(one, ContextVar):
            self._visit_variable(path, one)
        elif isinstance(one, FunctionType):
            self._visit_function(path, one)
        elif isinstance(one, MethodType | functools.partial):
            self._visit_bound(path, one)
        elif isinstance(one, dict | list | set | deque | bytearray | tuple | frozenset):
            self._visit_container(path, one)
        elif isinstance(one, type):
            self._visit_class(path, one)
        elif hasattr(type(one), "__next__") and not _is_open(one):
            if not isinstance(one, io.IOBase):
                self._iterators.append(path)
        elif _is_open(one):
            self._visit_object(path, one)
        elif path == "loss":  # a wrapper of ours around the loss of a person
            self._add_all(path, getattr(one, "__dict__", {}))

    def _visit_bound(self, path: str, one: Any) -> None:
        if isinstance(one, functools.partial):
            self._add(path, one.func)
            self._add_all(path, {f"[{place}]": value for place, value in enumerate(one.args)})
            self._add_all(path, {f"[{name}]": value for name, value in one.keywords.items()})
        elif _is_open(one.__self__):
            self._add(path.rpartition(".")[0] or path, one.__self__)
            self._add(path, one.__func__)

    def _add(self, path: str, one: Any) -> None:
        if not isinstance(one, _PLAIN):
            self._waiting.append((path, one))

    def _add_all(self, path: str, named: Any) -> None:
        for name, one in named.items():
            self._add(f"{path}.{name}" if str(name)[:1] != "[" else f"{path}{name}", one)

    def _visit_object(self, path: str, one: Any) -> None:
        held = getattr(one, "__dict__", None)
        if isinstance(held, dict):
            self._keep_dict(path, held)
            for name, value in held.items():
                if name in ("_parameters", "_buffers", "_modules"):
                    self._keep_dict(path, value)
                    self._add_all(path, value)
                elif isinstance(one, nn.Module) and name.endswith("_hooks"):
                    self._visit_hooks(f"{path}.{name}", value)
                else:
                    self._add(f"{path}.{name}", value)
        kind = type(one)
        for base in kind.__mro__:
            slots = base.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if name not in ("__dict__", "__weakref__") and _is_user(base):
                    self._keep_attribute(f"{path}.{name}", one, name)
        if isinstance(one, nn.Module) and not _is_user(kind) and not _is_of_torch(kind):
            code = getattr(kind.forward, "__code__", None)
            self.may_change |= code is None or _writes(code)
        self._add(kind.__name__, kind)

    def _visit_hooks(self, path: str, hooks: Any) -> None:
        """Visit a person's hooks. Those that a call adds are removed; those of a watch come and go
        as it measures."""
        before = set(hooks)
        self._add_all(path, {f"[{name}]": hook for name, hook in hooks.items()})

        def check() -> bool | None:
            new = [name for name in set(hooks) - before if _is_user(hooks[name])]
            for name in new:
                del hooks[name]
            return True if new else None

        self._checks.append((path, check))

    def _visit_class(self, path: str, kind: type) -> None:
        for base in kind.__mro__:
            if not _is_user(base):
                continue
            for name, value in list(vars(base).items()):
                function = getattr(value, "__func__", value)
                if isinstance(value, property):
                    function = value.fget
                function = getattr(function, "__wrapped__", function)
                if isinstance(function, FunctionType):
                    self._methods.setdefault(name, []).append(function)
                elif not name.startswith("__") and not hasattr(value, "__get__"):
                    self._keep_attribute(f"{base.__name__}.{name}", base, name)
            before = set(vars(base))
            self._checks.append((path, functools.partial(_remove_new, base, before)))
        self._find_methods()

    def _find_methods(self) -> None:
        """Visit the methods that some code names; all if names are made at run time."""
        is_dynamic = not self._names.isdisjoint({"getattr", "__getattribute__", "eval", "vars"})
        for name in list(self._methods):
            if is_dynamic or name in _CALLED or name in self._names:
                for function in self._methods.pop(name):
                    if name != "__init__":
                        self._add(name, function)

    def _visit_function(self, path: str, function: FunctionType) -> None:
        self._add_all(path, vars(function))
        self._keep_dict(path, vars(function))
        used = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        self._add_all(path, {f"[{place}]": value for place, value in enumerate(used)})
        free = function.__code__.co_freevars
        for name, cell in zip(free, function.__closure__ or (), strict=True):
            self._keep_attribute(name, cell, "cell_contents")
        if not _is_user(function):
            return
        self.may_change |= _writes(function.__code__)
        names = _names_in(function.__code__)
        self._names |= names | set(free)
        for name in names:
            self._keep_global(name, function.__globals__)
            value = function.__globals__.get(name)
            if isinstance(value, ModuleType) and _is_user_module(value.__name__):
                for inner in names & vars(value).keys():
                    self._keep_global(inner, vars(value))
        self._find_methods()

    def _keep_global(self, name: str, names: dict[str, Any]) -> None:
        before = names.get(name, _MISSING)

        def check() -> bool | None:
            if names.get(name, _MISSING) is before:
                return None
            if before is _MISSING:
                del names[name]
            else:
                names[name] = before
            return True

        self._checks.append((name, check))
        self._add(name, before)

    def _keep_attribute(self, path: str, one: Any, name: str) -> None:
        try:
            before = getattr(one, name)
        except (AttributeError, ValueError):  # not filled yet
            before = _MISSING

        def check() -> bool | None:
            now = _MISSING
            with suppress(AttributeError, ValueError):
                now = getattr(one, name)
            if now is before:
                return None
            if before is _MISSING:
                delattr(one, name)
            else:
                setattr(one, name, before)
            return True

        self._checks.append((path, check))
        self._add(path, before)

    def _keep_dict(self, path: str, held: dict[Any, Any]) -> None:
        before = dict(held)

        def check() -> bool | None:
            if len(held) == len(before) and all(
                name is other and value is held[other]
                for (name, value), other in zip(before.items(), held, strict=True)
            ):
                return None
            dict.clear(held)
            dict.update(held, before)
            return True

        self._checks.append((path, check))

    def _visit_container(self, path: str, one: Any) -> None:
        if isinstance(one, dict):
            self._keep_dict(path, one)
            few = dict(islice(one.items(), LONG))
            self._add_all(path, {f"[{name!r:.40}]": value for name, value in few.items()})
            return
        if isinstance(one, list) and len(one) > LONG:
            self._checks.append((path, functools.partial(_shorten, one, len(one))))
        elif not isinstance(one, tuple | frozenset):
            self._checks.append((path, functools.partial(_fill, one, list(one))))
        if not isinstance(one, bytearray):
            for place, value in enumerate(islice(one, LONG)):
                self._add(f"{path}[{place}]", value)

    def _visit_tensor(self, path: str, tensor: Tensor) -> None:
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad and not self._is_deep:
            version = tensor._version
            self._checks.append((path, lambda: None if tensor._version == version else False))
            return
        requires_grad = tensor.requires_grad
        before, copy = None, None
        with suppress(RuntimeError, NotImplementedError):  # sparse, nested and meta tensors
            before = _bits(tensor).sum()
            if tensor.numel() <= self._numbers:
                copy = tensor.detach().clone()
                self._numbers -= tensor.numel()
        version = None if tensor.is_inference() else tensor._version

        def check() -> bool | None:
            if tensor.is_leaf and tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
            if copy is None:
                is_same = tensor.is_inference() or tensor._version == version
                if is_same and before is not None:
                    is_same = bool(_bits(tensor).sum() == before)
                return None if is_same else False
            if tensor.shape != copy.shape or tensor.dtype != copy.dtype:
                tensor.data = copy
            elif torch.equal(_bits(tensor), _bits(copy)):
                return None
            else:
                tensor.data.copy_(copy)
            return True

        self._checks.append((path, check))

    def _visit_array(self, path: str, array: Any) -> None:
        if not array.flags.writeable:
            return
        if array.size > self._numbers:
            if array.flags.c_contiguous:
                total = array.view(np.uint8).sum()

                def compare() -> bool | None:
                    return None if array.view(np.uint8).sum() == total else False

                self._checks.append((path, compare))
            return
        self._numbers -= array.size
        copied = array.copy()

        def check() -> bool | None:
            if array.shape == copied.shape and array.tobytes() == copied.tobytes():
                return None
            if array.shape != copied.shape:
                array.resize(copied.shape, refcheck=False)
            array[...] = copied
            return True

        self._checks.append((path, check))
        if array.dtype == object:
            for place, value in enumerate(array.flat):
                self._add(f"{path}[{place}]", value)

    def _visit_generator(self, path: str, generator: Any) -> None:
        if isinstance(generator, random.Random):
            put_back = functools.partial(generator.setstate, generator.getstate())
        elif isinstance(generator, np.random.Generator):
            bits = generator.bit_generator
            put_back = functools.partial(setattr, bits, "state", bits.state)
        else:
            put_back = functools.partial(generator.set_state, generator.get_state())

        # The state of a generator that all share is put back by others.
        self.may_change |= generator is not torch.default_generator
        self._checks.append((path, put_back))

    def _visit_variable(self, path: str, variable: ContextVar[Any]) -> None:
        before = variable.get(_MISSING)

        def check() -> bool | None:
            if variable.get(_MISSING) is before:
                return None
            if before is not _MISSING:
                variable.set(before)
            return before is not _MISSING

        self._checks.append((path, check))
        if before is not _MISSING:
            self._add(path, before)


def _fill(container: Any, before: list[Any]) -> bool | None:
    """Give a list, a deque, a set or a bytearray its elements back."""
    now = list(container)
    if len(now) == len(before) and all(a is b for a, b in zip(now, before, strict=True)):
        return None
    container.clear()
    if isinstance(container, set):
        container.update(before)
    else:
        container.extend(before)
    return True


def _shorten(container: list[Any], length: int) -> bool | None:
    """Take from a long list what was appended."""
    if len(container) == length:
        return None
    is_longer = len(container) > length
    del container[length:]
    return is_longer


def _remove_new(kind: type, before: set[str]) -> bool | None:
    """Take from a class what was added."""
    new = [name for name in set(vars(kind)) - before if not name.startswith("__")]
    for name in new:
        delattr(kind, name)
    return True if new else None


def _bits(tensor: Tensor) -> Tensor:
    """The bits of a tensor as whole numbers, so that NaN equals itself and 0 is not -0."""
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    return flat.view(
        {8: torch.int64, 4: torch.int32, 2: torch.int16}.get(flat.itemsize, torch.uint8)
    )


@functools.lru_cache(maxsize=4096)
def _writes(code: CodeType) -> bool:
    """True if a code may write more than its own variables. An update in place, as of `x += y`, may
    be of a tensor that others hold."""
    named = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and _writes(constant):
            return True
        if isinstance(constant, tuple):  # names of keyword arguments
            named.update(one for one in constant if isinstance(one, str))
    if any(name in _WRITING or (name[-1:] == "_" and name[:1] != "_") for name in named):
        return True
    return any(
        one.opname in _STORES or (one.opname == "BINARY_OP" and one.argrepr.endswith("="))
        for one in dis.get_instructions(code)
    )


@functools.lru_cache(maxsize=4096)
def _names_in(code: CodeType) -> set[str]:
    """Globals and attributes that a code names, and the functions that are defined inside of it."""
    inner = (part for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*map(_names_in, inner))


def _is_open(one: Any) -> bool:
    """True if the attributes of an object are walked."""
    return isinstance(one, nn.Module) or _is_user(type(one))


def _is_of_torch(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in ("torch", "gradiometer")


def _is_user(one: Any) -> bool:
    return _is_user_module(getattr(one, "__module__", None) or "builtins")


@functools.cache
def _is_user_module(name: str) -> bool:
    """True for code of a person: neither installed, nor of Python, nor ours."""
    top = name.partition(".")[0]
    if top in {"gradiometer", "gradiometer_lab"} or top in sys.builtin_module_names:
        return False
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    installed = "site-packages" in file or "dist-packages" in file
    return not installed and not file.startswith(_STANDARD)
