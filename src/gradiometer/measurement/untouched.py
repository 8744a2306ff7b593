"""Regions of code that restore every random state, or every module's mode, at their end."""

import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def untouched_randomness(seed: int, devices: Iterable[torch.device]) -> Iterator[None]:
    """Run with generators seeded by `seed`; on the way out put back what was there.

    Covers torch's generator on the CPU and on the given devices, Python's and NumPy's global ones. Only
    those are reseeded, so a generator of a device that is not named here is not reset behind its owner's back.
    """
    state, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (the global one is what models use)
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
