"""Numbers on their way from an accelerator to the CPU, for which nothing waits."""

from typing import Any

import torch
from torch import Tensor


class Copied:
    """A copy on the CPU that has begun. It is complete once the CPU has waited for anything that
    was queued later.

    Args:
        tensor: The numbers. If they are on the CPU, nothing is copied.
    """

    def __init__(self, tensor: Tensor) -> None:
        tensor = tensor.detach()
        self._near = tensor.to("cpu", non_blocking=True)
        self._event = None if tensor.is_cpu else recorded(tensor.device)

    def __call__(self) -> Tensor:
        """The numbers. Waits only if the copy is not complete."""
        if self._event is not None and not self._event.query():
            self._event.synchronize()
        return self._near


def recorded(device: torch.device, *, timed: bool = False) -> Any:
    """A `torch.Event` in the queue of an accelerator, behind all work that it was given so far."""
    event, module = (
        torch.Event(device.type, enable_timing=timed),
        torch.get_device_module(device.type),
    )
    event.record(module.current_stream(device) if hasattr(module, "current_stream") else None)
    return event
