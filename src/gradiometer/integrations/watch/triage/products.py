"""⟨ĝ_t, ĝ_{t−1}⟩: the inner product of the gradients of two successive updates, from one copy of
the first."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Products:
    """One copy of the parameters' size. It holds ĝ_{t−1} until the product is taken, then Φ until
    the update is made.

    Args:
        parameters: The trainable parameters.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = parameters
        self._copy: list[Tensor] = []
        self._holds_gradient = False

    def keep(self) -> None:
        """Copy ĝ of this step. A parameter without a gradient counts as zero."""
        self._fill(gradients_of(self._parameters))
        self._holds_gradient = True

    def product(self) -> Tensor | None:
        """⟨ĝ, the kept one⟩ of every parameter, in single precision; None if none is kept. It uses
        the copy up."""
        if not self._holds_gradient:
            return None
        self._holds_gradient = False
        torch._foreach_mul_(self._copy, gradients_of(self._parameters))
        return together([one.sum(dtype=torch.float32) for one in self._copy])

    def keep_parameters(self) -> None:
        """Copy Φ, in place of the gradient."""
        self._holds_gradient = False
        self._fill([parameter.detach() for parameter in self._parameters])

    def movement(self) -> Tensor:
        """‖Φ − the kept Φ‖ of every parameter. It uses the copy up."""
        torch._foreach_sub_(self._copy, [parameter.detach() for parameter in self._parameters])
        return together(torch._foreach_norm(self._copy))

    def free(self) -> None:
        """Free the copy."""
        self._copy = []
        self._holds_gradient = False

    def _fill(self, tensors: list[Tensor]) -> None:
        if not self._copy:
            self._copy = [torch.empty_like(parameter) for parameter in self._parameters]
        torch._foreach_copy_(self._copy, tensors)


def gradients_of(parameters: Sequence[Tensor]) -> list[Tensor]:
    """`.grad` of every parameter, zeros where there is none."""
    return [torch.zeros_like(one) if one.grad is None else one.grad.detach() for one in parameters]


def together(numbers: Sequence[Tensor]) -> Tensor:
    """Single numbers as one tensor in single precision, on the device of the first."""
    device = numbers[0].device
    return torch.stack([number.to(device) for number in numbers]).float()
