"""Losses that come from an accelerator by one copy, for which training does not wait."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gradiometer.integrations.watch.accelerator.copied import Copied
from gradiometer.integrations.watch.part import Part

Kept = float | Tensor | list[Part]
"""The loss of a step: a number, a tensor, or the backwards of the step."""


class Arriving:
    """The losses of some successive steps, whose copy to the CPU has begun.

    Args:
        step: The first step.
        losses: The losses of this step and of those that follow it.
    """

    def __init__(self, step: int, losses: Sequence[Kept]) -> None:
        self.step = step
        self._losses = losses
        self._copy: Copied | None = None
        far = [value for value in _flattened(losses) if isinstance(value, Tensor)]
        if not far:
            return
        device, kind = far[0].device, far[0].dtype
        together = torch.stack([value.detach().reshape(()).to(device, kind) for value in far])
        self._copy = Copied(together)

    @property
    def on_cpu(self) -> bool:
        """True if nothing had to be copied."""
        return self._copy is None

    def values(self) -> list[float]:
        """The mean loss of every step. Waits for the end of the copy, if it is not complete."""
        copied = iter(() if self._copy is None else self._copy().tolist())
        numbers = iter(
            [
                next(copied) if isinstance(value, Tensor) else value
                for value in _flattened(self._losses)
            ]
        )
        return [_mean(loss, numbers) for loss in self._losses]


def _flattened(losses: Sequence[Kept]) -> Iterator[float | Tensor]:
    for loss in losses:
        if isinstance(loss, list):
            yield from (part.loss for part in loss)
        else:
            yield loss


def _mean(loss: Kept, numbers: Iterator[float]) -> float:
    """The mean over the backwards of a step, of which these are the next numbers."""
    if not isinstance(loss, list):
        return float(next(numbers))
    return sum(part.size * float(next(numbers)) for part in loss) / sum(part.size for part in loss)
