"""Convolutions whose second derivative uses the kernels of the first.

For the weight's part of a second derivative, torch runs a convolution with a kernel as large as the
image. On a CPU this takes as long as the other five convolutions of a product with the Hessian
together.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

CONVOLUTIONS = {functional.conv1d: 1, functional.conv2d: 2, functional.conv3d: 3}
"""The functions that are replaced, and their numbers of dimensions."""


class Convolutions(TorchFunctionMode):
    """A context in which convolutions have this second derivative. Their values and first
    derivatives stay the same."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        """Replace a convolution of plain tensors of one type."""
        named = named or {}
        if function in CONVOLUTIONS:
            settings = _settings(CONVOLUTIONS[function], *arguments, **named)
            if settings is not None:
                return _Convolution.apply(*settings)  # type: ignore[no-untyped-call]
        return function(*arguments, **named)


def _settings(
    dimensions: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Any, ...] | None:
    """The arguments with one number per dimension; None where torch does more than a convolution of
    these tensors."""
    are_plain = all(type(each) in (Tensor, nn.Parameter) for each in (input, weight))
    if (
        isinstance(padding, str)
        or not are_plain
        or not input.dim() == weight.dim() == dimensions + 2
    ):
        return None
    if input.dtype != weight.dtype or not input.is_floating_point():
        return None
    if torch.is_autocast_enabled(input.device.type) or torch._C._are_functorch_transforms_active():
        return None
    return (
        input,
        weight,
        bias,
        *(_each(value, dimensions) for value in (stride, padding, dilation)),
        groups,
    )


def _each(value: Any, dimensions: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dimensions if len(values) == 1 else values


class _Convolution(torch.autograd.Function):
    """y = x ∗ w + b."""

    @staticmethod
    def forward(
        context: Any, input: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any
    ) -> Tensor:
        context.save_for_backward(input, weight)
        context.settings = settings
        return _convolution(input, weight, bias, settings)

    @staticmethod
    def backward(context: Any, error: Tensor) -> Any:
        wanted = context.needs_input_grad[:3]
        given = error, *context.saved_tensors, wanted, *context.settings
        found = _Backward.apply(*given)  # type: ignore[no-untyped-call]
        return *(one if need else None for one, need in zip(found, wanted, strict=True)), *[
            None
        ] * len(context.settings)


class _Backward(torch.autograd.Function):
    """The derivatives by x, w and b, as a function of the derivative δ by y, of x and of w."""

    @staticmethod
    def forward(
        context: Any, error: Tensor, input: Tensor, weight: Tensor, wanted: Any, *settings: Any
    ) -> Any:
        context.save_for_backward(error, input, weight)
        context.set_materialize_grads(False)
        context.settings = settings
        return _derivatives(error, input, weight, settings, wanted)

    @staticmethod
    def backward(
        context: Any, by_input: Tensor | None, by_weight: Tensor | None, by_bias: Tensor | None
    ) -> Any:
        """The three are the directions in which the derivatives by x, w and b are followed."""
        error, input, weight = context.saved_tensors
        settings, needs = context.settings, context.needs_input_grad
        of_error = of_input = of_weight = None
        if by_input is not None:
            of_error = _convolution(by_input, weight, None, settings) if needs[0] else None
            if needs[2]:
                of_weight = _derivatives(error, by_input, weight, settings, (False, True, False))[1]
        if by_weight is not None:
            if needs[0]:
                of_error = _sum(of_error, _convolution(input, by_weight, None, settings))
            if needs[1]:
                of_input = _derivatives(error, input, by_weight, settings, (True, False, False))[0]
        if by_bias is not None and needs[0]:
            of_error = _sum(of_error, by_bias.view(-1, *[1] * (error.dim() - 2)).expand_as(error))
        return of_error, of_input, of_weight, *[None] * (1 + len(settings))


def _convolution(input: Tensor, weight: Tensor, bias: Tensor | None, settings: Any) -> Tensor:
    stride, padding, dilation, groups = settings
    return torch.convolution(
        input, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups
    )


def _derivatives(error: Tensor, input: Tensor, weight: Tensor, settings: Any, wanted: Any) -> Any:
    """The derivatives by input, weight and bias; None for those that are not wanted."""
    stride, padding, dilation, groups = settings
    return torch.ops.aten.convolution_backward(
        error,
        input,
        weight,
        [len(weight)],
        stride,
        padding,
        dilation,
        False,
        [0] * len(stride),
        groups,
        list(wanted),
    )


def _sum(first: Tensor | None, second: Tensor) -> Tensor:
    return second if first is None else first + second
