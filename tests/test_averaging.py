"""Averages of iterates: their weights, their covariance on a quadratic, and BatchNorm's statistics made anew."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn, update_bn

from gradiometer import BadArgument
from gradiometer.convergence import exponential, polynomial, refresh_batch_norm, suffix, uniform
from gradiometer.convergence.averaging import MultiAverage
from gradiometer.lab.closed_forms import Quadratic

STEPS = 60


def weights_of(average: MultiAverage, updates: int = STEPS) -> np.ndarray:
    """The weight each iterate ends with, read off by averaging unit vectors."""
    model = nn.Module()
    model.register_parameter("position", nn.Parameter(torch.zeros(updates, dtype=torch.float64)))
    averaged = AveragedModel(model, multi_avg_fn=average)
    for step in range(updates):
        model.position.data = torch.eye(updates, dtype=torch.float64)[step]
        averaged.update_parameters(model)
    return averaged.module.position.detach().numpy()


def expected(name: str) -> np.ndarray:
    t = np.arange(1, STEPS + 1, dtype=float)
    match name:
        case "uniform":
            weights = np.ones(STEPS)
        case "suffix":
            weights = np.where(t > 45, 1.0, 0.0)
        case "exponential":
            weights = 0.9 ** (STEPS - t)
        case _:  # product of all later 1 − 4/(t + 3), by its closed form: growing as t(t + 1)(t + 2)
            weights = t * (t + 1) * (t + 2)
    return weights / weights.sum()


AVERAGES = {
    "uniform": uniform,
    "suffix": lambda: suffix(STEPS, 0.25),
    "exponential": lambda: exponential(0.9),
    "polynomial": lambda: polynomial(3),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_every_iterate_has_the_weight_given_in_the_paper(name: str) -> None:
    weights = weights_of(AVERAGES[name]())
    np.testing.assert_allclose(weights, expected(name), atol=1e-14)


def test_the_uniform_average_is_torchs_own() -> None:
    np.testing.assert_allclose(weights_of(uniform()), weights_of(get_swa_multi_avg_fn()), atol=1e-14)


@pytest.mark.parametrize("name", AVERAGES)
def test_the_averaged_iterate_of_a_quadratic_has_the_covariance_of_its_weights(name: str) -> None:
    """In standard errors over chains: of every entry of the covariance, √(S_ii S_jj + S_ij²)/√chains."""
    quadratic, rate, batch_size, chains = Quadratic([1.0, 0.3], [[1.0, 0.4], [0.4, 0.5]]), 0.5, 4, 4000
    iterates = quadratic.simulate([rate] * STEPS, chains=chains, batch_size=batch_size, seed=3)[1:]
    covariance = averaged_over(iterates, AVERAGES[name]())
    # Φ_t = −η Σ_s ρ^(t−1−s) ζ_s in every mode, from the minimum on.
    decay = 1 - rate * np.array([1.0, 0.3])
    ages = np.subtract.outer(np.arange(STEPS), np.arange(STEPS))
    response = np.where(ages >= 0, decay[:, None, None] ** np.maximum(ages, 0), 0.0)
    kicks = rate * np.einsum("t,mts->ms", expected(name), response)
    predicted = kicks @ kicks.T * np.array([[1.0, 0.4], [0.4, 0.5]]) / batch_size
    assert_within_errors(covariance, predicted, chains)


def test_the_covariance_of_the_uniform_average_tends_to_that_of_the_best_estimator() -> None:
    """H⁻¹ΣH⁻¹/(Bt), whatever the learning rate: within standard errors at t = 4,000, where its own error is 1 %."""
    noise = np.array([[1.0, 0.4], [0.4, 0.5]])
    quadratic, steps, chains, batch_size = Quadratic([1.0, 0.3], noise), 4000, 500, 4
    limit = noise / np.outer([1.0, 0.3], [1.0, 0.3]) / (batch_size * steps)
    for rate in (0.2, 1.0):
        iterates = quadratic.simulate([rate] * steps, chains=chains, batch_size=batch_size, seed=1)[1:]
        assert_within_errors(averaged_over(iterates, uniform()), limit, chains)


def averaged_over(iterates: np.ndarray, average: MultiAverage) -> np.ndarray:
    """The covariance over chains of the average that torch's `AveragedModel` keeps of all of them at once."""
    model = nn.Module()
    model.register_parameter("position", nn.Parameter(torch.zeros(iterates.shape[1:], dtype=torch.float64)))
    averaged = AveragedModel(model, multi_avg_fn=average)
    for positions in iterates:
        model.position.data = torch.from_numpy(positions)
        averaged.update_parameters(model)
    points = averaged.module.position.detach().numpy()
    return points.T @ points / len(points)  # about the minimum, where every chain started


