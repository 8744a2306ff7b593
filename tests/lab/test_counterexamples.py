"""The counterexamples: their gradients, and the closed forms of where they go, against
simulation."""

import math

import numpy as np
import pytest
import torch

from gradiometer.convergence.theorem import theorem
from gradiometer.drift import Curvature
from gradiometer.measurement import Objective
from gradiometer_lab.counterexamples import (
    COUNTEREXAMPLES,
    Arctangent,
    Counterexample,
    LogCosh,
    Mirrored,
    Ring,
    Saddle,
    Softplus,
    Winding,
    dead_unit,
    load,
)

STANDARD_ERRORS = 4.0
"""One comparison in 16,000 is further off by chance."""

made = pytest.mark.parametrize(
    "counterexample", [make() for make in COUNTEREXAMPLES], ids=lambda c: c.name
)


def one_over(steps: int, power: float = 1.0, offset: int = 0) -> np.ndarray:
    return (np.arange(1, steps + 1) + offset) ** -power


@made
def test_the_gradient_written_down_is_the_one_of_the_loss(counterexample: Counterexample) -> None:
    generator = np.random.default_rng(1)
    for place in generator.uniform(-0.65, 0.65, (20, len(counterexample.start))):
        example = generator.standard_normal(len(counterexample.mean))
        position = torch.tensor(place, requires_grad=True)
        loss = counterexample.losses(position, torch.tensor(example)[None]).sum()
        (expected,) = torch.autograd.grad(loss, position)
        written = counterexample.gradient(tuple(place), tuple(example))
        np.testing.assert_allclose(
            np.array(written, dtype=float), expected.numpy(), rtol=1e-9, atol=1e-12
        )


@made
def test_the_mean_loss_is_never_negative_and_its_gradient_lipschitz(
    counterexample: Counterexample,
) -> None:
    generator = np.random.default_rng(2)
    example = tuple(np.full(4000, mean) for mean in counterexample.mean)
    places = tuple(generator.uniform(-1.5, 1.5, (len(counterexample.start), 4000)))
    moved = tuple(x + 1e-5 * generator.standard_normal(4000) for x in places)
    pair = [np.stack(counterexample.gradient(point, example)) for point in (places, moved)]
    distance = np.linalg.norm(np.stack(moved) - np.stack(places), axis=0)
    ratio = np.linalg.norm(pair[1] - pair[0], axis=0) / distance
    assert np.isfinite(ratio).all() and ratio.max() < 400
    problem = counterexample.problem()
    model = problem.model()
    for place in np.stack(places, axis=1)[:50]:
        with torch.no_grad():
            model.position.copy_(torch.tensor(place))
            assert problem.loss(model, problem.train.data).mean() >= -0.3 * any(
                counterexample.deviation
            )


@made
def test_a_simulated_run_is_the_trained_one(counterexample: Counterexample) -> None:
    problem, rates = counterexample.problem(examples=8), [0.01, 0.02, 0.005]
    model = problem.model()
    for rate in rates:
        model.zero_grad()
        problem.loss(model, problem.train.data).mean().backward()
        with torch.no_grad():
            model.position -= rate * model.position.grad
    quiet = (
        type(counterexample)(deviation=(0.0,) * len(counterexample.deviation))
        if any(counterexample.deviation)
        else counterexample
    )
    iterates = quiet.simulate(rates)
    np.testing.assert_allclose(
        model.position.detach().numpy(), iterates[-1, 0], rtol=1e-12, atol=1e-15
    )


@made
def test_the_schedule_of_each_satisfies_the_theorem_but_of_the_cycle(
    counterexample: Counterexample,
) -> None:
    assert theorem(counterexample.schedule).theorem is (counterexample.name != "two-cycle")


def test_the_arctangent_runs_to_infinity_as_the_cube_root_of_the_sum_of_rates() -> None:
    example, rates = Arctangent(), one_over(20_000)
    x = example.simulate(rates, kept=[20_000]).item()
    ahead = example.clock(x) - rates.sum()
    assert 0 <= ahead <= example.most_excess(rates)
    assert x > 2.8
    curvature = np.abs(np.gradient(-1 / (1 + np.linspace(0, 2, 20_001) ** 2), 1e-4))
    assert curvature.max() == pytest.approx(3 * math.sqrt(3) / 8, rel=1e-6)


def test_the_softplus_runs_to_infinity_as_the_logarithm_of_the_sum_of_rates() -> None:
    example, rates = Softplus(start=(0.5,)), one_over(20_000, 0.6)
    x = example.simulate(rates, kept=[20_000]).item()
    # x + eˣ is the integral of 1/−f′ = 1 + eˣ; its excess per step is at most η² e^η / 8
    ahead = x + math.exp(x) - 0.5 - math.exp(0.5) - rates.sum()
    assert 0 <= ahead <= (rates**2 * np.exp(rates) / 8).sum()


def test_the_saddle_is_reached_at_exactly_one_over_t() -> None:
    example = Saddle(start=(0.0, 2.0))
    iterates = example.simulate(one_over(5_000, offset=1))[:, 0]
    assert (iterates[:, 0] == 0).all()
    np.testing.assert_allclose(
        iterates[:, 1], [example.height(t) for t in range(5_001)], rtol=1e-11
    )


