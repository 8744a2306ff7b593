"""The gradient of the step before, which triage and the products of gradients share."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

Flat = Float[Tensor, " params"]

NEVER = 2**62
"""A step that is not reached."""


class LastGradient:
    """ĝ of one step as a vector, kept until the next one is taken: one copy of the parameters.

    Products may put P ĝ in its place.

    Args:
        parameters: The trainable parameters.
        optimizers: Theirs.
        scaler: The GradScaler, if there is one.
    """

    def __init__(
        self, parameters: Sequence[Tensor], optimizers: Sequence[Optimizer], scaler: Any
    ) -> None:
        self.parameters = list(parameters)
        self._optimizers = optimizers
        self._scaler = scaler
        self.vector: Flat | None = None
        """ĝ, or P ĝ, of `step`."""
        self.step = NEVER
        self.is_plain = True
        """True if the vector is ĝ itself."""
        self.product: Tensor | None = None
        """Of the vector before with ĝ of this step; None if that was of no step right before."""
        self.product_is_plain = True
        self.plain_at = NEVER
        """The step whose product has to be that of ĝ with ĝ."""

    def take(self, step: int) -> Flat:
        """ĝ of this step, in the place of what was kept; the vector itself if it was taken
        already."""
        if self.vector is not None and step == self.step:
            return self.vector
        gradient = self.read()
        self.product = None
        if self.vector is not None and step == self.step + 1:
            self.product = self.vector @ gradient
        self.product_is_plain = self.is_plain
        self.vector = gradient
        self.step = step
        self.is_plain = True
        return gradient

    def read(self, into: Flat | None = None) -> Flat:
        """ĝ as one vector, without the factor of a GradScaler. A parameter without a gradient
        counts as zero."""
        gradient = flat(gradients_of(self.parameters), into)
        if self._scaler is not None:
            gradient /= self.scale()
        return gradient

    def free(self) -> None:
        """Keep nothing."""
        self.vector = None
        self.product = None

    def scale(self) -> Tensor:
        """The factor that is in `.grad`: that of the GradScaler, until it is taken out by
        `unscale_`; 1 without one."""
        one = torch.ones((), device=self.parameters[0].device)
        if self._scaler is None:
            return one
        states = getattr(self._scaler, "_per_optimizer_states", {})
        stages = [
            states[id(optimizer)]["stage"].name
            for optimizer in self._optimizers
            if id(optimizer) in states
        ]
        if "UNSCALED" in stages:
            return one
        scaled: Tensor = self._scaler.scale(one)
        return scaled


def gradients_of(parameters: Sequence[Tensor]) -> list[Tensor]:
    """`.grad` of every parameter, zeros where there is none."""
    return [torch.zeros_like(one) if one.grad is None else one.grad.detach() for one in parameters]


def flat(tensors: Sequence[Tensor], into: Flat | None = None) -> Flat:
    """One vector of all of them, at least in single precision and on the device of the first: a new
    one, or written into this one."""
    device = tensors[0].device if into is None else into.device
    parts = [tensor.detach().reshape(-1).to(device) for tensor in tensors]
    if into is not None:
        return torch.cat(parts, out=into)
    joined = torch.cat(parts)
    return joined.float() if joined.dtype in (torch.float16, torch.bfloat16) else joined
