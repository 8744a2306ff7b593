"""How training moves: its parameters at an earlier step, and its velocity. One step alone does not
show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from gradiometer.errors import BadArgument, Unsupported
from gradiometer.measurement.parts import multiple

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class SGDUpdate:
    """The vector that SGD multiplies by its rate: s ĝ + λΦ. This is ĝ + (λ/s)Φ at the rate s η.

    Clipping the gradient by its norm amounts to a smaller learning rate for one step: s is below 1.

    Args:
        gradient: ĝ, as `backward` computed it, one tensor per trainable parameter.
        factor: s, by which ĝ was multiplied between `backward` and the update; usually 1.
        weight_decay: λ, one number per trainable parameter; 0 for a parameter without a gradient.
    """

    gradient: Sequence[Tensor]
    factor: float
    weight_decay: Sequence[float]

    def pull(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """ĝ + (λ/s)Φ, one tensor per trainable parameter."""
        return [
            gradient + decay / self.factor * parameter.detach() if decay else gradient
            for gradient, parameter, decay in zip(
                self.gradient, parameters, self.weight_decay, strict=True
            )
        ]


@dataclass(frozen=True)
class Motion:
    """The parameters at an earlier step, and the velocity before this step's update.

    Args:
        origin: c, the earlier parameters, one tensor per trainable parameter.
        since: The step of these parameters.
        velocity: v, the momentum buffer before this step's update, one tensor per trainable
            parameter, None for a buffer that does not exist yet; None without momentum.
        update: The update that the optimizer is about to make; default: ĝ with the weight decay of
            the gauge.
    """

    origin: Sequence[Tensor]
    since: int
    velocity: Sequence[Tensor | None] | None = None
    update: SGDUpdate | None = None

    def away(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Φ − c, one tensor per trainable parameter."""
        here = [parameter.detach() for parameter in parameters]
        return list(torch._foreach_sub(here, list(self.origin)))

    def velocity_of(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """v, one tensor per trainable parameter.

        Raises:
            BadArgument: The velocity was not given.
        """
        if self.velocity is None:
            raise BadArgument(
                "`motion` has no velocity, which a gauge needs for training with momentum: pass "
                "`velocity=velocity_of(optimizer, parameters)`."
            )
        return [
            torch.zeros_like(parameter) if known is None else known.detach()
            for known, parameter in zip(self.velocity, parameters, strict=True)
        ]


class Origin:
    """Keeps earlier parameters to measure from, for the gauges that look back such as
    `Temperature`.

    It holds one copy of the parameters. `motion` renews the copy at the first step with more binary
    digits than the step of the copy. So the copy is at most about half the run old, and a run of n
    steps makes log₂ n copies. Put `state_dict` into a checkpoint to resume a run with the same
    copy.

    >>> import torch
    >>> from gradiometer.measurement.motion import Origin
    >>> origin = Origin()
    >>> [origin.motion([torch.tensor([float(step)])], step).since for step in range(9)]
    [0, 1, 2, 2, 4, 4, 4, 4, 8]
    """

    def __init__(self) -> None:
        self.since = -1
        self.point: list[Tensor] = []

    def motion(
        self,
        parameters: Sequence[Tensor],
        step: int,
        velocity: Sequence[Tensor | None] | None = None,
        update: SGDUpdate | None = None,
    ) -> Motion:
        """The motion at this step. Call it at every measured step.

        Args:
            parameters: Φ, before the update.
            step: The step's number, from 0.
            velocity: v, see `velocity_of`.
            update: The update, if ĝ is changed before it is applied; see `update_of`.
        """
        if not step >= 0:
            raise BadArgument(f"`step` must be at least 0, got {step}.")
        if self.since < 0 or step.bit_length() > self.since.bit_length():
            self.since = step
            self.point = [parameter.detach().clone() for parameter in parameters]
        return Motion(self.point, self.since, velocity, update)

    def state_dict(self) -> tuple[Tensors, dict[str, Any]]:
        """The origin as named tensors and plain values."""
        return {str(place): tensor for place, tensor in enumerate(self.point)}, {
            "since": self.since
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Restore the origin from a checkpoint."""
        self.since = int(values["since"])
        self.point = [tensors[str(place)] for place in range(len(tensors))]


def velocity_of(optimizer: Optimizer, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """The momentum buffers of `torch.optim.SGD` before its step; None for a buffer that does not
    exist yet."""
    return [optimizer.state.get(parameter, {}).get("momentum_buffer") for parameter in parameters]


def update_of(
    optimizer: Optimizer,
    parameters: Sequence[Tensor],
    made: Float[Tensor, " parameters"],
    *,
    scale: float = 1.0,
) -> SGDUpdate:
    """The update that `torch.optim.SGD` is about to make, given the norm of ĝ after `backward`.

    Clipping by the norm of the whole gradient shrinks the gradients of all parameters by one
    factor. Clipping by value or by layer does not, and is refused.

    Args:
        optimizer: The optimizer of all parameters, whose `.grad` are ready for its step.
        parameters: Φ, the trainable parameters.
        made: ‖ĝ‖² of every parameter after `backward`, for the mean loss.
        scale: The factor by which a gradient scaler multiplied `.grad`, if the optimizer divides by
            it.

    Returns:
        The update. Its `factor` is NaN if a gradient is not finite or became zero.

    Raises:
        Unsupported: `.grad` is not a multiple of what `backward` computed.
    """
    taken = [torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in parameters]
    factor = multiple(made * scale**2, taken)
    if factor is None:
        raise Unsupported(
            "`optimizer` gets a gradient that is not a multiple of the one `backward` computed "
            "(clipped by value or by layer, with added noise, or summed with that of an earlier "
            "step): clip by the norm of all parameters, or leave temperature out."
        )
    if factor * scale != 1.0:
        taken = list(torch._foreach_div(taken, factor * scale))
    groups = {
        id(parameter): group for group in optimizer.param_groups for parameter in group["params"]
    }
    decays = [0.0 if p.grad is None else float(groups[id(p)]["weight_decay"]) for p in parameters]
    return SGDUpdate(taken, factor, decays)
