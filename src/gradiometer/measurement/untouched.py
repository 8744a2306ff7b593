"""Contexts that restore every random state, or every module's mode, at their end."""

import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def untouched_randomness(seed: int, devices: Iterable[torch.device]) -> Iterator[None]:
    """Seed the random generators with `seed` inside, and restore their states at the end.

    Covers torch's generators on the CPU and on the given devices, and the global generators of Python and NumPy.
    Generators of other devices are not seeded.
    """
    state, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (models use the global one)
    accelerators = {device for device in devices if device.type != "cpu"}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.default_generator.manual_seed(seed)
        for device in accelerators:
            stack.enter_context(torch.random.fork_rng(devices=[device], device_type=device.type))
            stack.enter_context(torch.get_device_module(device.type).device(device))
            torch.get_device_module(device.type).manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(legacy)  # noqa: NPY002


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