def test_with_noise_in_y_every_run_ends_at_the_saddle() -> None:
    example = Saddle(start=(0.0, 2.0), deviation=(1.5,))
    last = example.simulate(one_over(500, offset=1), runs=20_000, batch_size=3, seed=3, kept=[500])[
        0
    ]
    assert (last[:, 0] == 0).all()
    variance = example.height_variance(500, batch_size=3)
    away = (last[:, 1] - example.height(500)) / math.sqrt(variance)
    assert abs(away.mean()) < STANDARD_ERRORS / math.sqrt(20_000)
    assert abs(away.var() - 1) < STANDARD_ERRORS * math.sqrt(2 / 20_000)


@pytest.mark.parametrize(
    ("example", "curvature"),
    [(Saddle(start=(0.0, 0.0)), -(math.pi**2) / 2), (Mirrored(start=(0.0, 0.0)), -1.0)],
    ids=["saddle", "mirrored"],
)
def test_what_they_end_at_is_a_saddle(example: Saddle | Mirrored, curvature: float) -> None:
    problem = example.problem()
    values = Curvature.of(Objective(problem.model(), problem.loss), problem.train.data).eigenvalues(
        largest=1, smallest=1
    )
    assert values.smallest[0].value == pytest.approx(curvature, rel=1e-9)
    assert values.sharpness.value == pytest.approx(1.0, rel=1e-9)


def test_label_noise_keeps_a_at_minus_b_to_the_bit_and_the_run_ends_at_the_saddle() -> None:
    iterates = Mirrored().simulate(
        one_over(3_000, 0.6, offset=2), runs=50, seed=4, kept=[10, 1_000, 3_000]
    )
    assert (iterates[..., 0] == -iterates[..., 1]).all()
    assert np.abs(iterates[-1]).max() < 1e-6


def test_the_cycle_is_where_the_equation_says_and_attracts() -> None:
    example = LogCosh()
    assert example.orbit(3.0) == pytest.approx(1.287839, abs=5e-7)
    multiplier = (
        1 - 3.0 / math.cosh(example.orbit(3.0)) ** 2
    ) ** 2  # of the distance to the cycle, in two steps
    assert multiplier == pytest.approx(0.0447, abs=5e-5)
    iterates = example.simulate([3.0] * 60)[:, 0, 0]
    assert abs(iterates[-1]) == pytest.approx(example.orbit(3.0), rel=1e-14)
    assert iterates[-1] == pytest.approx(-iterates[-2], rel=1e-14)
    away = np.abs(np.abs(iterates[:12]) - example.orbit(3.0))[-4:]
    assert away[2] / away[0] == pytest.approx(multiplier, rel=0.02)


def test_the_winding_turns_by_the_logarithm_of_what_is_left() -> None:
    example, early, steps = Winding(), 2**14, 2**18
    iterates = example.simulate(np.full(steps, 0.007), kept=range(0, steps + 1, 64))[:, 0]
    angle = np.unwrap(np.arctan2(iterates[:, 1], iterates[:, 0]))
    turned = (angle[-1] - angle[early // 64]) / (2 * math.pi)
    assert turned > 1.4
    # π/2, and turns, on the floor of the valley
    phase = angle + example.pitch * np.log(1 - np.sum(iterates**2, axis=1))
    off = np.angle(np.exp(1j * (phase[early // 64 :] - math.pi / 2)))
    assert np.abs(off).max() < math.pi / 4  # along the floor all the while
    # What it turned is what the valley turned, and by how much it has fallen back from the floor.
    u_first, u_last = (1 - np.sum(iterates[place] ** 2) for place in (early // 64, -1))
    valley = example.pitch / (2 * math.pi) * math.log(u_first / u_last)
    assert turned == pytest.approx(valley + (off[-1] - off[0]) / (2 * math.pi), abs=1e-9)
    assert (np.diff(np.linalg.norm(iterates[early // 64 :], axis=1)) > 0).all()


def test_the_angle_on_the_ring_varies_by_the_sum_of_squared_rates() -> None:
    example, rates = Ring(deviation=(0.1, 0.1)), 0.3 * one_over(2_000, 0.75)
    last = example.simulate(rates, runs=5_000, batch_size=4, seed=5, kept=[2_000])[0]
    angle = np.arctan2(last[:, 1], last[:, 0])
    # 1 %: the next order in the noise
    assert angle.var() == pytest.approx(
        (rates**2).sum() * 0.1**2 / 4, rel=STANDARD_ERRORS * math.sqrt(2 / 5_000) + 0.01
    )
    assert np.abs(np.linalg.norm(last, axis=1) - 1).max() < 0.05


def test_one_large_step_kills_the_unit_for_ever() -> None:
    problem = dead_unit()
    model = problem.model()
    for rate in (2.0, 0.1):
        model.zero_grad()
        problem.loss(model, problem.train.data).mean().backward()
        if rate == 2.0:
            torch.testing.assert_close(model[0].bias.grad, torch.tensor([3.5], dtype=torch.float64))
        else:
            assert model[0].weight.grad.item() == model[0].bias.grad.item() == 0
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(rate * parameter.grad)
    assert model[0].bias.item() == pytest.approx(-4, rel=1e-9)
    assert model[0].weight.item() == pytest.approx(-1, rel=1e-4)
    assert (model(problem.train.data[0]) == 0).all()


@pytest.mark.parametrize("name", ["arctangent", "saddle", "dead-unit"])
def test_a_counterexample_is_found_by_name(name: str) -> None:
    problem = load(name)
    losses = problem.loss(problem.model(), problem.train.batch(torch.arange(4)))
    assert losses.shape == (4,)
