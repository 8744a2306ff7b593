"""The probe: its bracket moves with the scale as theory says, its guards hold, and training stays as it was."""

import math

import pytest
import torch
from torch import Tensor, nn

from gradiometer import supervised
from gradiometer.errors import BadArgument, Unsupported, UserCodeFailed
from gradiometer.tuning.probe import Probe, bracket

SQUARED = supervised(nn.MSELoss(reduction="none"))


def regression(scale: float = 1.0, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A linear model at zero, and examples whose inputs are multiplied by the scale."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(128, 5, generator=generator, dtype=torch.float64)
    targets = inputs.sum(1) + 0.3 * torch.randn(128, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(5, 1, bias=False, dtype=torch.float64), nn.Flatten(0))
    nn.init.zeros_(model[0].weight)
    return model, (scale * inputs, targets)


def heavy_ball(model: nn.Module, momentum: float = 0.9) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=1.0, momentum=momentum)


def found(scale: float = 1.0, by: float = 1.0):
    model, data = regression(scale)
    return bracket(
        model, heavy_ball(model), loss=lambda m, batch: by * SQUARED(m, batch), batches=data, batch_size=16, updates=20
    )


@pytest.mark.parametrize("scale", [0.1, 16.0, 1000.0])
def test_inputs_times_c_divide_the_bracket_of_a_linear_model_by_c_squared(scale: float) -> None:
    plain, scaled = found(), found(scale)
    for one, other in zip((plain.low, plain.rate, plain.high), (scaled.low, scaled.rate, scaled.high), strict=True):
        assert other == pytest.approx(one / scale**2, rel=1e-9)


@pytest.mark.parametrize("by", [1e-4, 7.0])
def test_a_loss_times_c_divides_the_bracket_by_c(by: float) -> None:
    assert found(by=by).rate == pytest.approx(found().rate / by, rel=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_on_one_curvature_the_probe_settles_where_its_update_keeps_half_of_the_slope(momentum: float) -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Flatten(0))
    probe = Probe(model, heavy_ball(model, momentum), SQUARED)
    for _ in range(50):
        nn.init.ones_(model[0].weight)
        probe.update((torch.full((4, 1), 3.0), torch.zeros(4)))
    curvature = 2 * 9  # of the squared error at inputs of 3: ρ = aκ/2 = ½
    assert probe.bracket.rate == pytest.approx((1 - momentum) / curvature, rel=0.02)


@pytest.mark.parametrize("spoiled", [1e6, math.nan, math.inf])
def test_a_loss_that_explodes_sends_the_probe_back_to_its_start_at_half_the_rate(spoiled: float) -> None:
    model, (inputs, targets) = regression()
    start = [parameter.clone() for parameter in model.parameters()]
    probe = Probe(model, heavy_ball(model), SQUARED)
    for _ in range(5):
        rate = probe.update((inputs, targets)).rate
    assert not torch.equal(next(model.parameters()), start[0])
    with torch.no_grad():
        next(model.parameters()).add_(spoiled)
    back = probe.update((inputs, targets))
    assert back.went_back and back.rate >= rate
    assert all(map(torch.equal, model.parameters(), start)) and not probe.optimizer.state
    after = probe.update((inputs, targets))
    assert after.rate == back.rate / 2
    for _ in range(10):
        assert probe.update((inputs, targets)).rate <= back.rate / 2
    assert probe.bracket.returns == 1


def test_batches_of_very_different_losses_are_no_collapse() -> None:
    model, data = regression()
    probe = Probe(model, heavy_ball(model), lambda m, batch: SQUARED(m, batch[:2]) + batch[2])
    for update in range(20):
        probe.update((*data, torch.full((128,), (0.0, 100.0, 9.0)[update % 3])))
    assert probe.bracket.returns == 0


def test_where_the_curvature_is_lost_in_rounding_the_rate_keeps_its_value() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Flatten(0))
    nn.init.constant_(model[0].weight, 1e-25)
    probe = Probe(model, heavy_ball(model), SQUARED)
    rates = [probe.update((torch.ones(4, 1), torch.zeros(4))).rate for _ in range(5)]
    assert len(set(rates)) == 1


def test_on_a_slope_without_curvature_the_rate_stops_growing() -> None:
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    probe = Probe(model, heavy_ball(model, 0.0), lambda m, batch: -m(batch)[:, 0] - 1)
    rates = [probe.update(torch.full((4, 1), 1e-9, dtype=torch.float64)).rate for _ in range(80)]
    assert rates[60] > rates[0] and rates[61:] == rates[60:-1]


def test_the_bracket_leaves_the_model_the_optimizer_and_random_states_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1), nn.Flatten(0))
    _, (inputs, targets) = regression()
    optimizer = heavy_ball(model)
    before, random = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    data = (inputs.float(), targets.float())
    one, two = (
        bracket(model, optimizer, loss=SQUARED, batches=data, batch_size=16, updates=6, seed=3) for _ in range(2)
    )
    assert one == two
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert optimizer.param_groups[0]["lr"] == 1.0 and not optimizer.state
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_a_probe_cannot_use_is_refused() -> None:
    model, data = regression()
    with pytest.raises(Unsupported, match="`optimizer` is Adam, and the probe is for SGD"):
        Probe(model, torch.optim.Adam(model.parameters()), SQUARED)
    with pytest.raises(BadArgument, match="at least one update"):
        _ = Probe(model, heavy_ball(model), SQUARED).bracket
    with pytest.raises(UserCodeFailed, match="`loss` is nan before the first update"):
        Probe(model, heavy_ball(model), SQUARED).update((data[0], data[1] * math.nan))
    with pytest.raises(BadArgument, match="`updates` is 9, and `batches` ended before"):
        bracket(model, heavy_ball(model), loss=SQUARED, batches=lambda seed: [data] * 8, updates=9)
