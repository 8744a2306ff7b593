"""The start of a tuning: the rate at which an update overshoots moves with the scales as theory
says."""

import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from gradiometer import supervised
from gradiometer.errors import BadArgument, UserCodeFailed
from gradiometer.loop import Loop
from gradiometer.measurement.objective import Loss
from gradiometer.tuning.optimizers import Made, MakeOptimizer
from gradiometer.tuning.start import overshooting_rate, start_of

SQUARED = supervised(nn.MSELoss(reduction="none"))
SGD, ADAMW = Made("sgd", 0.9, False, 0.0), Made("adamw", 0.0, False, 0.0)
PLAIN = Made("sgd", 0.0, False, 0.0)


def regression(scale: float = 1.0) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(128, 5, generator=generator, dtype=torch.float64)
    targets = inputs.sum(1) + 0.3 * torch.randn(128, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(5, 1, bias=False, dtype=torch.float64), nn.Flatten(0))
    nn.init.zeros_(model[0].weight)
    return model, (scale * inputs, targets)


def found(
    made: Made, scale: float = 1.0, by: float = 1.0, offset: float = 0.0
) -> tuple[float, float]:
    """The rate that overshoots, and the norm of the gradient."""
    model, data = regression(scale)
    loop = Loop(
        model,
        made(model.parameters(), 1.0),
        loss=lambda m, batch: by * SQUARED(m, batch) + offset,
        batches=data,
        batch_size=16,
    )
    start = start_of(loop, seed=0)
    rate, gradients = overshooting_rate(loop, start)
    assert 1 < gradients < 20
    return rate, start.norm


@pytest.mark.parametrize("made", [SGD, ADAMW])
@pytest.mark.parametrize("offset", [-20.0, 20.0, 1e5])
def test_a_constant_in_the_loss_changes_nothing(made: Made, offset: float) -> None:
    assert found(made, offset=offset) == pytest.approx(found(made), rel=1e-12)


@pytest.mark.parametrize("by", [2.0**-3, 2.0**3, 2.0**-30])
def test_a_loss_times_c_divides_the_rate_of_sgd_by_c_and_leaves_that_of_adam(by: float) -> None:
    (rate, norm), (plain, plain_norm) = found(SGD, by=by), found(SGD)
    assert (rate, norm) == pytest.approx((plain / by, plain_norm * by), rel=1e-9)
    adam = [
        Made(
            lambda parameters, rate: torch.optim.Adam(parameters, lr=rate, eps=0.0), 0.0, False, 0.0
        )
    ] * 2
    assert found(adam[0], by=by)[0] == pytest.approx(found(adam[1])[0], rel=1e-9)


@pytest.mark.parametrize("scale", [0.1, 16.0])
def test_inputs_times_c_divide_the_rate_of_a_linear_model_by_c_squared(scale: float) -> None:
    assert found(SGD, scale)[0] == pytest.approx(found(SGD)[0] / scale**2, rel=0.5)


def test_on_a_parabola_the_rate_is_that_of_its_minimum() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Flatten(0))
    data = torch.full((64, 1), 3.0), torch.zeros(64)
    loop = Loop(model, PLAIN(model.parameters(), 1.0), loss=SQUARED, batches=data, batch_size=16)
    rate, _ = overshooting_rate(loop, start_of(loop, seed=0))
    assert 1 / math.sqrt(2) < rate * (2 * 9) < math.sqrt(2)


@pytest.mark.parametrize("nesterov", [False, True])
def test_an_update_is_as_long_as_momentum_makes_it(nesterov: bool) -> None:
    """Nearly ten times as long as that of plain SGD, after a few of the same gradient. That of
    AdamW stays as it is."""
    longer = found(PLAIN)[0] / found(Made("sgd", 0.9, nesterov, 0.0))[0]
    assert 7 < longer < 10
    slow = Made(
        lambda parameters, rate: torch.optim.Adam(parameters, lr=rate, betas=(0.0, 0.999)),
        0.0,
        False,
        0.0,
    )
    assert found(ADAMW)[0] == pytest.approx(found(slow)[0], rel=1e-6)


def test_the_training_is_not_touched() -> None:
    model = nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1), nn.Flatten(0)
    )
    inputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    loop = Loop(
        model,
        ADAMW(model.parameters(), 1.0),
        loss=SQUARED,
        batches=(inputs, inputs.sum(1)),
        batch_size=8,
    )
    overshooting_rate(loop, start_of(loop, seed=0))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("factor", "sentence"),
    [(0.0, "gradient of norm 0.0"), (math.nan, "`loss` is nan before the first update")],
)
def test_a_start_that_has_no_rate_is_refused(factor: float, sentence: str) -> None:
    with pytest.raises(UserCodeFailed, match=sentence):
        found(SGD, by=factor)


def no_gradient(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return batch[0].sum(1).requires_grad_()


def finite_at_the_start_alone(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    is_start = not bool(next(model.parameters()).detach().any())
    return SQUARED(model, batch) * (1.0 if is_start else math.nan)


@pytest.mark.parametrize("made", [SGD, ADAMW])
@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (no_gradient, "`loss` has no gradient in any parameter of the model"),
        (finite_at_the_start_alone, "`loss` falls at no rate along the first update"),
    ],
)
def test_a_loss_along_which_no_rate_lowers_it_is_refused(
    made: Made, loss: Loss, sentence: str
) -> None:
    model, data = regression()
    optimizer = made(model.parameters(), 1.0)
    loop = Loop(model, optimizer, loss=loss, batches=data, batch_size=16)
    with pytest.raises(UserCodeFailed, match=sentence):
        overshooting_rate(loop, start_of(loop, seed=0))


def upwards(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=rate, maximize=True)


def endless(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=rate * math.inf)


@pytest.mark.parametrize(
    ("optimizer", "sentence"),
    [
        (upwards, "`optimizer` does not go down the gradient in its first update"),
        (endless, "`optimizer` SGD makes a first update that is not finite, in parameters of"),
    ],
)
def test_an_optimizer_that_goes_up_or_without_an_end_is_refused(
    optimizer: MakeOptimizer, sentence: str
) -> None:
    with pytest.raises(UserCodeFailed, match=sentence):
        found(Made(optimizer, 0.0, False, 0.0))


def test_data_that_end_too_early_are_refused() -> None:
    model, data = regression()
    loop = Loop(
        model, SGD(model.parameters(), 1.0), loss=SQUARED, batches=lambda seed: iter([data])
    )
    with pytest.raises(BadArgument, match="`batches` ended before 2 batches"):
        start_of(loop, seed=0)
