"""What an accelerator needs so that training does not wait for it: copies and clocks that are read
later."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradiometer.run.budget import READINGS, Budget


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

    @classmethod
    def of(cls, numbers: Sequence[Tensor]) -> "Copied":
        """The copy of some single numbers, in the type and on the device of the first."""
        place = numbers[0].device, numbers[0].dtype
        return cls(torch.stack([one.detach().reshape(()).to(*place) for one in numbers]))

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


# What torch raises for an accelerator whose events have no times.
CANNOT_TIME_EVENTS = (RuntimeError, NotImplementedError, AttributeError)


class Stopwatch:
    """Corrects what the budget is charged for a measured step.

    When `begin` is called, an accelerator still works for training, and the CPU waits for that too
    before it has the numbers of the reading. The clock of the budget counts this wait. Events in
    the queue of the accelerator show how long it worked from `begin` to the last `lap`, and
    `charge` replaces the one by the other. So nothing waits for the end of training's work. On a
    CPU nothing is done. Several accelerators, and one that cannot time events, are waited for in
    `begin`.

    Args:
        budget: The account. `charge` is called before it takes the cost of a measurement.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._devices = list[torch.device]()
        self._begun: tuple[Any, float] | None = None
        self._parts = list[tuple[Any, Any, float]]()
        self._can_time = True

    def start(self, devices: Iterable[torch.device]) -> None:
        """Prepare for a step on these devices."""
        self._budget.before_made = self.charge
        self.charge()
        self._devices = [device for device in devices if device.type != "cpu"]
        self._begun = None
        self._parts = []

    def begin(self) -> None:
        """The CPU begins to measure, and the accelerator soon will."""
        self._begun = None
        if len(self._devices) == 1 and self._can_time:
            try:
                self._begun = recorded(self._devices[0], timed=True), self._budget.clock()
                return
            except CANNOT_TIME_EVENTS:
                self._can_time = False
        self.wait()

    def lap(self) -> None:
        """The numbers of the reading are known, or all work for them is queued. Of several calls
        the last counts."""
        if self._begun is not None:
            begun, since = self._begun
            seconds = self._budget.clock() - since
            self._parts = [part for part in self._parts if part[0] is not begun]
            self._parts.append((begun, recorded(self._devices[0], timed=True), seconds))

    def charge(self) -> None:
        """Correct the charge for all work that is complete. The rest is corrected the next time."""
        parts, self._parts = self._parts, []
        for begun, ended, counted in parts:
            if not ended.query():
                self._parts.append((begun, ended, counted))
                continue
            try:
                self._budget.charge(READINGS, begun.elapsed_time(ended) / 1000 - counted)
            except CANNOT_TIME_EVENTS:
                self._can_time = False

    def wait(self) -> None:
        """Wait for the accelerators."""
        for device in self._devices:
            torch.get_device_module(device.type).synchronize(device)