def assert_within_errors(covariance: np.ndarray, predicted: np.ndarray, chains: int) -> None:
    spread = np.diag(predicted)
    errors = np.sqrt((np.outer(spread, spread) + predicted**2) / chains)
    assert (np.abs(covariance - predicted) < 3.5 * errors).all(), (covariance - predicted) / errors


def test_integer_buffers_are_copied_from_the_newest_model() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    averaged = AveragedModel(model, multi_avg_fn=uniform(), use_buffers=True)
    for _ in range(5):
        model(torch.randn(8, 3))
        averaged.update_parameters(model)
    assert averaged.module[1].num_batches_tracked == 5


class Noisy(nn.Module):
    """Two BatchNorms with Dropout between them, and a part that is frozen in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        self.drop, self.frozen = nn.Dropout(0.5), nn.Dropout(0.9)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.frozen(self.drop(self.first(inputs))))


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = 3 + torch.randn(60, 3, generator=generator).cumsum(0)
    return [values[:32], values[32:58], values[58:]]


def run(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch)


def test_refreshed_statistics_do_not_depend_on_the_division_into_batches() -> None:
    model, every = Noisy(), torch.cat(batches())
    refresh_batch_norm(model, batches(), run)
    torch.testing.assert_close(model.first.running_mean, every.mean(0))
    torch.testing.assert_close(model.first.running_var, every.var(0))
    assert model.first.num_batches_tracked == 3
    peer = Noisy()
    update_bn(batches(), peer)
    assert (peer.first.running_var / every.var(0)).max() < 0.8, "torch's own misses what differs between batches"


def test_convolutional_statistics_are_those_of_every_pixel() -> None:
    model, images = nn.Sequential(nn.BatchNorm2d(2)), torch.randn(10, 2, 5, 4) * 3 + 1
    refresh_batch_norm(model, [images[:7], images[7:]], run)
    torch.testing.assert_close(model[0].running_mean, images.mean((0, 2, 3)))
    torch.testing.assert_close(model[0].running_var, images.var((0, 2, 3)))


def test_refreshing_keeps_every_mode_and_random_state_and_runs_dropout_as_at_inference() -> None:
    model = Noisy()
    model.frozen.eval()
    before, modes = torch.get_rng_state(), [module.training for module in model.modules()]
    refresh_batch_norm(model, batches(), run)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert (model.second.running_var <= 1.1).all(), "Dropout of one half would double the variance"
    assert model.first.momentum == 0.1 and model.first.track_running_stats


def test_a_refresh_that_fails_leaves_the_statistics_as_they_were() -> None:
    model = Noisy()
    for wrong, message in (
        ([*batches(), torch.ones(1, 3)], "at least two examples each"),
        ([], "`batches` must not be empty"),
    ):
        with pytest.raises(BadArgument, match=message):
            refresh_batch_norm(model, wrong, run)
        assert torch.equal(model.first.running_mean, torch.zeros(3)) and model.first.num_batches_tracked == 0
        assert model.first.track_running_stats and model.training


def test_a_model_without_batch_norm_is_left_alone() -> None:
    refresh_batch_norm(nn.Linear(3, 3), [], run)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: suffix(0), "`updates` must be at least 1, got 0"),
        (lambda: suffix(10, 0.0), "`share` must be above 0 and at most 1, got 0.0"),
        (lambda: suffix(10, math.nan), "`share` must be above 0 and at most 1, got nan"),
        (lambda: exponential(1.0), "`decay` must be at least 0 and below 1, got 1.0"),
        (lambda: exponential(math.nan), "`decay` .* got nan"),
        (lambda: polynomial(-1), "`power` must be a number of at least 0, got -1"),
        (lambda: polynomial(math.nan), "`power` .* got nan"),
    ],
)
def test_bad_arguments_raise_and_are_named(make: object, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        make()  # type: ignore[operator]
