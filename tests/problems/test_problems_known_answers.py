"""The closed forms of the one-dimensional example and the noisy quadratic, against simulation in
standard errors."""

import math

import numpy as np
import pytest
import torch

from gradiometer.measurement import Objective
from gradiometer.problems import Problem
from gradiometer_lab.closed_forms import OneDimensional, Quadratic

STANDARD_ERRORS = 4.0
"""One comparison in 16,000 is further off by chance."""


def rotated(spectrum: list[float], seed: int) -> np.ndarray:
    """A matrix of these eigenvalues along axes of its own."""
    axes, _ = np.linalg.qr(
        np.random.default_rng(seed).standard_normal((len(spectrum), len(spectrum)))
    )
    return axes * spectrum @ axes.T


def skew() -> Quadratic:
    """Curvature and noise along different axes, the noise of rank 2 in 3 dimensions, the minimum
    off the origin."""
    return Quadratic(rotated([0.2, 0.7, 2.0], 1), rotated([0.0, 1.0, 9.0], 2), [1.0, -2.0, 0.5])


def z_of_mean(samples: np.ndarray, expected: np.ndarray | float) -> np.ndarray:
    """How many standard errors the mean over the first axis is off."""
    return (samples.mean(axis=0) - expected) / (
        samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
    )


def products(points: np.ndarray) -> np.ndarray:
    """The outer product of each point with itself: [chains, params] to [chains, params, params]."""
    return points[:, :, None] * points[:, None, :]


