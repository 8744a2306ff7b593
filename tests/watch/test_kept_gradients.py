"""The gradient that is kept from one step to the next: read once, and rounded where P lies beside
it."""

import math

import pytest
import torch
from torch import Tensor, nn

from gradiometer.integrations import gradients
from gradiometer.integrations.gradients import LastGradient, stretches
from gradiometer.measurement.preconditioner import preconditioner_of


def _model(*, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """Large and small tensors: 84,009 entries in all."""
    shapes = [(300, 200), (200,), (3,), (17, 400), (), (5, 1), (170, 100)]
    return [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]


def _give(parameters: list[nn.Parameter], seed: int, signal: float = 1.0) -> Tensor:
    """Gradients with a common part and noise of Student's distribution; returns them in double."""
    generator = torch.Generator().manual_seed(seed)
    for place, one in enumerate(parameters):
        common = torch.randn(one.shape, generator=torch.Generator().manual_seed(place))
        scale = torch.randn(one.shape, generator=generator).square() + 0.01
        noise = torch.randn(one.shape, generator=generator) / scale
        one.grad = (1e-4 * (signal * common + noise)).to(one.dtype)
    return torch.cat([one.grad.reshape(-1).double() for one in parameters])


@pytest.mark.parametrize("longest", [1000, 2**30])
@pytest.mark.parametrize("whole", [False, True])
def test_stretches_are_all_entries_in_their_order(
    longest: int, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "STRETCH_ON_CPU", longest)
    parameters = _model()
    _give(parameters, 1)
    pieces = list(stretches(parameters, whole=whole))
    flat = torch.cat([one.reshape(-1) for one in parameters])
    assert torch.equal(torch.cat(pieces), flat)
    longest_piece = max(one.numel() for one in parameters) if whole else longest
    assert all(piece.numel() <= max(longest_piece, longest) for piece in pieces)
    assert len(pieces) < (len(parameters) if whole else 100)


@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_products_are_those_by_hand(dtype: torch.dtype, with_weights: bool) -> None:
    parameters = _model(dtype=dtype)
    last = LastGradient(parameters, [], None)
    last.is_beside_weights = with_weights
    weights = None
    if with_weights:
        weights = last.empty().fill_(0.5)
    _give(parameters, 1)
    first = last.take(4)
    assert first.product is None and first.memory is None
    before = _give(parameters, 2)
    last.take(5)
    memory = [one.grad.clone() for one in parameters]
    now = _give(parameters, 3)
    found = last.take(6, weights, memory)
    factor = 0.5 if with_weights else 1.0
    assert float(found.squared) == pytest.approx(factor * float(now @ now), rel=1e-5)
    # relative to the factors: the product itself is nearly zero
    size = factor * math.sqrt(float((before @ before) * (now @ now)))
    assert found.product is not None and found.memory is not None
    assert float(found.product) == pytest.approx(factor * float(before @ now), abs=1e-4 * size)
    assert float(found.memory) == pytest.approx(factor * float(before @ now), abs=1e-4 * size)
    assert last.take(6) is found  # of the same step
    assert last.take(8).product is None  # a step lies between


def test_rounding_adds_less_than_a_hundredth_of_the_noise_of_a_product() -> None:
    parameters = _model()
    last = LastGradient(parameters, [], None)
    last.is_beside_weights = True
    assert last.empty().dtype is torch.bfloat16
    exact, found = [], []
    before = None
    for step in range(200):
        now = _give(parameters, step)
        product = last.take(step).product
        if before is not None and product is not None:
            exact.append(float(before @ now))
            found.append(float(product))
        before = now
    errors = torch.tensor(found, dtype=torch.double) - torch.tensor(exact, dtype=torch.double)
    noise = float(torch.tensor(exact, dtype=torch.double).std())
    assert float(errors.square().mean().sqrt()) < 0.01 * noise
    assert abs(float(errors.mean())) < 3 * float(errors.std()) / math.sqrt(len(errors))


def test_what_is_kept_beside_p_is_one_copy_together() -> None:
    parameters = _model()
    last = LastGradient(parameters, [], None)
    assert last.empty().dtype is torch.float32
    last.is_beside_weights = True
    assert 2 * last.empty().nbytes == sum(one.nbytes for one in parameters)
    small = LastGradient(parameters[1:3], [], None)
    small.is_beside_weights = True
    assert small.empty().dtype is torch.float32


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.NAdam, torch.optim.Adamax])
def test_p_is_known_to_one_per_cent_where_it_is_kept_rounded(
    kind: type[torch.optim.Optimizer],
) -> None:
    parameters = _model()
    optimizer = kind(parameters, lr=1e-3)  # type: ignore[call-arg]
    for step in range(30):
        _give(parameters, step)
        optimizer.step()
    exact = preconditioner_of(optimizer, parameters)
    rounded = preconditioner_of(
        optimizer, parameters, into=[torch.empty_like(one).bfloat16() for one in parameters]
    )
    assert exact is not None and rounded is not None
    ratios = torch.cat(
        [(a.double() / b.double()).reshape(-1) for a, b in zip(exact, rounded, strict=True)]
    )
    assert float((ratios - 1).abs().max()) < 0.015
    assert abs(float(ratios.mean()) - 1) < 0.005


