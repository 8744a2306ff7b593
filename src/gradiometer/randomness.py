"""The random generators that all modules of a program share: those of Python, NumPy and torch,
seeded and restored."""

import pickle
import random
import threading
from collections.abc import Iterable

import numpy as np
import torch

# Held by the thread that has seeded the generators: another one would save its states in place of
# training's, and restore them last.
_seeded = threading.RLock()

# Seconds that a thread waits for another one's region. One that computes for longer, or that waits
# for this thread, must not stop it for ever.
PATIENCE = 60.0


class GlobalStates:
    """The states of the global generators of Python, NumPy and torch, saved when this is made.

    As a context it restores them at its end. With a seed they are saved when it is entered, by one
    thread at a time. What other threads draw meanwhile is still seeded.

    Args:
        devices: Accelerators whose generators are saved besides that of the CPU.
        seed: Seeds all of them at the beginning of the context; None to leave them.
    """

    def __init__(self, devices: Iterable[torch.device] = (), seed: int | None = None) -> None:
        self._seed = seed
        self._devices = tuple(devices)
        self._holds = False
        if seed is None:
            self._save()

    def _save(self) -> None:
        self._python = random.getstate()
        self._torch = torch.default_generator.get_state()
        self._accelerators = {
            device: torch.get_device_module(device.type).get_rng_state(device)
            for device in self._devices
            if device.type != "cpu"
        }
        self._numpy = np.random.get_state(legacy=False)  # noqa: NPY002 (models use the global one)

    def __enter__(self) -> None:
        if self._seed is None:
            return
        self._holds = _seeded.acquire(timeout=PATIENCE)
        self._save()
        try:
            # first: it alone refuses some numbers
            torch.default_generator.manual_seed(self._seed)
            random.seed(self._seed)
            np.random.seed(self._seed % 2**32)  # noqa: NPY002
            for device in self._accelerators:
                accelerator = torch.get_device_module(device.type)
                with accelerator.device(device):
                    accelerator.manual_seed(self._seed)
        except BaseException:
            self.restore()
            raise

    def restore(self, *_: object) -> None:
        """Restore the saved states. Another thread may seed then."""
        try:
            random.setstate(self._python)
            torch.default_generator.set_state(self._torch)
            np.random.set_state(self._numpy)  # noqa: NPY002
            for device, state in self._accelerators.items():
                torch.get_device_module(device.type).set_rng_state(state, device)
        finally:
            if self._holds:
                self._holds = False
                _seeded.release()

    __exit__ = restore

    @property
    def seed(self) -> int:
        """The seed that torch's generator of the CPU was given last."""
        # the first of the numbers of its state
        return int.from_bytes(bytes(self._torch[:8].tolist()), "little")

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
