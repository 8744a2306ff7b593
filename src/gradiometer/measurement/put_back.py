"""Checks that put an object back to what it was: one function for each kind of object."""

import functools
import operator
import random
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# Returns None if the object is as it was, True if it was put back, False if it could not be.
Check = Callable[[], bool | None]

MISSING = object()


class Place(NamedTuple):
    """An attribute of an object, or an item of a dictionary, and its name for a person."""

    path: str
    holder: Any
    name: Any
    is_item: bool

    @property
    def key(self) -> tuple[int, Any]:
        """Equal for the same place in two walks."""
        return id(self.holder), self.name

    def read(self) -> Any:
        """The object that is there now; MISSING for none."""
        if self.is_item:
            return self.holder.get(self.name, MISSING)
        with suppress(AttributeError, ValueError):  # a cell that is not filled yet
            return getattr(self.holder, self.name)
        return MISSING

    def check(self, before: Any) -> Check:
        """A check that the same object is there."""

        def check() -> bool | None:
            if self.read() is before:
                return None
            if self.is_item and before is MISSING:
                del self.holder[self.name]
            elif self.is_item:
                self.holder[self.name] = before
            elif before is MISSING:
                delattr(self.holder, self.name)
            else:
                setattr(self.holder, self.name, before)
            return True

        return check


def dictionary(held: dict[Any, Any], note: Callable[[Any], object] | None = None) -> Check:
    """A check that a dictionary has the same keys and the same objects, in the same order.

    Args:
        held: The dictionary.
        note: Called with every key whose object has changed.
    """
    before = dict(held)

    def check() -> bool | None:
        if (
            len(held) == len(before)
            and all(map(operator.is_, held, before))
            and all(map(operator.is_, held.values(), before.values()))
        ):
            return None
        if note is not None:
            for name in before.keys() | held.keys():
                if before.get(name, MISSING) is not held.get(name, MISSING):
                    note(name)
        # past methods of a person's own; an OrderedDict keeps its order apart
        kind = OrderedDict if isinstance(held, OrderedDict) else dict
        kind.clear(held)
        kind.update(held, before)
        return True

    return check


def container(one: Any) -> Check:
    """A check that a list, a deque, a set or a bytearray has the same elements."""
    before = list(one)

    def check() -> bool | None:
        if len(one) == len(before) and all(map(operator.is_, one, before)):
            return None
        one.clear()
        if isinstance(one, set):
            one.update(before)
        else:
            one.extend(before)
        return True

    return check


def numbers(one: Any) -> Check:
    """A check of the numbers in an `array.array`."""
    before = one[:]

    def check() -> bool | None:
        if one == before:
            return None
        one[:] = before
        return True

    return check


def versions(tensors: list[Tensor]) -> Check:
    """A check that no tensor was written in place, as far as torch counts that."""
    version = operator.attrgetter("_version")
    try:
        before = sum(map(version, tensors))
    except RuntimeError:  # tensors of inference mode have none
        return versions([one for one in tensors if not one.is_inference()])
    return lambda: None if sum(map(version, tensors)) == before else False


def tensor(one: Tensor, *, copied: bool, summed: bool) -> Check:
    """A check of a tensor's values.

    Args:
        one: The tensor.
        copied: True to keep a copy, with which it can be put back.
        summed: True to compare a sum of its bits in place of a copy; else only its version.
    """
    requires_grad = one.requires_grad
    version = None if one.is_inference() else one._version
    before, copy, before_bits = None, None, None
    if one.layout is torch.strided and not one.is_nested and one.device.type != "meta":
        if copied:
            copy = one.detach().clone()
            before_bits = bits(copy)
        elif summed:
            before = bits(one).sum()

    def check() -> bool | None:
        if one.requires_grad != requires_grad and one.is_leaf:
            one.requires_grad_(requires_grad)
        if copy is None or before_bits is None:
            is_same = version is None or one._version == version
            if is_same and before is not None:
                is_same = bool(bits(one).sum() == before)
            return None if is_same else False
        if one.shape != copy.shape or one.dtype != copy.dtype or one.device != copy.device:
            one.data = copy
        elif torch.equal(bits(one), before_bits):
            # a write that happened to leave the bits, as of an average of equal weights
            return None if version is None or one._version == version else True
        else:
            one.data.copy_(copy)
        return True

    return check


def bits(one: Tensor) -> Tensor:
    """The bits of a tensor as whole numbers, so that NaN equals itself and 0 is not -0."""
    flat = one.detach().contiguous().reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    return flat.view(
        {8: torch.int64, 4: torch.int32, 2: torch.int16}.get(flat.itemsize, torch.uint8)
    )


def array(one: Any, *, copied: bool) -> Check:
    """A check of the values of a NumPy array; without a copy, of a sum of its bytes."""
    if not copied:
        total = _total(one)
        return lambda: None if _total(one) == total else False
    copy = one.copy()

    def check() -> bool | None:
        if one.shape == copy.shape and one.tobytes() == copy.tobytes():
            return None
        if one.shape != copy.shape:
            one.resize(copy.shape, refcheck=False)
        one[...] = copy
        return True

    return check


def _total(one: Any) -> Any:
    return np.ascontiguousarray(one).view(np.uint8).sum(dtype=np.uint64)


def generator(one: Any) -> Check:
    """A check of the state of a random generator."""
    read: Callable[[], Any]
    write: Callable[[Any], Any]
    if isinstance(one, random.Random):
        read, write = one.getstate, one.setstate
    elif isinstance(one, np.random.Generator):
        bit_generator = one.bit_generator
        read = functools.partial(getattr, bit_generator, "state")
        write = functools.partial(setattr, bit_generator, "state")
    else:
        read, write = one.get_state, one.set_state
    before: Any = read()

    def check() -> bool | None:
        now: Any = read()
        is_state = isinstance(before, Tensor)
        if torch.equal(now, before) if is_state else repr(now) == repr(before):
            return None
        write(before)
        return True

    return check


def variable(one: ContextVar[Any]) -> Check:
    """A check of a context variable. One without value and default cannot be emptied again."""
    before = MISSING
    with suppress(LookupError):
        before = one.get()

    def check() -> bool | None:
        now = MISSING
        with suppress(LookupError):
            now = one.get()
        if now is before:
            return None
        if before is not MISSING:
            one.set(before)
        return before is not MISSING

    return check


def settings_of_torch() -> Check:
    """A check of settings that hold for a whole program."""
    read = (
        torch.get_default_dtype,
        torch.get_float32_matmul_precision,
        torch.are_deterministic_algorithms_enabled,
        torch.get_num_threads,
    )
    write = (
        torch.set_default_dtype,
        torch.set_float32_matmul_precision,
        torch.use_deterministic_algorithms,
        torch.set_num_threads,
    )
    before = [one() for one in read]

    def check() -> bool | None:
        outcome = None
        for get, put, value in zip(read, write, before, strict=True):
            if get() != value:
                put(value)  # type: ignore[operator]
                outcome = True
        return outcome

    return check
