"""The spread of micro-batches: squared norms that are as accurate as the gradients."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gradiometer.measurement.parts import (
    LONG,
    MANY,
    ON_CPU,
    RUN,
    SpreadBuilder,
    inner_products,
    preconditioned_norms,
    squared_norms,
)


def exact(gradient: torch.Tensor) -> float:
    return gradient.double().square().sum().item()


def spread_of(*gradients: torch.Tensor):
    builder = SpreadBuilder([0] * len(gradients))
    builder.add(2, gradients)
    builder.add(1, [2 * gradient for gradient in gradients])
    return builder.finish(gradients)


@pytest.mark.parametrize("size", [LONG, 2 * LONG + 1, 3 * LONG + RUN - 1])
@pytest.mark.parametrize("power", [1, 5])
def test_the_norm_of_a_long_gradient_is_accurate_to_single_precision(size: int, power: int) -> None:
    # 5: few numbers rule the sum
    gradient = torch.randn(size, generator=torch.Generator().manual_seed(0)) ** power
    spread = spread_of(gradient)
    expected = exact(gradient)
    tolerance = 2 * torch.finfo(torch.float32).eps
    np.testing.assert_allclose(spread.squared_norms[:, 0], [expected, 4 * expected], rtol=tolerance)
    np.testing.assert_allclose(spread.mean_squared_norm, [expected], rtol=tolerance)


@pytest.mark.parametrize("kind", ["transposed", "double", "half"])
def test_a_long_gradient_of_any_layout_and_precision_is_summed_in_double(kind: str) -> None:
    plain = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    gradient = {"transposed": plain.t(), "double": plain.double(), "half": plain.bfloat16()}[kind]
    np.testing.assert_allclose(spread_of(gradient).mean_squared_norm, [exact(gradient)], rtol=1e-12)


def test_the_spread_keeps_the_norms_of_parts_and_examples_by_layer() -> None:
    builder = SpreadBuilder([0, 1, 0])
    builder.add(2, [torch.ones(3), torch.full((2,), 2.0), torch.ones(1)])
    builder.add_each([torch.ones(2, 3), torch.zeros(2, 2), torch.ones(2, 1)])
    spread = builder.finish([torch.zeros(3), torch.ones(2), torch.zeros(1)])
    assert spread.sizes.tolist() == [2, 1, 1]
    # roots are squared again
    np.testing.assert_allclose(spread.squared_norms, [[4, 8], [4, 0], [4, 0]], rtol=1e-12)
    np.testing.assert_allclose(spread.mean_squared_norm, [0, 2], rtol=1e-12)


@pytest.mark.parametrize("wrong", [torch.inf, torch.nan])
def test_a_number_that_is_not_finite_stays_in_its_layer(wrong: float) -> None:
    spoilt = torch.ones(LONG)
    spoilt[5] = wrong
    builder = SpreadBuilder([0, 1])
    builder.add(1, [spoilt, torch.ones(2)])
    norms = builder.finish([torch.ones(LONG), torch.ones(2)]).squared_norms
    assert not np.isfinite(norms[0, 0]) and np.isclose(norms[0, 1], 2)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
def test_many_short_gradients_are_summed_like_references_in_double(kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (0,), (), (LONG,), (5,)] * MANY
    first, second = (
        [torch.randn(shape, generator=generator).to(kind) for shape in shapes] for _ in range(2)
    )
    positive = [each.abs() for each in second]
    pairs = list(zip(first, second, strict=True))
    np.testing.assert_allclose(
        squared_norms(first)[0], [exact(each) for each in first], rtol=1e-6, atol=1e-12
    )
    products = [(a.double() * b.double()).sum().item() for a, b in pairs]
    # of 2e4 in size
    np.testing.assert_allclose(inner_products(first, second), products, rtol=1e-6, atol=1e-3)
    weighted = [(b.double().abs() * a.double().square()).sum().item() for a, b in pairs]
    rounding = 1e-2 if kind is torch.bfloat16 else 1e-6
    np.testing.assert_allclose(
        preconditioned_norms(first, positive)[0], weighted, rtol=rounding, atol=1e-12
    )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("weight", [-1.0, -0.25, 0.5])
def test_a_part_that_is_had_by_subtraction_has_the_norms_of_references_in_double(
    threads: int, weight: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(ON_CPU + 7,), (300, 300), *[(3, 4), (), (5,)] * MANY, (LONG,)]
    start, end = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2))
    end[1] = start[1] + 1e-3 * end[1]  # a part that is much like the whole
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        builder = SpreadBuilder([0] * len(shapes))
        builder.add_between(2, start, end, weight)
    finally:
        torch.set_num_threads(before)
    expected = [exact(a.double().lerp(b.double(), weight)) for a, b in zip(start, end, strict=True)]
    np.testing.assert_allclose(builder.squared[0][0], expected, rtol=1e-6)


class Operations(TorchDispatchMode):
    """Counts operations, each of which starts one kernel or a few."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        self.count += 1
        return operation(*arguments, **(named or {}))


def test_an_accelerator_changes_a_million_numbers_in_a_few_operations() -> None:
    start, end, under = ([torch.empty(2**15, device="meta") for _ in range(32)] for _ in range(3))
    with Operations() as operations:
        SpreadBuilder([0] * 32, preconditioner=under).add_between(2, start, end, 0.5)
    assert operations.count < 20


def test_a_thousand_short_gradients_are_read_in_a_few_operations_each_way() -> None:
    start, end = ([torch.ones(8, 8) for _ in range(1000)] for _ in range(2))
    builder = SpreadBuilder([0] * 1000)
    builder.add(1, start)  # finds what torch prepares once
    with Operations() as read:
        builder.add(1, end)
    with Operations() as between:
        builder.add_between(1, start, end, -1.0)
    # One view of every tensor, and a few operations on all of them at once.
    assert read.count < 1020 and between.count < 2020
