"""Posteriors that are known to all digits, and samplers judged by them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradiometer.exploration.samplers import SGHMC, SGLD, SGNHT
from gradiometer.measurement import Objective
from gradiometer_lab.closed_forms import linear_regression, logistic_regression
from gradiometer_lab.closed_forms.linear_regression import LinearRegression
from gradiometer_lab.closed_forms.logistic_regression import LogisticRegression
from gradiometer_lab.samplers.sampler import Sampler

Gradient = Callable[[Tensor], Tensor]

CHAINS = 300
LINEAR = linear_regression.known()
LOGISTIC, HELD_OUT = logistic_regression.known()


def whole_batch_gradient(
    posterior: LinearRegression | LogisticRegression, at: np.ndarray
) -> np.ndarray:
    problem = posterior.problem()
    model = problem.model()
    with torch.no_grad():
        next(model.parameters()).copy_(torch.from_numpy(at))
    (gradient,) = Objective(model, problem.loss).gradient(problem.train.data)
    return gradient.numpy()


def test_the_mean_of_the_linear_posterior_is_where_the_loss_is_least() -> None:
    assert np.abs(whole_batch_gradient(LINEAR, LINEAR.mean)).max() < 1e-12
    away = np.array([0.3, -0.2, 0.1, 0.5, -0.4])
    expected = LINEAR.curvature @ away / len(LINEAR.targets)
    np.testing.assert_allclose(
        whole_batch_gradient(LINEAR, LINEAR.mean + away), expected, atol=1e-12
    )


def test_the_mode_of_the_logistic_posterior_is_where_the_loss_is_least() -> None:
    assert np.abs(whole_batch_gradient(LOGISTIC, LOGISTIC.mode)).max() < 1e-12
    away = LOGISTIC.mode + np.array([0.3, -0.2, 0.1])
    by_formula = gradient_of(LOGISTIC, None)(torch.from_numpy(away)[None])[0]
    np.testing.assert_allclose(whole_batch_gradient(LOGISTIC, away), by_formula, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_the_quadrature_has_converged_and_agrees_with_importance_sampling(
    temperature: float,
) -> None:
    moments, finer = LOGISTIC.moments(temperature), LOGISTIC.moments(temperature, nodes=30)
    np.testing.assert_allclose(moments.mean, finer.mean, rtol=1e-5)
    np.testing.assert_allclose(moments.covariance, finer.covariance, rtol=3e-4)
    generator, size, draws = np.random.default_rng(0), 3, 40_000
    # A Student proposal with 5 degrees of freedom, wider than the posterior, has bounded weights.
    root = np.linalg.cholesky(2 * moments.covariance)
    z = generator.standard_normal((draws, size)) / np.sqrt(generator.chisquare(5, (draws, 1)) / 5)
    points = moments.mean + z @ root.T
    log_weights = -LOGISTIC.potential(points) / temperature + (5 + size) / 2 * np.log1p(
        (z**2).sum(1) / 5
    )
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    loss = LOGISTIC.potential(points) / len(LOGISTIC.labels)
    for values, expected in (
        (points, moments.mean),
        (loss[:, None], np.array([moments.mean_loss])),
    ):
        error = np.sqrt((weights[:, None] ** 2 * (values - expected) ** 2).sum(0))
        assert (np.abs(weights @ values - expected) < 4 * error).all()


def test_the_posterior_is_seen_to_be_no_gaussian() -> None:
    """So that a sampler of the Laplace approximation would fail below."""
    away = LOGISTIC.moments().mean - LOGISTIC.mode
    assert np.abs(away / np.sqrt(np.diag(LOGISTIC.moments().covariance))).max() > 0.2


def gradient_of(
    posterior: LinearRegression | LogisticRegression, batch_size: int | None
) -> Gradient:
    """The gradient of the mean loss of many chains at once, each on batches of its own, by the
    formula."""
    inputs = torch.from_numpy(posterior.inputs)
    examples = len(inputs)
    if isinstance(posterior, LinearRegression):
        curvature, mean = (
            torch.from_numpy(posterior.curvature) / examples,
            torch.from_numpy(posterior.mean),
        )
        return lambda at: (at - mean) @ curvature
    labels = torch.from_numpy(posterior.labels).double()
    generator = torch.Generator().manual_seed(5)

    def gradient(at: Tensor) -> Tensor:
        if batch_size is None:
            return (torch.sigmoid(at @ inputs.T) - labels) @ inputs / examples + at / examples
        chosen = torch.randint(examples, (CHAINS, batch_size), generator=generator)
        x, y = inputs[chosen], labels[chosen]
        residuals = torch.sigmoid((x @ at.unsqueeze(-1)).squeeze(-1)) - y
        return (residuals.unsqueeze(1) @ x).squeeze(1) / batch_size + at / examples

    return gradient


def chains(
    kind: type[Sampler],
    posterior: LinearRegression | LogisticRegression,
    rate: float,
    *,
    batch_size: int | None = None,
    temperature: float = 1.0,
    steps: int = 500,
    hold: bool = True,
) -> np.ndarray:
    """The iterates of many chains in one parameter, after as many steps that are forgotten:
    [steps/10, chains, params]."""
    examples, size = posterior.inputs.shape
    position = nn.Parameter(torch.zeros(CHAINS, size, dtype=torch.float64))
    sampler = kind([position], lr=rate, examples=examples, temperature=temperature, hold=hold)
    gradient, kept = gradient_of(posterior, batch_size), []
    for step in range(2 * steps):
        position.grad = gradient(position.detach())
        sampler.step()
        if step >= steps and step % 10 == 0:
            kept.append(position.detach().clone().numpy())
    return np.stack(kept)


def off(iterates: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    """By how many standard errors, over chains, the furthest of the moments is off."""
    away = iterates - mean
    products = (away[..., :, None] * away[..., None, :] - covariance).reshape(*away.shape[:2], -1)
    means = np.concatenate([away, products], axis=2).mean(0)
    return float(np.abs(means.mean(0) / (means.std(0, ddof=1) / math.sqrt(means.shape[0]))).max())


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("kind", [SGHMC, SGNHT])
def test_samplers_with_momentum_draw_from_the_linear_posterior(
    kind: type[Sampler], temperature: float
) -> None:
    iterates = chains(kind, LINEAR, 0.5, temperature=temperature)
    assert off(iterates, LINEAR.mean, LINEAR.covariance(temperature)) < 4
    assert off(iterates, LINEAR.mean, LINEAR.covariance(1.2 * temperature)) > 5


@pytest.mark.parametrize(("kind", "rate"), [(SGLD, 0.5), (SGHMC, 2.0), (SGNHT, 2.0)])
def test_all_samplers_draw_from_the_logistic_posterior(kind: type[Sampler], rate: float) -> None:
    moments = LOGISTIC.moments()
    iterates = chains(kind, LOGISTIC, rate)
    assert off(iterates, moments.mean, moments.covariance) < 4
    assert off(iterates, LOGISTIC.mode, np.linalg.inv(LOGISTIC.curvature(LOGISTIC.mode))) > 5


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rate"), [(SGLD, 0.2), (SGHMC, 0.05), (SGNHT, 0.05)])
def test_held_samplers_draw_from_it_on_mini_batches_too(kind: type[Sampler], rate: float) -> None:
    moments = LOGISTIC.moments()
    iterates = chains(kind, LOGISTIC, rate, batch_size=20, steps=800)
    assert off(iterates, moments.mean, moments.covariance) < 4


def test_an_unheld_sampler_is_seen_to_be_too_hot_on_mini_batches() -> None:
    moments = LOGISTIC.moments()
    assert (
        off(
            chains(SGHMC, LOGISTIC, 0.1, batch_size=20, steps=800, hold=False),
            moments.mean,
            moments.covariance,
        )
        > 5
    )


def test_the_mean_loss_of_both_posteriors_is_known() -> None:
    iterates = chains(SGHMC, LINEAR, 0.5)
    away = iterates - LINEAR.mean
    least = LINEAR.mean_loss(temperature=0.0)
    losses = least + np.einsum("tci,ij,tcj->tc", away, LINEAR.curvature, away) / (
        2 * len(LINEAR.targets)
    )
    error = losses.mean(0).std(ddof=1) / math.sqrt(CHAINS)
    assert abs(losses.mean() - LINEAR.mean_loss()) < 4 * error
    assert LOGISTIC.moments(1e-6).mean_loss == pytest.approx(
        float(LOGISTIC.potential(LOGISTIC.mode[None])[0]) / len(LOGISTIC.labels), rel=1e-5
    )
