"""The random generators that all modules of a program share: those of Python, NumPy and torch,
seeded and restored."""

import pickle
import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch


class GlobalStates:
    """The states of the global generators of Python, NumPy and torch, saved when this is made.

    Args:
        devices: Accelerators whose generators are saved besides that of the CPU.
    """

    def __init__(self, devices: Iterable[torch.device] = ()) -> None:
        self._python = random.getstate()
        self._torch = torch.default_generator.get_state()
        self._accelerators = {
            device: torch.get_device_module(device.type).get_rng_state(device)
            for device in devices
            if device.type != "cpu"
        }
        self._numpy = np.random.get_state(legacy=False)  # noqa: NPY002 (models use the global one)

    def seed(self, seed: int) -> None:
        """Seed all of them."""
        random.seed(seed)
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002

    def restore(self) -> None:
        """Restore the saved states."""
        random.setstate(self._python)
        torch.default_generator.set_state(self._torch)
        np.random.set_state(self._numpy)  # noqa: NPY002
        for device, state in self._accelerators.items():
            torch.get_device_module(device.type).set_rng_state(state, device)

    def same_as(self, other: "GlobalStates") -> bool:
        """True if no number was drawn between two savings."""
        ours, theirs = self._accelerators, other._accelerators
        return (
            self._python == other._python
            and torch.equal(self._torch, other._torch)
            and pickle.dumps(self._numpy) == pickle.dumps(other._numpy)
            and all(torch.equal(state, theirs[device]) for device, state in ours.items())
        )


def seed_everything(seed: int) -> None:
    """Seed torch's generators on all devices, Python's, and NumPy's global one: a model may draw
    from any of them."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


@contextmanager
def untouched_randomness(seed: int, devices: Iterable[torch.device]) -> Iterator[None]:
    """Seed the random generators with `seed` inside, and restore their states at the end.

    Covers torch's generators on the CPU and on the given devices, and the global generators of
    Python and NumPy. Generators of other devices are not seeded.
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


def numpy_state() -> bytes:
    """The whole state of the global generator of NumPy. It changes when a number is drawn."""
    return pickle.dumps(np.random.get_state(legacy=False))  # noqa: NPY002