def _large(monkeypatch: pytest.MonkeyPatch) -> tuple[list[nn.Parameter], LastGradient]:
    """A model of which a kept gradient has every 7th entry of the large tensors."""
    monkeypatch.setattr(gradients, "ENTRIES", 2**14)
    monkeypatch.setattr(gradients, "SMALL_TENSOR", 2**10)
    parameters = _model()
    last = LastGradient(parameters, [], None)
    assert last._apart == 7  # from 84,009 // 16,384 = 5, which divides rows of 200
    return parameters, last


@pytest.mark.parametrize("with_weights", [False, True])
def test_products_of_entries_are_unbiased(
    with_weights: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters, last = _large(monkeypatch)
    weights = torch.rand(84_009, generator=torch.Generator().manual_seed(5))
    found, memories, squares = [], [], []
    before = now = torch.empty(0)
    for offset in range(7):
        monkeypatch.setattr(last, "_offset", lambda step, o=offset: (o + step) % 7)
        before = _give(parameters, 1)
        last.take(7 * offset + 70)
        now = _give(parameters, 2)
        memory = [one.grad.clone() for one in parameters if one.grad is not None]
        at_entries = last.empty()
        places, chosen = last.places(at_entries, 7 * offset + 70)
        assert chosen is not None
        whole = weights.split([one.numel() for one in parameters])
        for place, one, some in zip(places, whole, chosen, strict=True):
            place.copy_(one[some])
        products = last.take(7 * offset + 71, at_entries if with_weights else None, memory)
        assert products.product is not None and products.memory is not None
        found.append(float(products.product))
        memories.append(float(products.memory))
        squares.append(float(products.squared))
    under = now * weights.double() if with_weights else now
    size = math.sqrt(float((before @ before) * (under @ under)))
    assert sum(found) / 7 == pytest.approx(float(under @ before), abs=1e-5 * size)
    assert sum(memories) / 7 == pytest.approx(float(under @ now), rel=1e-5)
    assert sum(squares) / 7 == pytest.approx(float(under @ now), rel=1e-5)
    if not with_weights:  # clipping is seen by equal norms
        assert squares == pytest.approx([float(now @ now)] * 7, rel=1e-6)


def test_each_gradient_is_kept_at_entries_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, last = _large(monkeypatch)
    offsets = [last._offset(step) for step in range(100)]
    assert set(offsets) == set(range(7))
    _give(parameters, 1)
    last.take(3)
    assert last._vector is not None and len(last._vector) < 84_009 / 6


@pytest.mark.parametrize(
    "kind", [torch.optim.AdamW, torch.optim.Adamax, torch.optim.RMSprop, torch.optim.Adagrad]
)
def test_p_at_some_entries_is_that_of_all_of_them(
    kind: type[torch.optim.Optimizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters, last = _large(monkeypatch)
    optimizer = kind(parameters, lr=1e-3)  # type: ignore[call-arg]
    for step in range(5):
        _give(parameters, step)
        optimizer.step()
    places, chosen = last.places(last.empty(), 5)
    assert chosen is not None
    exact = preconditioner_of(optimizer, parameters)
    assert preconditioner_of(optimizer, parameters, into=places, entries=chosen) is not None
    assert exact is not None
    for whole, part, some in zip(exact, places, chosen, strict=True):
        # The clip is a median over a sample: of others, it differs by a few per cent.
        assert torch.allclose(whole.reshape(-1)[some], part, rtol=0.1)
    below = [
        (one.reshape(-1)[some], part) for one, part, some in zip(exact, places, chosen, strict=True)
    ]
    ratios = torch.cat([part / one for one, part in below])
    assert float((ratios - 1).abs().median()) < 1e-6
