"""Samplers keep their temperature: exact laws on quadratics, the heat balance on other losses,
errors, resuming."""

import copy
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gradiometer import BadArgument, Diverged
from gradiometer.exploration.samplers import SGHMC, SGLD, SGNHT
from gradiometer_lab.samplers.heat import Heat
from gradiometer_lab.samplers.sampler import Sampler

N = 1000
TEMPERATURE = 2.0
CURVATURES = (1.0, 0.3)
RATE = 0.5
CHAINS = 500

SAMPLERS: dict[str, type[Sampler]] = {"sgld": SGLD, "sghmc": SGHMC, "sgnht": SGNHT}
samplers = pytest.mark.parametrize("kind", SAMPLERS.values(), ids=SAMPLERS)


def stationary(
    kind: type[Sampler],
    variance: float,
    *,
    steps: int = 1200,
    hold: bool = True,
    **settings: object,
) -> tuple[Sampler, np.ndarray, np.ndarray]:
    """N h Var Φ of every mode of a quadratic with gradient noise of this variance, from many
    chains, and its error.

    Each mode is one parameter group, so that each keeps the temperature; its tensor has one number
    per chain.
    """
    modes = [nn.Parameter(torch.zeros(CHAINS, dtype=torch.float64)) for _ in CURVATURES]
    sampler = kind(
        [{"params": [mode]} for mode in modes],
        lr=RATE,
        examples=N,
        temperature=TEMPERATURE,
        hold=hold,
        **settings,
    )
    generator = torch.Generator().manual_seed(1)
    squares = torch.zeros(len(CURVATURES), CHAINS, dtype=torch.float64)
    for step in range(steps):
        for mode, curvature in zip(modes, CURVATURES, strict=True):
            noise = torch.randn(CHAINS, generator=generator, dtype=torch.float64)
            mode.grad = curvature * mode.detach() + math.sqrt(variance) * noise
        sampler.step()
        if step >= steps // 2:
            squares += torch.stack(
                [N * h * m.detach().square() for m, h in zip(modes, CURVATURES, strict=True)]
            )
    per_chain = (squares / (steps - steps // 2)).numpy()
    return sampler, per_chain.mean(1), per_chain.std(1, ddof=1) / math.sqrt(CHAINS)


@samplers
@pytest.mark.parametrize("variance", [0.0, 2e-4])
def test_every_mode_has_the_temperature_asked_for(kind: type[Sampler], variance: float) -> None:
    _, temperatures, errors = stationary(kind, variance)
    assert (errors < 0.014 * TEMPERATURE).all()
    assert (np.abs(temperatures - TEMPERATURE) < 4 * errors).all()


def test_sgld_injects_the_temperature_of_the_formula() -> None:
    variance = 2e-4
    sampler, _, _ = stationary(SGLD, variance)
    for group, curvature in zip(sampler.param_groups, CURVATURES, strict=True):
        injected = TEMPERATURE * (1 - RATE * curvature / 2) - N * RATE * variance / 2
        # The running mean spans 1,000 steps of 600 chains, correlated over about 2/(ηh) steps.
        error = (
            4
            * TEMPERATURE
            * RATE
            * curvature
            / 2
            * math.sqrt(2 / (1000 * CHAINS) * 2 / (RATE * curvature))
        )
        assert group["injected"] == pytest.approx(injected, abs=error)


def test_sghmc_injects_the_temperature_of_the_formula() -> None:
    variance, kept = 2e-4, 0.9
    sampler, _, _ = stationary(SGHMC, variance, momentum=kept)
    for group, curvature in zip(sampler.param_groups, CURVATURES, strict=True):
        own = N * RATE * variance * (1 + kept) / ((1 - kept) * (4 - RATE * curvature))
        assert group["injected"] == pytest.approx(TEMPERATURE - own, rel=0.01)


def test_samplers_without_hold_are_as_hot_as_their_exact_laws() -> None:
    """The tests above could fail: the published forms miss the temperature by far more than a
    standard error."""
    variance = 2e-4
    _, sgld, errors = stationary(SGLD, variance, hold=False)
    law = [(TEMPERATURE + N * RATE * variance / 2) / (1 - RATE * h / 2) for h in CURVATURES]
    assert (np.abs(sgld - law) < 4 * errors).all() and sgld[0] > 1.3 * TEMPERATURE
    _, sghmc, errors = stationary(SGHMC, variance, hold=False)
    law = [TEMPERATURE + N * RATE * variance * 19 / (4 - RATE * h) for h in CURVATURES]
    assert (np.abs(sghmc - law) < 4 * errors).all() and sghmc[0] > 1.2 * TEMPERATURE
    _, kinetic, errors = stationary(SGNHT, 10 * variance, hold=False)
    assert kinetic[0] > 1.15 * TEMPERATURE and errors[0] < 0.02 * TEMPERATURE


def test_the_thermostat_keeps_its_temperature_with_noise_too_hot_for_sghmc() -> None:
    variance = 2e-3  # at momentum 0.9 it alone heats SGHMC to 13
    _, temperatures, errors = stationary(SGNHT, variance, steps=2400)
    assert (np.abs(temperatures - TEMPERATURE) < 4 * errors).all()
    with pytest.raises(BadArgument, match=r"`temperature` 2 is too low for `lr` 0\.5"):
        stationary(SGHMC, variance, steps=2400)


def regression(seed: int = 0) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A small network on made-up data, and its loss on a random batch."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    inputs = torch.randn(200, 3, dtype=torch.float64)
    targets = inputs[:, :1].sin()
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        chosen = torch.randint(200, (20,), generator=generator)
        return F.mse_loss(model(inputs[chosen]), targets[chosen])

    return model, loss


def walk(sampler: Sampler, loss: Callable[[], Tensor], steps: int) -> Iterator[Tensor]:
    for _ in range(steps):
        sampler.zero_grad()
        value = loss()
        value.backward()
        sampler.step()
        yield value.detach()


@samplers
def test_the_temperature_is_kept_on_a_loss_that_is_not_quadratic(kind: type[Sampler]) -> None:
    """⟨Φ·N∇L⟩/d = T for L = Φ²/2 + 50 Φ⁴, whose curvature triples within a standard deviation, with
    gradient noise."""
    position = nn.Parameter(torch.full((CHAINS,), 0.05, dtype=torch.float64))
    sampler = kind([position], lr=0.2, examples=N, temperature=TEMPERATURE)
    generator, virial, steps = (
        torch.Generator().manual_seed(2),
        torch.zeros(CHAINS, dtype=torch.float64),
        1600,
    )
    for step in range(steps):
        gradient = position.detach() + 200 * position.detach() ** 3
        position.grad = gradient + 0.02 * torch.randn(
            CHAINS, generator=generator, dtype=torch.float64
        )
        if step >= steps // 2:
            virial += N * position.detach() * gradient / (steps - steps // 2)
        sampler.step()
    error = float(virial.std()) / math.sqrt(CHAINS)
    assert error < 0.014 * TEMPERATURE
    assert abs(float(virial.mean()) - TEMPERATURE) < 4 * error


@samplers
def test_a_sampler_continues_from_its_state_dict_with_the_same_bits(kind: type[Sampler]) -> None:
    model, loss = regression()
    sampler = kind(model.parameters(), lr=0.02, examples=200, temperature=0.5, seed=7)
    list(walk(sampler, loss, 30))
    saved, weights = copy.deepcopy(sampler.state_dict()), copy.deepcopy(model.state_dict())
    fixed = [torch.randn_like(p) for p in model.parameters()]

    def ahead(of: Sampler, net: nn.Module) -> list[Tensor]:
        for _ in range(30):
            for p, g in zip(net.parameters(), fixed, strict=True):
                p.grad = g.clone()
            of.step()
        return [p.detach().clone() for p in net.parameters()]

    there = ahead(sampler, model)
    other, _ = regression(seed=3)
    other.load_state_dict(weights)
    again = kind(other.parameters(), lr=0.5, examples=9, seed=1)
    again.load_state_dict(saved)
    assert all(torch.equal(a, b) for a, b in zip(there, ahead(again, other), strict=True))


@samplers
def test_sampling_does_not_change_the_global_random_state(kind: type[Sampler]) -> None:
    model, loss = regression()
    sampler = kind(model.parameters(), lr=0.02, examples=200)
    before = torch.get_rng_state()
    list(walk(sampler, loss, 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_at_temperature_zero_sgld_is_sgd_to_the_bit() -> None:
    (ours, loss), (theirs, same) = regression(), regression()
    sgld = SGLD(ours.parameters(), lr=0.05, examples=200, temperature=0.0, weight_decay=0.01)
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.05, weight_decay=0.01)
    list(walk(sgld, loss, 10))
    list(walk(sgd, same, 10))
    assert all(
        torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
    )


@samplers
def test_step_returns_the_loss_of_a_closure_and_does_not_move_frozen_parameters(
    kind: type[Sampler],
) -> None:
    model, loss = regression()
    model[0].requires_grad_(False)
    sampler = kind(model.parameters(), lr=0.02, examples=200)
    before = model[0].weight.clone()

    def closure() -> Tensor:
        sampler.zero_grad()
        value = loss()
        value.backward()
        return value

    assert sampler.step(closure).item() > 0
    assert torch.equal(model[0].weight, before)


def test_halves_measure_the_mini_batch_heat_and_raise_with_a_suggestion() -> None:
    """At η = 0.4 and tr Σ/(Bd) = 0.009 a batch of 32 alone heats to 1.8, so SGLD cannot reach T =
    1."""
    position = nn.Parameter(torch.zeros(400, dtype=torch.float64))
    sampler = SGLD([position], lr=0.4, examples=N, temperature=1.0, batch_size=32)
    generator = torch.Generator().manual_seed(0)

    def half() -> Tensor:
        return math.sqrt(2 * 0.009) * torch.randn(400, generator=generator, dtype=torch.float64)

    with pytest.raises(BadArgument) as refusal:
        for _ in range(100):
            sampler.halves([half()], [half()])
    heat = sampler.balance[0].minibatch
    assert heat.low < 1.8 < heat.high
    assert "mini-batch noise alone heats to 1.8" in str(refusal.value)
    assert "Use `lr` below 0.22" in str(refusal.value) and "a batch of at least 58" in str(
        refusal.value
    )


def test_halves_below_the_temperature_raise_nothing() -> None:
    position = nn.Parameter(torch.zeros(400))
    sampler = SGLD([position], lr=0.1, examples=N)
    for seed in range(200):
        pair = 0.1 * torch.randn(2, 400, generator=torch.Generator().manual_seed(seed))
        sampler.halves([pair[0]], [pair[1]])
    assert 0.2 < sampler.balance[0].minibatch.value < 0.3
    with pytest.raises(BadArgument, match="a gradient for each of the 1 parameters, got 0 and 1"):
        sampler.halves([], [pair[1]])


@pytest.mark.parametrize(
    ("kind", "factor"), [(SGLD, 1 / 2), (SGHMC, (1 + 0.8) / (4 * (1 - 0.8))), (SGNHT, 1 / 4)]
)
def test_halves_give_the_mini_batch_heat_by_the_formula_of_the_sampler(
    kind: type[Sampler], factor: float
) -> None:
    """The halves are ±√c, so tr Σ/(Bd) = c exactly; the heat is Nηc times the sampler's factor for
    small steps.

    Momentum is 0.8; SGNHT's factor is that of full friction, the coolest it can be.
    """
    rate, variance = 0.2, 1e-3
    position = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    momentum = {} if kind is SGLD else {"momentum": 0.8}
    sampler = kind([position], lr=rate, examples=N, temperature=TEMPERATURE, **momentum)
    half = torch.full((4,), math.sqrt(variance), dtype=torch.float64)
    for _ in range(50):
        sampler.halves([half], [-half])
    assert sampler.balance[0].minibatch.value == pytest.approx(
        N * rate * variance * factor, rel=1e-12
    )


def test_a_hot_start_raises_nothing() -> None:
    """Far from the minimum the step alone is hot. Its heat falls, and then the
    temperature is kept."""
    position = nn.Parameter(torch.full((50,), 30.0, dtype=torch.float64))
    sampler = SGLD([position], lr=0.01, examples=N, temperature=1.0, burn_in=0, memory=100)
    for _ in range(3000):
        position.grad = position.detach().clone()
        sampler.step()
    assert 0.9 < sampler.param_groups[0]["injected"] < 1.0


def test_a_heat_is_above_a_temperature_only_if_it_is_not_falling() -> None:
    heat, generator = Heat(100), np.random.default_rng(0)
    for _ in range(100):
        heat.add(1.0 + 0.1 * generator.standard_normal())
    assert heat.above(0.9) and not heat.above(1.0)
    falling = Heat(100)
    for step in range(100):
        falling.add(10 - 0.05 * step)
    assert not falling.above(1.0)


def test_gradients_that_are_not_finite_raise_diverged() -> None:
    position = nn.Parameter(torch.zeros(3))
    sampler = SGLD([position], lr=0.1, examples=N, memory=50)
    with pytest.raises(Diverged, match="are not finite at its step 0"):
        for _ in range(10):
            position.grad = torch.full((3,), math.nan)
            sampler.step()


def made(kind: type[Sampler] = SGLD, **settings: object) -> Sampler:
    return kind([nn.Parameter(torch.zeros(2))], **{"lr": 0.1, "examples": N, **settings})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: made(momentum=0.9), "`momentum` must be 0 for SGLD, got 0.9: use SGHMC"),
        (lambda: made(momentum=math.nan), "`momentum` must be at least 0 and finite, got nan"),
        (lambda: made(examples=None), "`examples` is missing: .* because U = N × the mean loss"),
        (lambda: made(examples=0), "`examples` must be at least 1, got 0"),
        (lambda: made(temperature=-1.0), "`temperature` must be at least 0 and finite, got -1.0"),
        (
            lambda: made(temperature=math.nan),
            "`temperature` must be at least 0 and finite, got nan",
        ),
        (lambda: made(lr=0.0), "`lr` must be positive and finite, got 0.0"),
        (lambda: made(lr=math.nan), "`lr` must be positive and finite, got nan"),
        (lambda: made(weight_decay=-0.1), "`weight_decay` must be at least 0 and finite"),
        (lambda: made(memory=3), "`memory` must be at least 10, got 3"),
        (lambda: made(batch_size=0), "`batch_size` must be at least 1, got 0"),
        (lambda: made(SGHMC, momentum=1.0), r"`momentum` must lie in \[0, 1\), got 1.0"),
        (lambda: made(SGNHT, momentum=0.0), "`momentum` must be positive and finite, got 0.0"),
        (lambda: made(SGNHT, relaxation=0), "`relaxation` must be at least 1, got 0"),
        (
            lambda: SGLD([{"params": [nn.Parameter(torch.zeros(1))], "momentum": 0.9}], examples=N),
            "`momentum` must be 0 for SGLD, got 0.9",
        ),
        (
            lambda: SGLD(
                [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1).double())], examples=N
            ),
            "`params` of a group must have one device and dtype",
        ),
        (
            lambda: made().load_state_dict({"state": {}}),
            "`state_dict` has no 'noise': it is not the state of SGLD",
        ),
    ],
)
def test_invalid_settings_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        make()


def test_a_temperature_that_a_schedule_sets_to_nan_raises() -> None:
    position = nn.Parameter(torch.zeros(2))
    sampler = SGLD([position], lr=0.1, examples=N)
    sampler.param_groups[0]["temperature"] = math.nan
    position.grad = torch.ones(2)
    with pytest.raises(BadArgument, match="`temperature` must be at least 0 and finite, got nan"):
        sampler.step()
