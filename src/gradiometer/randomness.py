"""The random generators that all modules of a program share: those of Python, NumPy and torch, seeded and restored."""

import ctypes
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

WORDS = 624
"""Number of 32-bit words in the state of a Mersenne twister. Its position is one more."""


class GlobalStates:
    """The states of the global generators of Python, NumPy and torch (on the CPU), saved when this is made."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._torch = torch.default_generator.get_state()
        self._numpy = _numpy.state()
        self._seeded: bytes | None = None

    def seed(self, seed: int) -> None:
        """Seed all of them."""
        random.seed(seed)
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 (models use the global one)
        self._seeded = _numpy.words()

    def restore(self) -> None:
        """Restore the saved states."""
        random.setstate(self._python)
        torch.default_generator.set_state(self._torch)
        _numpy.restore(self._numpy, self._seeded)


@contextmanager
def untouched_randomness(seed: int, devices: Iterable[torch.device]) -> Iterator[None]:
    """Seed the random generators with `seed` inside, and restore their states at the end.

    Covers torch's generators on the CPU and on the given devices, and the global generators of Python and NumPy.
    Generators of other devices are not seeded.
    """
    before = GlobalStates()
    accelerators = {device for device in devices if device.type != "cpu"}
    with ExitStack() as stack:
        stack.callback(before.restore)
        for device in accelerators:
            stack.enter_context(torch.random.fork_rng(devices=[device], device_type=device.type))
            stack.enter_context(torch.get_device_module(device.type).device(device))
            torch.get_device_module(device.type).manual_seed(seed)
        before.seed(seed)
        yield


def numpy_state() -> object:
    """Something that changes when a number is drawn from the global generator of NumPy."""
    return _numpy.words() or repr(np.random.get_state(legacy=False))  # noqa: NPY002


class _Numpy:
    """NumPy's global generator.

    NumPy copies a state word by word, as Python objects, which takes 70 µs for saving and restoring. Here the words
    are read in memory, and the last saved state is used again if they are the same. Written in memory, they are
    restored if nothing was drawn meanwhile.
    """

    def __init__(self) -> None:
        self._generator: Any = None
        self._address = 0
        self._saved: tuple[bytes, Any] | None = None

    def words(self) -> bytes | None:
        """The words of the state and its position; None if the generator is not a Mersenne twister."""
        numpys: Any = np.random  # its types lack this function
        generator = numpys.get_bit_generator()
        if generator is not self._generator:
            self._generator, self._saved = generator, None
            self._address = _address_of(generator)
        return _read(self._address) if self._address else None

    def state(self) -> Any:
        """The whole state."""
        words = self.words()
        if words is not None and self._saved is not None and self._saved[0] == words:
            return self._saved[1]
        state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
        # A state with a normal number put aside is not used again: the number may be taken without any new word.
        self._saved = None if words is None or state["has_gauss"] else (words, state)
        return state

    def restore(self, state: Any, seeded: bytes | None) -> None:
        """Restore a state. `seeded` are the words after the seed, which are still there if nothing was drawn."""
        if seeded is not None and self._saved is not None and self._saved[1] is state and self.words() == seeded:
            ctypes.memmove(self._address, self._saved[0], len(seeded))
        else:
            np.random.set_state(state)  # noqa: NPY002


def _address_of(generator: Any) -> int:
    """Where the words of a Mersenne twister are in memory; 0 for another generator, or if they are elsewhere."""
    if type(generator) is not np.random.MT19937:
        return 0
    address, state = int(generator.ctypes.state_address), generator.state["state"]
    expected = state["key"].astype(np.uint32).tobytes() + int(state["pos"]).to_bytes(4, sys.byteorder)
    return address if _read(address) == expected else 0


def _read(address: int) -> bytes:
    return ctypes.string_at(address, 4 * WORDS + 4)


_numpy = _Numpy()
