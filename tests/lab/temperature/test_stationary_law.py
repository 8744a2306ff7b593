"""The exact stationary laws against chains of torch's own SGD, in standard errors."""

import math

import numpy as np
import pytest
import torch

from gradiometer import BadArgument
from gradiometer_lab.temperature.stationary_law import (
    SGDRule,
    configurational_temperature,
    reshuffled_covariance,
    small_rate_temperature,
    stationary_covariance,
    without_replacement,
)

STANDARD_ERRORS = 4.0
CHAINS = 4_000
CURVATURE = np.array([[0.9, 0.3], [0.3, 0.4]])
EXAMPLES = np.random.default_rng(3).standard_normal((11, 2)) * [1.0, 3.0]
NOISE = np.cov(EXAMPLES.T, ddof=0)
RULES = (SGDRule(0.4, 4), SGDRule(0.2, 4, 0.7), SGDRule(0.2, 4, 0.7, nesterov=True))


def chain_covariances(rule: SGDRule, means_of_batches, steps: int, kept: int) -> np.ndarray:
    """Products of the iterates of many chains of `torch.optim.SGD` at the last steps: [kept,
    chains, 2, 2]."""
    curvature = torch.from_numpy(CURVATURE)
    position = torch.zeros(CHAINS, 2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD(
        [position], rule.learning_rate, rule.momentum, nesterov=rule.nesterov
    )
    products = []
    for step, noise in zip(range(steps), means_of_batches, strict=False):
        position.grad = position.detach() @ curvature + torch.from_numpy(noise)
        optimizer.step()
        if step >= steps - kept:
            away = position.detach().numpy()
            products.append(away[:, :, None] * away[:, None, :])
    return np.stack(products)


def standard_errors(products: np.ndarray, expected: np.ndarray) -> float:
    """The largest deviation of the mean over chains from the law, over the entries."""
    return float(
        np.abs(
            (products.mean(0) - expected) / (products.std(0, ddof=1) / math.sqrt(len(products)))
        ).max()
    )


def independent_draws(batch_size: int, seed: int):
    draw = np.random.default_rng(seed)
    while True:
        yield EXAMPLES[draw.integers(11, size=(CHAINS, batch_size))].mean(1) - EXAMPLES.mean(0)


def all_different(batch_size: int, seed: int):
    draw = np.random.default_rng(seed)
    while True:
        yield EXAMPLES[draw.random((CHAINS, 11)).argsort(1)[:, :batch_size]].mean(
            1
        ) - EXAMPLES.mean(0)


def epochs(batch_size: int, seed: int):
    draw = np.random.default_rng(seed)
    while True:
        order = draw.random((CHAINS, 11)).argsort(1)
        for start in range(0, 11, batch_size):
            yield EXAMPLES[order[:, start : start + batch_size]].mean(1) - EXAMPLES.mean(0)


@pytest.mark.parametrize("rule", RULES, ids=["plain", "heavy ball", "nesterov"])
def test_the_law_of_independent_draws_is_that_of_torch(rule: SGDRule) -> None:
    products = chain_covariances(rule, independent_draws(4, 1), steps=150, kept=1)
    expected = stationary_covariance(CURVATURE, NOISE, rule)
    assert standard_errors(products[0], expected) < STANDARD_ERRORS
    losses = (products[0] * CURVATURE).sum((1, 2)) / 2
    assert abs(
        losses.mean() - np.sum(CURVATURE * expected) / 2
    ) < STANDARD_ERRORS * losses.std() / math.sqrt(CHAINS)


def test_batches_without_replacement_are_colder_by_their_factor() -> None:
    rule = SGDRule(0.4, 4)
    products = chain_covariances(rule, all_different(4, 2), steps=100, kept=1)
    expected = stationary_covariance(CURVATURE, NOISE * without_replacement(4, 11), rule)
    assert standard_errors(products[0], expected) < STANDARD_ERRORS
    assert standard_errors(products[0], stationary_covariance(CURVATURE, NOISE, rule)) > 8


@pytest.mark.parametrize("rule", RULES, ids=["plain", "heavy ball", "nesterov"])
def test_the_law_of_reshuffled_epochs_is_that_of_torch_at_every_position_in_an_epoch(
    rule: SGDRule,
) -> None:
    products = chain_covariances(rule, epochs(4, 3), steps=3 * 60, kept=3)  # batches of 4, 4 and 3
    for place in range(3):
        expected = reshuffled_covariance(CURVATURE, NOISE, rule, 11, batches=place + 1)
        assert standard_errors(products[place], expected) < STANDARD_ERRORS, place
    over_an_epoch = np.mean(
        [reshuffled_covariance(CURVATURE, NOISE, rule, 11, batches=k) for k in range(3)], axis=0
    )
    np.testing.assert_allclose(reshuffled_covariance(CURVATURE, NOISE, rule, 11), over_an_epoch)
    first, last = (
        reshuffled_covariance(CURVATURE, NOISE, rule, 11, batches=place) for place in (0, 3)
    )
    np.testing.assert_allclose(first, last, rtol=1e-10)


@pytest.mark.parametrize(("rate", "times"), [(0.5, 1.01), (0.05, 1.24), (0.005, 13.1)])
def test_at_batch_size_one_reshuffling_has_its_closed_form(rate: float, times: float) -> None:
    one, weights = np.eye(1), (1 - rate) ** np.arange(200)
    spread = (weights @ weights - weights.sum() ** 2 / 200) / (1 - (1 - rate) ** 400)
    found = reshuffled_covariance(one, one, SGDRule(rate, 1), 200, batches=200)[0, 0]
    assert found == pytest.approx(rate**2 * 200 / 199 * spread, rel=1e-9)
    assert stationary_covariance(one, one, SGDRule(rate, 1))[0, 0] / found == pytest.approx(
        times, rel=0.005
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_variance_of_one_mode_has_its_closed_form(momentum: float) -> None:
    for rate in (1e-4, 0.3, 1.9):
        rule = SGDRule(rate, 8, momentum)
        solved = stationary_covariance(np.array([[0.7]]), np.array([[3.0]]), rule)[0, 0]
        friction = 0.7 * (1 - momentum) * (2 * (1 + momentum) - rate * 0.7)
        assert solved == pytest.approx(rate * 3.0 * (1 + momentum) / (8 * friction), rel=1e-9)


@pytest.mark.parametrize(
    "rule", [SGDRule(1e-4, 4), SGDRule(1e-4, 4, 0.9), SGDRule(1e-4, 4, 0.9, nesterov=True)]
)
def test_at_a_small_rate_the_temperature_is_the_limit_formula(rule: SGDRule) -> None:
    temperature = configurational_temperature(
        CURVATURE, stationary_covariance(CURVATURE, NOISE, rule)
    )
    assert temperature == pytest.approx(small_rate_temperature(np.trace(NOISE), 2, rule), rel=2e-3)
    assert rule.heat == pytest.approx(1e-4 / (8 * (1 - rule.momentum)))


NAN = math.nan


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SGDRule(-0.1, 4), "`learning_rate` must be positive and finite, got -0.1"),
        (lambda: SGDRule(NAN, 4), "`learning_rate` must be positive and finite, got nan"),
        (lambda: SGDRule(0.1, 0), "`batch_size` must be at least 1, got 0"),
        (lambda: SGDRule(0.1, 4, NAN), "`momentum` must be at least 0 and below 1, got nan"),
        (
            lambda: stationary_covariance(-np.eye(1), np.eye(1), SGDRule(0.1, 4)),
            "`curvature` must be positive and finite",
        ),
        (
            lambda: stationary_covariance(np.eye(1), np.eye(1), SGDRule(2.0, 4)),
            r"2\(1 \+ momentum\)/sharpness = 2, got 2.0",
        ),
        (
            lambda: stationary_covariance(
                np.eye(1), np.eye(1), SGDRule(1.4, 4, 0.9, nesterov=True)
            ),
            r"2\(1 \+ momentum\)/\(\(1 \+ 2 momentum\) sharpness\) = 1.357, got 1.4",
        ),
        (
            lambda: stationary_covariance(np.eye(2), np.eye(1), RULES[0]),
            r"`noise` must be of shape \[2, 2\], got \[1, 1\]",
        ),
        (
            lambda: stationary_covariance(np.eye(1), np.array([[NAN]]), RULES[0]),
            "`noise` must be finite and symmetric",
        ),
    ],
)
def test_arguments_without_a_stationary_law_are_named(build, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        build()