def per_example_gradients(problem: Problem, start: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Every gradient of the training set by autograd, and the full gradient, at a given point."""
    model = problem.model()
    with torch.no_grad():
        model.position.copy_(torch.tensor(start, dtype=torch.float64))
    objective = Objective(model, problem.loss)
    batch = problem.train.batch(torch.arange(len(problem.train)))
    (each,), (full,) = objective.per_example_gradients(batch), objective.gradient(batch)
    return each.numpy(), full.numpy()


@pytest.mark.parametrize("batch_size", [1, 4])
def test_mean_and_variance_follow_the_recursion_at_every_step(batch_size: int) -> None:
    example = OneDimensional(mean=2.0, variance=3.0)
    rates = [0.5, 0.1, 1.5, 0.0, 0.3, 0.3]
    iterates = example.simulate(rates, chains=20_000, batch_size=batch_size, start=-1.0, seed=1)
    means, variances = example.law(rates, batch_size, start=-1.0)
    assert iterates.shape == (7, 20_000)
    assert (iterates[0] == -1.0).all()
    assert np.abs(z_of_mean(iterates[1:].T, means[1:])).max() < STANDARD_ERRORS
    assert (
        np.abs(z_of_mean((iterates[1:] - means[1:, None]).T ** 2, variances[1:])).max()
        < STANDARD_ERRORS
    )


@pytest.mark.parametrize(("learning_rate", "steps"), [(0.1, 150), (1.0, 5), (1.9, 150)])
def test_at_a_constant_rate_the_variance_is_the_stationary_one(
    learning_rate: float, steps: int
) -> None:
    example = OneDimensional(mean=2.0, variance=3.0)
    expected = example.stationary_variance(learning_rate, batch_size=4)
    iterates = example.simulate(
        [learning_rate] * steps, chains=20_000, batch_size=4, start=2.0, seed=2
    )
    assert abs(z_of_mean((iterates[-1] - 2.0) ** 2, expected)) < STANDARD_ERRORS
    _, variances = example.law([learning_rate] * 2_000, batch_size=4)
    assert variances[-1] == pytest.approx(expected, rel=1e-12)


def test_at_a_rate_of_one_over_t_the_iterate_is_the_running_mean() -> None:
    example = OneDimensional(mean=2.0, variance=3.0)
    rates = 1 / np.arange(1, 51)
    means, variances = example.law(rates, batch_size=4, start=100.0, start_variance=7.0)
    np.testing.assert_allclose(means[1:], 2.0, rtol=1e-13)
    np.testing.assert_allclose(
        variances[1:], [example.running_mean_variance(t, 4) for t in range(1, 51)], rtol=1e-12
    )
    iterates = example.simulate(rates, chains=20_000, batch_size=4, start=100.0, seed=3)
    assert (
        abs(z_of_mean((iterates[-1] - 2.0) ** 2, example.running_mean_variance(50, 4)))
        < STANDARD_ERRORS
    )


def test_the_finite_one_dimensional_problem_is_known_exactly() -> None:
    example = OneDimensional(mean=2.0, variance=3.0)
    problem = example.problem(examples=50, seed=1)
    finite = example.on(problem.train)
    each, full = per_example_gradients(problem, [0.7])
    assert full[0] == pytest.approx(finite.gradient(0.7), rel=1e-12)
    assert each.var() == pytest.approx(finite.variance, rel=1e-12)
    values = problem.train.data.numpy()
    assert abs(z_of_mean(values, 2.0)[0]) < STANDARD_ERRORS
    assert problem.loss(problem.model(), problem.train.data).shape == (50,)


def test_the_training_set_of_the_quadratic_is_drawn_from_its_law() -> None:
    quadratic = skew()
    problem = quadratic.problem(examples=20_000, seed=3)
    each, _ = per_example_gradients(problem, list(quadratic.minimum))
    assert np.abs(z_of_mean(each, 0.0)).max() < STANDARD_ERRORS
    assert np.abs(z_of_mean(products(each), quadratic.noise)).max() < STANDARD_ERRORS


@pytest.mark.parametrize("examples", [1, 7, 100])
def test_the_finite_quadratic_is_known_exactly(examples: int) -> None:
    quadratic, start = skew(), [0.3, 0.1, -0.5]
    problem = quadratic.problem(examples=examples, seed=4)
    finite = quadratic.on(problem.train)
    each, full = per_example_gradients(problem, start)
    np.testing.assert_allclose(full, finite.gradient(start), rtol=1e-10)
    np.testing.assert_allclose((each - full).T @ (each - full) / examples, finite.noise, atol=1e-10)


def test_the_mean_loss_is_its_floor_and_the_excess() -> None:
    quadratic, start = skew(), [0.3, 0.1, -0.5]
    problem = quadratic.problem(examples=100, seed=4, start=start)
    finite = quadratic.on(problem.train)
    mean_loss = problem.loss(problem.model(), problem.train.data).mean().item()
    assert mean_loss == pytest.approx(finite.floor + finite.excess_loss(start), rel=1e-10)


@pytest.mark.parametrize(
    ("learning_rate", "momentum"), [(0.05, 0.0), (0.9, 0.0), (0.05, 0.8), (1.5, 0.8)]
)
def test_the_stationary_covariance_is_that_of_many_chains(
    learning_rate: float, momentum: float
) -> None:
    quadratic, batch_size = skew(), 4
    covariance = quadratic.stationary_covariance(learning_rate, batch_size, momentum)
    iterates = quadratic.simulate(
        [learning_rate] * 600, chains=4_000, batch_size=batch_size, momentum=momentum, seed=5
    )
    away = iterates[-1] - quadratic.minimum
    assert np.abs(z_of_mean(away, 0.0)).max() < STANDARD_ERRORS
    assert np.abs(z_of_mean(products(away), covariance)).max() < STANDARD_ERRORS
    losses = ((away @ quadratic.curvature) * away).sum(axis=1) / 2
    expected = quadratic.stationary_excess_loss(learning_rate, batch_size, momentum)
    assert abs(z_of_mean(losses, expected)) < STANDARD_ERRORS
    squared = ((away @ quadratic.curvature) ** 2).sum(axis=1)
    expected = quadratic.stationary_squared_gradient(learning_rate, batch_size, momentum)
    assert abs(z_of_mean(squared, expected)) < STANDARD_ERRORS


@pytest.mark.parametrize("learning_rate", [0.001, 0.05, 0.9])
def test_without_momentum_it_solves_the_equation_of_the_lecture(learning_rate: float) -> None:
    quadratic, batch_size = skew(), 4
    covariance = quadratic.stationary_covariance(learning_rate, batch_size)
    step = np.eye(3) - learning_rate * quadratic.curvature
    expected = step @ covariance @ step + learning_rate**2 * quadratic.noise / batch_size
    np.testing.assert_allclose(covariance, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.95])
def test_one_mode_is_that_of_the_heavy_ball(momentum: float) -> None:
    h, c, batch_size = 0.6, 2.0, 8
    for learning_rate in (0.001, 0.1, 2.0):
        expected = learning_rate * c * (1 + momentum)
        expected /= batch_size * h * (1 - momentum) * (2 * (1 + momentum) - learning_rate * h)
        (variance,) = (
            Quadratic([h], [c]).stationary_covariance(learning_rate, batch_size, momentum).ravel()
        )
        assert variance == pytest.approx(expected, rel=1e-9)


def test_the_one_dimensional_example_is_the_quadratic_of_curvature_one() -> None:
    ours = OneDimensional(variance=3.0).stationary_variance(0.3, 4)
    assert Quadratic([1.0], [3.0]).stationary_covariance(0.3, 4)[0, 0] == pytest.approx(
        ours, rel=1e-12
    )


def test_momentum_in_the_simulation_is_that_of_torch() -> None:
    quadratic = Quadratic(rotated([0.2, 2.0], 1), [0.0, 0.0], [1.0, -2.0])
    start = [3.0, 4.0]
    iterates = quadratic.simulate([0.3] * 10, chains=1, batch_size=1, momentum=0.9, start=start)
    problem = quadratic.problem(examples=1, start=start)
    model = problem.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for expected in iterates:
        np.testing.assert_allclose(model.position.detach().numpy(), expected[0], rtol=1e-10)
        optimizer.zero_grad()
        problem.loss(model, problem.train.data).mean().backward()
        optimizer.step()


def test_chains_start_at_the_given_points() -> None:
    starts = np.arange(6.0).reshape(3, 2)
    iterates = Quadratic([1.0, 0.5], [1.0, 1.0]).simulate(
        [0.1], chains=3, batch_size=1, start=starts
    )
    np.testing.assert_array_equal(iterates[0], starts)


def test_the_model_of_the_problem_starts_from_the_seed_of_its_maker() -> None:
    problem = skew().problem(examples=3)
    torch.manual_seed(1)
    first = problem.model().position
    torch.manual_seed(1)
    assert torch.equal(problem.model().position, first)
    assert not torch.equal(problem.model().position, first)
