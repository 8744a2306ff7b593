"""What an accelerator needs so that training does not wait for it: copies and clocks that are read later."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.integrations.gradients import gradients_of
from gradiometer.measurement.motion import both_norms, factor_of
from gradiometer.measurement.objective import Gradients
from gradiometer.measurement.step import LikelyGradient
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


@dataclass
class Seen:
    """What `.grad` was at the last measured step: it is the most likely this time, too."""

    as_made: bool = True
    """True if it was as `backward` made it, with the factor of a gradient scaler."""
    unscaled: bool = False
    """True if it was ĝ itself."""


class AsMade(LikelyGradient):
    """ĝ from `.grad`; None if that is not a multiple of what `backward` made.

    Args:
        parameters: The trainable parameters.
        made: ‖·‖² of every parameter's `.grad` at the end of the last backward.
        scale: A function that returns the factor of a gradient scaler at that time. It may wait for
            an accelerator.
        divisor: The same factor as a tensor, for which nothing waits; None if there is no scaler.
        seen: What `.grad` was at the last step.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        made: Float[Tensor, " parameters"],
        scale: Callable[[], float],
        divisor: Tensor | None,
        seen: Seen,
    ) -> None:
        self._parameters = parameters
        self._made = made
        self._scale = scale
        self._divisor = divisor
        self._seen = seen
        self._norms: Copied | None = None
        self._assumed: Seen | None = None

    def __call__(self) -> Gradients | None:
        """ĝ, or None."""
        taken = gradients_of(self._parameters)
        factor = self._look(taken)
        if factor is None or not math.isfinite(factor):
            return None
        return (
            taken
            if self._seen.unscaled
            else list(torch._foreach_div(taken, factor * self._scale()))
        )

    def likely(self) -> Gradients | None:
        """ĝ if `.grad` is what it was at the last step."""
        if not (self._seen.as_made or self._seen.unscaled):
            return None
        self._assumed = Seen(self._seen.as_made, self._seen.unscaled)
        taken = gradients_of(self._parameters)
        self._norms = Copied(both_norms(self._made, taken))
        if self._seen.unscaled or self._divisor is None:
            return taken
        return list(torch._foreach_div(taken, self._divisor.to(taken[0])))

    def was_right(self) -> bool:
        """True if `likely` returned ĝ, or None."""
        if self._assumed is None:
            return True
        assumed, self._assumed = self._assumed, None
        self._look(gradients_of(self._parameters))
        return self._seen.unscaled if assumed.unscaled else self._seen.as_made

    def _look(self, taken: Gradients) -> float | None:
        """The factor between `.grad` and what `backward` made."""
        norms = both_norms(self._made, taken).cpu() if self._norms is None else self._norms()
        factor = factor_of(norms, taken)
        known = factor is not None and math.isfinite(factor)
        self._seen.as_made = known and math.isclose(factor or 0.0, 1.0)
        self._seen.unscaled = known and math.isclose((factor or 0.0) * self._scale(), 1.0)
        return factor


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
