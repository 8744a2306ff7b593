"""The way of the parameters through a run, as distances between some of its points."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Entries of the parameters that are followed at most, evenly over them: the direction of a step
# needs no more. The tensors that they are from at most, the larger ones more likely: each costs a
# call.
ENTRIES, TENSORS = 8_192, 32

# Points that are kept at most, 1 MiB with so many entries. Then every second one is forgotten, and
# the next ones are twice as far apart, so that they always cover the whole run.
KEPT = 32


class PathPoints:
    """Some entries of the parameters at earlier steps, evenly over the run so far.

    The sum of all updates between two points is known from them, under any optimizer. Numbers stay
    on the device.

    Args:
        parameters: The trainable parameters.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = parameters
        self._followed: list[tuple[Tensor, int]] = []
        self._steps: list[int] = []
        self._points: Tensor | None = None
        # In the first 320 steps: 32 points, and then 16 in each doubling.
        self._apart = 10
        # The step of the next point.
        self.next = 0

    def distances(self, step: int) -> tuple[list[int], Tensor] | None:
        """The steps of the points that are kept, and the squared distances to them, shape [points].
        This point is then kept, too. None if nothing is kept.

        Args:
            step: The step at hand.
        """
        if self._points is None:
            self._followed = _entries_of(self._parameters)
            count = sum(math.ceil(one.numel() / apart) for one, apart in self._followed)
            self._points = torch.zeros(KEPT, count, device=self._parameters[0].device)
        now = torch.cat(
            [
                one.detach().reshape(-1)[::apart].to(self._points.device).float()
                for one, apart in self._followed
            ]
        )
        steps = list(self._steps)
        squares = (self._points[: len(steps)] - now).square_().sum(dim=1)
        self._points[len(steps)] = now
        self._steps.append(step)
        if len(self._steps) == KEPT:
            self._points[: KEPT // 2] = self._points[::2].clone()
            self._steps = self._steps[::2]
            self._apart *= 2
        self.next = self._steps[-1] + self._apart
        return (steps, squares) if steps else None

    def meet(self, step: int) -> None:
        """Take the next point at this step if it is near: there is work to do anyway."""
        if abs(step - self.next) <= self._apart // 2:
            self.next = step

    def forget(self) -> None:
        """Keep no points."""
        self._steps = []
        self._points = None


def _entries_of(parameters: Sequence[Tensor]) -> list[tuple[Tensor, int]]:
    """Tensors, each with the distance from one entry that is followed to the next."""
    chosen = list(parameters)
    if len(chosen) > TENSORS:
        sizes = torch.tensor([float(one.numel()) for one in parameters])
        drawn = torch.multinomial(sizes, TENSORS, generator=torch.Generator().manual_seed(0))
        chosen = [chosen[place] for place in drawn.tolist()]
    total = sum(one.numel() for one in chosen)
    apart = math.ceil(total / ENTRIES)
    found = []
    for one in chosen:
        columns = one.shape[-1] if one.dim() else 1
        distance = apart
        # so that the entries come from all columns in turn
        while distance > 1 and math.gcd(distance, columns) > 1:
            distance += 1
        found.append((one, distance))
    return found
