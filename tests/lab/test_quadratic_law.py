"""The exact law after any schedule: against simulation, torch's own updates and the
stationary law."""

import math

import numpy as np
import pytest
import torch
from cases.quadratic_law import QuadraticLaw

from gradiometer_lab.closed_forms import Quadratic

GENERATOR = np.random.default_rng(5)
ROTATION = np.linalg.qr(GENERATOR.standard_normal((3, 3)))[0]
QUADRATIC = Quadratic(ROTATION * [2.0, 0.5, 0.1] @ ROTATION.T, [1.0, 3.0, 0.5], [1.0, -1.0, 0.5])
START = [3.0, 0.0, -1.0]


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.8, False), (0.8, True)])
def test_it_tends_to_the_stationary_covariance(momentum: float, nesterov: bool) -> None:
    law = QuadraticLaw.at(QUADRATIC, START).after(
        [0.3] * 900, batch_size=4, momentum=momentum, nesterov=nesterov
    )
    stationary = QUADRATIC.stationary_covariance(0.3, 4, momentum, nesterov=nesterov)
    np.testing.assert_allclose(law.covariance, stationary, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(law.mean, QUADRATIC.minimum, atol=1e-9)


def test_it_agrees_with_simulated_runs_under_a_falling_rate() -> None:
    rates, chains = np.linspace(0.4, 0.0, 30), 4000
    ends = QUADRATIC.simulate(
        rates, chains=chains, batch_size=2, momentum=0.7, start=START, seed=1
    )[-1]
    law = QuadraticLaw.at(QUADRATIC, START).after(rates, batch_size=2, momentum=0.7)
    errors = np.sqrt(law.covariance.diagonal() / chains)
    assert np.abs((ends.mean(0) - law.mean) / errors).max() < 4
    variances = law.covariance.diagonal()
    sizes = np.sqrt((np.outer(variances, variances) + law.covariance**2) / chains)
    assert np.abs((np.cov(ends.T) - law.covariance) / sizes).max() < 4
    losses = np.array([QUADRATIC.excess_loss(end) for end in ends])
    assert abs(losses.mean() - law.excess_loss) < 4 * math.sqrt(law.excess_loss_variance / chains)
    assert losses.var() == pytest.approx(law.excess_loss_variance, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("nesterov", [False, True])
def test_its_mean_is_the_path_of_torchs_optimizer(nesterov: bool) -> None:
    rates, momenta = [0.4, 0.4, 0.1, 0.9, 0.2], [0.9, 0.9, 0.5, 0.5, 0.3]
    position = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([position], lr=0.1, momentum=0.9, nesterov=nesterov)
    optimizer.state[position]["momentum_buffer"] = torch.tensor(
        [0.5, 0.2, -1.0], dtype=torch.float64
    )
    for rate, momentum in zip(rates, momenta, strict=True):
        optimizer.param_groups[0].update(lr=rate, momentum=momentum)
        position.grad = torch.from_numpy(QUADRATIC.gradient(position.detach().numpy()))
        optimizer.step()
    law = QuadraticLaw.at(QUADRATIC, START, velocity=[0.5, 0.2, -1.0])
    law = law.after(rates, batch_size=7, momentum=momenta, nesterov=nesterov)
    np.testing.assert_allclose(law.mean, position.detach().numpy(), rtol=1e-12)


def test_two_parts_of_a_schedule_are_the_whole_with_a_batch_size_for_each_step() -> None:
    rates, batches = np.linspace(0.5, 0.1, 12), np.repeat([2, 16], 6)
    start = QuadraticLaw.at(QUADRATIC, START)
    whole = start.after(rates, batch_size=batches, momentum=0.5)
    parts = start.after(rates[:6], batch_size=2, momentum=0.5).after(
        rates[6:], batch_size=16, momentum=0.5
    )
    np.testing.assert_allclose(whole.covariance, parts.covariance)
    assert (
        whole.covariance.trace() < start.after(rates, batch_size=2, momentum=0.5).covariance.trace()
    )


def test_the_excess_loss_on_a_test_set_is_that_from_its_mean() -> None:
    law = QuadraticLaw.at(QUADRATIC, START)
    assert law.excess_loss == pytest.approx(QUADRATIC.excess_loss(START))
    assert law.excess_loss_from(START) == pytest.approx(0)
