"""Products with the Hessian of a network of convolutions: the same numbers, by the kernels of the
first derivative."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from gradiometer import Objective
from gradiometer.drift import Curvature
from gradiometer.measurement.gradient_graph import Convolutions

CASES: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "groups, stride, dilation": (
        functional.conv2d,
        (3, 4, 9, 8),
        (6, 2, 3, 2),
        {"stride": 2, "padding": 1, "dilation": (2, 1), "groups": 2},
    ),
    "of sequences": (functional.conv1d, (3, 4, 9), (5, 4, 3), {"padding": 1}),
    "of volumes": (functional.conv3d, (2, 2, 4, 4, 4), (3, 2, 2, 2, 2), {}),
    "padding in words": (functional.conv2d, (3, 4, 5, 5), (4, 4, 3, 3), {"padding": "same"}),
}


def derivatives(
    function: Any, tensors: list[Tensor], settings: dict[str, Any], context: Any
) -> list[Tensor]:
    vectors = [torch.arange(each.numel(), dtype=each.dtype).view_as(each).sin() for each in tensors]
    with context:
        value = function(*tensors, **settings).tanh().square().sum()
    first = torch.autograd.grad(value, tensors, create_graph=True)
    second = torch.autograd.grad(first, tensors, vectors, retain_graph=True)
    batched = torch.autograd.grad(
        first, tensors, [torch.stack([v, 2 * v]) for v in vectors], is_grads_batched=True
    )
    return [value, *first, *second, *batched]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_a_convolution_has_the_derivatives_of_torch(name: str, bias: bool) -> None:
    torch.manual_seed(0)
    function, entered, weight, settings = CASES[name]
    tensors = [
        torch.randn(size).double().requires_grad_()
        for size in (entered, weight, *[weight[:1]] * bias)
    ]
    expected = derivatives(function, tensors, settings, nullcontext())
    found = derivatives(function, tensors, settings, Convolutions())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


class Kernels(TorchDispatchMode):
    """Counts forward convolutions by the area of their kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.areas: list[int] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        if operation is torch.ops.aten.convolution.default:
            self.areas.append(arguments[1][0, 0].numel())
        return operation(*arguments, **(named or {}))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 3)
    )


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def test_a_product_uses_no_kernel_as_large_as_the_image() -> None:
    torch.manual_seed(0)
    batch = torch.randn(4, 1, 10, 10), torch.tensor([0, 1, 2, 0])
    curvature = Curvature(Objective(network(), loss), [batch])
    with Kernels() as kernels:
        curvature.products(torch.randn(1, curvature.dimension))
    assert kernels.areas and max(kernels.areas) == 9


@pytest.mark.parametrize("context", ["autocast", "vmap"])
def test_where_torch_does_more_its_own_convolution_is_used(context: str) -> None:
    torch.manual_seed(0)
    model, batch = network(), (torch.randn(4, 1, 10, 10), torch.tensor([0, 1, 2, 0]))

    def mapped(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        output = torch.vmap(lambda image: model[:3](image[None])[0])(batch[0])
        return functional.cross_entropy(model[3:](output), batch[1], reduction="none")

    vector = torch.randn(1, Objective(model, loss).dimension)
    expected = Curvature(Objective(model, loss), [batch]).products(vector)
    with torch.autocast("cpu") if context == "autocast" else nullcontext():
        found = Curvature(
            Objective(model, loss if context == "autocast" else mapped), [batch]
        ).products(vector)
    tolerance = 0.1 if context == "autocast" else 1e-4  # 8 bits of bfloat16, and single precision
    assert (found - expected).norm() <= tolerance * expected.norm()
