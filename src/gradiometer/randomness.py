"""The random generators that all modules of a program share: those of Python, NumPy and torch,
seeded and restored."""

import pickle
import random
from collections.abc import Iterable

import numpy as np
import torch


class GlobalStates:
    """The states of the global generators of Python, NumPy and torch, saved when this is made.

    As a context it restores them at its end.

    Args:
        devices: Accelerators whose generators are saved besides that of the CPU.
        seed: Seeds all of them at the beginning of the context; None to leave them.
    """

    def __init__(self, devices: Iterable[torch.device] = (), seed: int | None = None) -> None:
        self._seed = seed
        self._python = random.getstate()
        self._torch = torch.default_generator.get_state()
        self._accelerators = {
            device: torch.get_device_module(device.type).get_rng_state(device)
            for device in devices
            if device.type != "cpu"
        }
        self._numpy = np.random.get_state(legacy=False)  # noqa: NPY002 (models use the global one)

    def __enter__(self) -> None:
        if self._seed is None:
            return
        torch.default_generator.manual_seed(self._seed)  # first: it alone refuses some numbers
        random.seed(self._seed)
        np.random.seed(self._seed % 2**32)  # noqa: NPY002
        for device in self._accelerators:
            accelerator = torch.get_device_module(device.type)
            with accelerator.device(device):
                accelerator.manual_seed(self._seed)

    def restore(self, *_: object) -> None:
        """Restore the saved states."""
        random.setstate(self._python)
        torch.default_generator.set_state(self._torch)
        np.random.set_state(self._numpy)  # noqa: NPY002
        for device, state in self._accelerators.items():
            torch.get_device_module(device.type).set_rng_state(state, device)

    __exit__ = restore

    def same_as(self, other: "GlobalStates", *, of_python: bool = True) -> bool:
        """True if no number was drawn between two savings; without `of_python`, none of NumPy and
        torch."""
        ours, theirs = self._accelerators, other._accelerators
        return (
            (not of_python or self._python == other._python)
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


def untouched_randomness(seed: int, devices: Iterable[torch.device]) -> GlobalStates:
    """Seed the random generators with `seed` inside, and restore their states at the end.

    Covers torch's generators on the CPU and on the given devices, and the global generators of
    Python and NumPy. Generators of other devices are not seeded.
    """
    return GlobalStates(devices, seed)
