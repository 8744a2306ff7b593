"""How training moves: where it stood earlier, and the velocity it arrives with. One step alone does not show it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from gradiometer.errors import BadArgument, Unsupported
from gradiometer.measurement.parts import squared_norms

Tensors = dict[str, Tensor]

ROUNDING = 1e-4
"""Of a gradient's length: what a factor may be off by, from one parameter to another, and still be one factor."""


@dataclass(frozen=True)
class Update:
    """What SGD takes of a step, the moment before it does: s ĝ + λΦ, which is ĝ + (λ/s)Φ at a rate of s η.

    A gradient that is clipped by its norm is a learning rate made smaller for a step: s is below 1.

    Args:
        gradient: ĝ, as `backward` made it, one tensor a trainable parameter.
        factor: s, what ĝ was multiplied by between `backward` and the update; 1 where nothing was done to it.
        weight_decay: λ, one number a trainable parameter; 0 for one that the update leaves out.
    """

    gradient: Sequence[Tensor]
    factor: float
    weight_decay: Sequence[float]

    def pull(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """ĝ + (λ/s)Φ, one tensor a trainable parameter."""
        return [
            gradient + decay / self.factor * parameter.detach() if decay else gradient
            for gradient, parameter, decay in zip(self.gradient, parameters, self.weight_decay, strict=True)
        ]


@dataclass(frozen=True)
class Motion:
    """Where training stood at an earlier step, and the velocity it arrives with.

    Args:
        origin: c, the parameters then, one tensor a trainable parameter.
        since: The step at which they were.
        velocity: v, the momentum buffer before this step's update, one tensor a trainable parameter, None for one
            that is still zero; None where there is no momentum.
        update: What the optimizer is about to take; left out, ĝ as it is, with the weight decay of the gauge.
    """

    origin: Sequence[Tensor]
    since: int
    velocity: Sequence[Tensor | None] | None = None
    update: Update | None = None

    def away(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Φ − c, one tensor a trainable parameter."""
        here = [parameter.detach() for parameter in parameters]
        return list(torch._foreach_sub(here, list(self.origin)))

    def velocity_of(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """v, one tensor a trainable parameter.

        Raises:
            BadArgument: It is not known.
        """
        if self.velocity is None:
            raise BadArgument(
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
        self,
        parameters: Sequence[Tensor],
        step: int,
        velocity: Sequence[Tensor | None] | None = None,
        update: Update | None = None,
    ) -> Motion:
        """How training moves at this step, from the origin that holds now.

        Args:
            parameters: Φ, before the update.
            step: The step's number, from 0.
            velocity: v, see `velocity_of`.
            update: Where something is done to ĝ before it is applied, what.
        """
        if not step >= 0:
            raise BadArgument(f"`step` must be at least 0, got {step}.")
        if self.since < 0 or step.bit_length() > self.since.bit_length():
            self.since = step
            self.point = [parameter.detach().clone() for parameter in parameters]
        return Motion(self.point, self.since, velocity, update)

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


def update_of(
    optimizer: Optimizer, parameters: Sequence[Tensor], made: Float[Tensor, " parameters"], *, scale: float = 1.0
) -> Update:
    """What `torch.optim.SGD` is about to take, given how long ĝ was when `backward` made it.

    Clipping by the norm of the whole gradient is told from clipping by value or by layer by the norms of the
    parameters' gradients, which only the former shrinks alike.

    Args:
        optimizer: All parameters are its; `.grad` is as it will see it.
        parameters: Φ, the trainable ones.
        made: ‖ĝ‖² of every parameter, of the mean loss.
        scale: What `.grad` is still to be divided by, of a scaler that leaves this to the optimizer.

    Returns:
        The update, whose `factor` is NaN where a gradient is not finite or nothing is left of it.

    Raises:
        Unsupported: `.grad` is not a multiple of what `backward` computed.
    """
    taken = [torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in parameters]
    factor = multiple(made * scale**2, taken)
    if factor is None:
        raise Unsupported(
            "`optimizer` gets a gradient that is not a multiple of the one `backward` computed (clipped by value "
            "or by layer, with added noise, or summed with that of an earlier step): clip by the norm of all "
            "parameters, or leave temperature out."
        )
    if factor * scale != 1.0:
        taken = list(torch._foreach_div(taken, factor * scale))
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    decays = [0.0 if p.grad is None else float(groups[id(p)]["weight_decay"]) for p in parameters]
    return Update(taken, factor, decays)


def multiple(made: Float[Tensor, " parameters"], taken: Sequence[Tensor]) -> float | None:
    """How many times as long gradients are as they were made: by one factor for all parameters, or None.

    Args:
        made: ‖·‖² of every parameter's, as they were.
        taken: As they are now.

    Returns:
        s; NaN where a gradient is not finite or nothing is left of it; 1 where none was made.
    """
    lengths, before = squared_norms(taken)[0].sqrt(), made.sqrt()
    factor = float((lengths.square().sum() / made.sum()).sqrt()) if made.any() else 1.0
    if not (math.isfinite(factor) and factor > 0):
        return math.nan
    rounding = max(ROUNDING, *(8 * torch.finfo(each.dtype).eps for each in taken))
    off = float((lengths - factor * before).abs().max())
    return None if off > rounding * float(lengths.norm()) else factor
