"""How training moves: where it stood earlier, and the velocity it arrives with. One step alone does not show it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradiometer.errors import BadInput

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Motion:
    """Where training stood at an earlier step, and the velocity it arrives with.

    Args:
        origin: c, the parameters then, one tensor a trainable parameter.
        since: The step at which they were.
        velocity: v, the momentum buffer before this step's update, one tensor a trainable parameter, None for one
            that is still zero; None where there is no momentum.
    """

    origin: Sequence[Tensor]
    since: int
    velocity: Sequence[Tensor | None] | None = None

    def away(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Φ − c, one tensor a trainable parameter."""
        here = [parameter.detach() for parameter in parameters]
        return list(torch._foreach_sub(here, list(self.origin)))

    def velocity_of(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """v, one tensor a trainable parameter.

        Raises:
            BadInput: It is not known.
        """
        if self.velocity is None:
            raise BadInput(
                "`motion` has no velocity, which a gauge of training with momentum needs: give "
                "`velocity=velocity_of(optimizer, parameters)`."
            )
        return [
            torch.zeros_like(parameter) if known is None else known.detach()
            for known, parameter in zip(self.velocity, parameters, strict=True)
        ]


class Origin:
    """A fixed point to measure from: where training stood at the latest power of two of its steps that was asked for.

    It holds one copy of the parameters. It is renewed at the first step asked for that has more binary digits than the
    one before, so that at any time it lies within the last half of the run, and the whole run needs log₂ of its
    steps copies. A run that is resumed goes on from the same point: put `state_dict` into its checkpoint.
    """

    def __init__(self) -> None:
        self.since = -1
        self.point: list[Tensor] = []

    def motion(
        self, parameters: Sequence[Tensor], step: int, velocity: Sequence[Tensor | None] | None = None
    ) -> Motion:
        """How training moves at this step, from the origin that holds now.

        Args:
            parameters: Φ, before the update.
            step: The step's number, from 0.
            velocity: v, see `velocity_of`.
        """
        if not step >= 0:
            raise BadInput(f"`step` must be at least 0, got {step}.")
        if self.since < 0 or step.bit_length() > self.since.bit_length():
            self.since = step
            self.point = [parameter.detach().clone() for parameter in parameters]
        return Motion(self.point, self.since, velocity)

    def state_dict(self) -> tuple[Tensors, dict[str, Any]]:
        """The origin as named tensors and plain values."""
        return {str(place): tensor for place, tensor in enumerate(self.point)}, {"since": self.since}

    def load_state_dict(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.since = int(values["since"])
        self.point = [tensors[str(place)] for place in range(len(tensors))]


def velocity_of(optimizer: Optimizer, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """The momentum buffers of `torch.optim.SGD` as they are before its step; None where there is none yet."""
    return [optimizer.state.get(parameter, {}).get("momentum_buffer") for parameter in parameters]
