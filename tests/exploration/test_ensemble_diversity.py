"""Diversity of the members, error barriers between them, the gain from each, and the deep-ensemble
equivalent."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from gradiometer import BadArgument
from gradiometer.convergence import refresh_batch_norm
from gradiometer.exploration.ensembles import Predictions, averaged, disagreement, validation_mask
from gradiometer.exploration.ensembles.members import (
    between,
    chosen_count,
    correlations,
    deep_ensemble_equivalent,
    ensemble_sizes,
    linear_path,
)
from gradiometer.measurement import Estimate
from gradiometer.problems import held_out_labels, log_probabilities
from gradiometer.problems.images.digits import load
from made_up import made_up


def test_disagreement_is_that_of_pairs_over_the_error_of_members() -> None:
    parts, labels = [made_up(seed)[0] for seed in range(3)], made_up(0)[1]
    pairs = [
        (one.argmax(1) != other.argmax(1)).mean() for one, other in itertools.combinations(parts, 2)
    ]
    wrong = np.mean([(part.argmax(1) != labels).mean() for part in parts])
    estimate = disagreement(parts, labels)
    assert estimate.value == pytest.approx(np.mean(pairs) / wrong)
    assert estimate.low < estimate.value < estimate.high
    assert disagreement([parts[0], parts[0]], labels).value == 0
    with pytest.raises(BadArgument, match="at least 2, got 1"):
        disagreement(parts[:1], labels)


def test_correlations_are_those_of_numpy_and_their_interval_is_the_jackknife() -> None:
    parts = [made_up(seed, examples=60)[0] for seed in range(2)]
    parts.append(log_softmax(parts[0] + 0.5 * parts[1], axis=1))
    found = correlations(parts)
    assert list(found) == ["1-2", "1-3", "2-3"]
    for pair, estimate in found.items():
        flat = [np.exp(parts[int(number) - 1]).ravel() for number in pair.split("-")]
        assert estimate.value == pytest.approx(np.corrcoef(*flat)[0, 1])
    first, last = np.exp(parts[0]), np.exp(parts[2])
    kept = [np.delete(np.arange(60), place) for place in range(60)]
    left_out = np.arctanh([np.corrcoef(first[k].ravel(), last[k].ravel())[0, 1] for k in kept])
    error = math.sqrt(59 / 60 * ((left_out - left_out.mean()) ** 2).sum())
    assert math.atanh(found["1-3"].high) - math.atanh(found["1-3"].value) == pytest.approx(
        1.6448536 * error, rel=1e-6
    )
    assert correlations([parts[0], parts[0]])["1-2"].value == 1


def test_a_copy_has_no_barrier_and_a_permuted_network_has_one() -> None:
    torch.manual_seed(0)
    problem = load("mlp")
    model = problem.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for step in range(150):
        batch = problem.train.batch(torch.arange(64) + 64 * (step % 22))
        optimizer.zero_grad()
        problem.loss(model, batch).mean().backward()
        optimizer.step()
    permuted, order = copy.deepcopy(model), torch.randperm(64)
    with torch.no_grad():
        permuted.hidden.weight.copy_(model.hidden.weight[order])
        permuted.hidden.bias.copy_(model.hidden.bias[order])
        permuted.head.weight.copy_(model.head.weight[:, order])
    labels, device = held_out_labels(problem), torch.device("cpu")

    def wrong(model: nn.Module) -> np.ndarray:
        return log_probabilities(problem, model, device).argmax(1) != labels

    np.testing.assert_array_equal(wrong(model), wrong(permuted))
    flat, hill = (
        linear_path(model, copy.deepcopy(model), wrong),
        linear_path(model, permuted, wrong),
    )
    assert flat.barrier.value == 0
    assert flat.barrier.low < 0 < flat.barrier.high < 0.05
    assert hill.barrier.low > 0.005
    middle = hill.errors[5].value
    assert hill.barrier.value >= middle - (hill.errors[0].value + hill.errors[-1].value) / 2 > 0
    assert hill.shares[5] == 0.5


def test_between_two_models_batch_norm_is_re_estimated_and_the_ends_do_not_change() -> None:
    torch.manual_seed(0)
    first, last = (
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)) for _ in range(2)
    )
    inputs, seen = torch.randn(50, 3), []

    def wrong(model: nn.Module) -> np.ndarray:
        seen.append(copy.deepcopy(model))
        return np.zeros(50, dtype=bool)

    before = [copy.deepcopy(model.state_dict()) for model in (first, last)]
    linear_path(
        first,
        last,
        wrong,
        points=3,
        refresh=lambda m: refresh_batch_norm(m, [inputs], lambda m, batch: m(batch)),
    )
    weight = 0.75 * first[0].weight + 0.25 * last[0].weight
    torch.testing.assert_close(seen[1][0].weight, weight)
    torch.testing.assert_close(seen[1][1].running_mean, seen[1][0](inputs).mean(0))
    for state, model in zip(before, (first, last), strict=True):
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    assert between(first, last, 0.5)[1].num_batches_tracked == first[1].num_batches_tracked
    with pytest.raises(BadArgument, match="`points` must be at least 1, got 0"):
        linear_path(first, last, wrong, points=0)


def noisy(seed: int, noise: float, examples: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """The truth's log-probabilities with independent noise for each member, and labels drawn from
    the truth."""
    truth, labels = made_up(0, examples=examples)
    draws = np.random.default_rng(seed + 1)
    return log_softmax(truth + noise * draws.standard_normal(truth.shape), axis=1), labels


def test_each_member_with_independent_noise_adds_less_than_the_one_before() -> None:
    members, labels = [noisy(seed, 1.0)[0] for seed in range(4)], noisy(0, 1.0)[1]
    sizes = ensemble_sizes(members, labels, validation_mask(len(labels)))
    added = [size.added["calibrated_nll"] for size in sizes[1:]]
    assert [size.members for size in sizes] == [1, 2, 3, 4]
    assert sizes[0].added == {}
    assert all(estimate.high < 0 for estimate in added)
    assert [estimate.value for estimate in added] == sorted(estimate.value for estimate in added)
    assert chosen_count(members, labels) == 4


def test_an_early_member_that_hurts_is_left_out() -> None:
    labels = noisy(0, 1.0)[1]
    members = [noisy(9, 12.0)[0], *(noisy(seed, 0.5)[0] for seed in range(3))]
    assert chosen_count(members, labels) == 3


def test_the_deep_ensemble_equivalent_is_the_number_of_runs_with_the_same_loss() -> None:
    runs, labels = [noisy(seed, 1.0)[0] for seed in range(4)], noisy(0, 1.0)[1]
    validation = validation_mask(len(labels))

    def equivalent(found: np.ndarray) -> tuple[float, float, float]:
        predictions = Predictions.split(found, labels, validation)
        estimate = deep_ensemble_equivalent(predictions, runs, labels, validation)
        return estimate.low, estimate.value, estimate.high

    two = equivalent(averaged([noisy(20, 1.0)[0], noisy(21, 1.0)[0]]))
    assert two[0] < 2 < two[2]
    assert 1 < two[0] < two[2] < 4
    assert equivalent(noisy(22, 3.0)[0]) == (1, 1, 1)
    assert equivalent(noisy(23, 0.0)[0])[1] == math.inf


def drawn(generator: np.random.Generator, examples: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Examples of a population, and the predictions of six members, each a fixed function of the
    example."""
    truth = 1.5 * generator.standard_normal((examples, 4))
    chances = np.exp(log_softmax(truth, axis=1))
    labels = (chances.cumsum(1) < generator.random((examples, 1))).sum(1).clip(max=3)
    members = []
    for member in range(6):
        own = np.random.default_rng(member)
        ripple = np.sin(2 * truth @ own.standard_normal((4, 4)) + own.uniform(0, 6, 4))
        members.append(log_softmax(truth + ripple, axis=1))
    return members, labels


@pytest.mark.nightly
def test_the_intervals_of_disagreement_correlation_and_equivalent_cover() -> None:
    def found(members: list[np.ndarray], labels: np.ndarray) -> list[Estimate]:
        validation = validation_mask(len(labels))
        two = Predictions.split(averaged(members[:2]), labels, validation)
        three = Predictions.split(
            averaged([members[0], members[0], members[1]]), labels, validation
        )
        return [
            disagreement(members[:3], labels),
            correlations(members[:2])["1-2"],
            deep_ensemble_equivalent(two, members[2:], labels, validation),
            deep_ensemble_equivalent(three, members[2:], labels, validation),
        ]

    truth = [estimate.value for estimate in found(*drawn(np.random.default_rng(10_000), 100_000))]
    assert 1 < truth[3] < truth[2] < 4
    covered = []
    for seed in range(200):
        estimates = found(*drawn(np.random.default_rng(seed), 800))
        covered.append(
            [e.low <= value <= e.high for e, value in zip(estimates, truth, strict=True)]
        )
    shares = np.mean(covered, axis=0)
    assert (shares > 0.83).all(), shares  # 0.9 less three standard errors of 0.021 is 0.836
    assert (shares < 0.97).all(), shares
