"""Scores of ensembles against their peers, and calibration errors whose intervals cover."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from torch.nn import functional as F  # noqa: N812

from gradiometer import BadArgument
from gradiometer.exploration.ensembles import Predictions, averaged, differences, validation_mask
from gradiometer.exploration.ensembles.scores import (
    at_temperature,
    calibration_difference,
    calibration_error,
    check_predictions,
    fitted_temperature,
    reliability,
    scores,
    squared_gaps,
)
from made_up import made_up


def test_error_log_loss_and_brier_score_are_those_of_scikit_learn() -> None:
    predicted, labels = made_up(0)
    found = scores(Predictions(predicted, labels, 1.3))
    probabilities = np.exp(predicted)
    assert found["error"].value == pytest.approx(1 - accuracy_score(labels, predicted.argmax(1)))
    assert found["nll"].value == pytest.approx(log_loss(labels, probabilities))
    assert found["brier"].value == pytest.approx(
        brier_score_loss(labels, probabilities, scale_by_half=False)
    )
    calibrated = torch.tensor(predicted).div(1.3).softmax(1).numpy()
    assert found["calibrated_nll"].value == pytest.approx(log_loss(labels, calibrated))
    assert all(estimate.low <= estimate.value < estimate.high for estimate in found.values())


@pytest.mark.slow
def test_the_debiased_calibration_error_of_equal_bins_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.classification.calibration_error import _ce_compute

    generator = np.random.default_rng(0)
    places = generator.integers(0, 10, 600)
    confidence = (places + 0.5) / 10  # one confidence a bin: then the two corrections are the same
    found = (generator.random(600) < confidence - 0.05).astype(float)
    whole, _ = squared_gaps(confidence - found, places)
    peer = _ce_compute(
        torch.tensor(confidence),
        torch.tensor(found),
        torch.linspace(0, 1, 11, dtype=torch.float64),
        "l2",
        debias=True,
    )
    assert math.sqrt(whole.sum() / 600) == pytest.approx(float(peer))


def test_the_slope_of_the_log_loss_is_zero_at_the_fitted_temperature() -> None:
    predicted, labels = made_up(1, examples=20_000, sharpness=2.0)
    temperature = fitted_temperature(predicted, labels)
    # 20,000 examples: a standard error of about 0.02
    assert temperature == pytest.approx(2.0, abs=0.1)
    inverse = torch.tensor(1 / temperature, dtype=torch.float64, requires_grad=True)
    F.cross_entropy(torch.tensor(predicted) * inverse, torch.tensor(labels)).backward()
    assert abs(inverse.grad) < 1e-4


def test_the_temperature_comes_from_other_examples_than_those_scored() -> None:
    predicted, labels = made_up(2, sharpness=3.0)
    validation = validation_mask(len(labels))
    changed = labels.copy()
    changed[~validation] = (labels[~validation] + 1) % 4
    first, second = (Predictions.split(predicted, given, validation) for given in (labels, changed))
    assert (
        first.temperature
        == second.temperature
        == fitted_temperature(predicted[validation], labels[validation])
    )
    assert len(first.labels) == (~validation).sum() == 300
    assert not np.array_equal(first.losses["calibrated_nll"], second.losses["calibrated_nll"])


def test_averages_are_those_of_probabilities() -> None:
    parts = [made_up(seed)[0] for seed in range(3)]
    np.testing.assert_allclose(np.exp(averaged(parts)), np.mean(np.exp(parts), axis=0))
    np.testing.assert_allclose(np.exp(at_temperature(parts[0], 2.0)).sum(1), 1)


def test_a_paired_difference_is_far_narrower_than_the_scores() -> None:
    predicted, labels = made_up(3, examples=1000)
    other = log_softmax(
        predicted + 0.1 * np.random.default_rng(0).standard_normal(predicted.shape), axis=1
    )
    first, second = Predictions(predicted, labels), Predictions(other, labels)
    one, two, difference = scores(first), scores(second), differences(first, second)
    for name, estimate in difference.items():
        assert estimate.value == pytest.approx(one[name].value - two[name].value, abs=1e-12)
        assert estimate.low <= estimate.value <= estimate.high
    assert difference["nll"].high - difference["nll"].low < 0.3 * (one["nll"].high - one["nll"].low)
    same = differences(first, first)
    # never differing on 1,000 examples is no proof of equality
    assert same["error"].low < 0 < same["error"].high
    with pytest.raises(BadArgument, match="must have the same labels"):
        differences(first, Predictions(predicted, (labels + 1) % 4))


@pytest.mark.parametrize(
    ("predicted", "labels", "words"),
    [
        (
            np.zeros((3, 2)),
            np.zeros(3, int),
            "example 0 must sum to a probability of 1, got 2: take the log_softmax",
        ),
        (np.full((3, 2), np.nan), np.zeros(3, int), "must sum to a probability of 1, got nan"),
        (
            np.log(np.full((3, 2), 0.5)),
            np.array([0, 1, 2]),
            "between 0 and 1, the predicted classes",
        ),
        (
            np.array([[0.0, -np.inf]] * 2),
            np.array([0, 1]),
            "example 1 give its label a probability of 0",
        ),
        (
            np.log(np.full((3, 2), 0.5)),
            np.array([0, 1]),
            "and `labels` .examples., got .3, 2. and .2.",
        ),
    ],
)
def test_bad_log_probabilities_and_labels_are_refused(
    predicted: np.ndarray, labels: np.ndarray, words: str
) -> None:
    with pytest.raises(BadArgument, match=words):
        check_predictions(predicted, labels)


def confident(
    generator: np.random.Generator, examples: int, gap: float
) -> tuple[np.ndarray, np.ndarray]:
    """Two classes, the first predicted with a confidence of 0.6 to 0.95, and right that often less
    the gap."""
    confidence = generator.uniform(0.6, 0.95, examples)
    labels = (generator.random(examples) >= confidence - gap).astype(int)
    return np.log(np.stack([confidence, 1 - confidence], axis=1)), labels


@pytest.mark.parametrize("gap", [0.0, 0.05])
def test_the_square_of_the_calibration_error_has_no_bias(gap: float) -> None:
    generator, found = np.random.default_rng(0), []
    places = np.arange(300) * 15 // 300
    for _ in range(1500):
        predicted, labels = confident(generator, 300, gap)
        order = np.argsort(predicted[:, 0])
        gaps = np.exp(predicted[order, 0]) - (labels[order] == 0)
        found.append(squared_gaps(gaps, places)[0].sum() / 300)
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - gap**2) < 4 * error
    assert error < 0.0005  # the plain estimate is 15·0.17/300 = 0.0085 too large, and would be seen


@pytest.mark.parametrize(("gap", "least"), [(0.0, 0.9), (0.04, 0.85), (0.1, 0.85)])
def test_the_interval_of_the_calibration_error_covers(gap: float, least: float) -> None:
    generator, covered = np.random.default_rng(1), []
    for _ in range(400):
        predicted, labels = confident(generator, 1000, gap)
        estimate = calibration_error(predicted, labels, level=0.9)
        covered.append(estimate.low <= gap <= estimate.high)
    assert np.mean(covered) > least  # 0.9 less three standard errors of 0.015 is 0.855


def test_the_interval_of_a_difference_in_calibration_covers() -> None:
    generator, covered = np.random.default_rng(2), []
    for _ in range(400):
        predicted, labels = confident(generator, 1000, 0.1)
        # right 0.05 less often than it says, where the first is 0.1 off
        surer = np.exp(predicted[:, 0]) - 0.05
        other = np.log(np.stack([surer, 1 - surer], axis=1))
        estimate = calibration_difference(predicted, other, labels)
        covered.append(estimate.low <= 0.05 <= estimate.high)
    assert np.mean(covered) > 0.85


def certain(generator: np.random.Generator, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Two classes, the first predicted with a confidence of 0.97 to 1, and right in 97 %."""
    confidence = generator.uniform(0.97, 1, examples)
    labels = (generator.random(examples) < 0.03).astype(int)
    return np.log(np.stack([confidence, 1 - confidence], axis=1)), labels


@pytest.mark.parametrize("examples", [100, 270])
def test_scores_cover_if_few_predictions_are_wrong(examples: int) -> None:
    """Three to eight are wrong, and the mean of their losses is too small as often as too large."""
    generator, covered = np.random.default_rng(3), []
    known, _ = certain(generator, 200_000)
    nll = -(known @ [0.97, 0.03]).mean()
    gaps = np.array_split(np.sort(np.exp(known[:, 0])) - 0.97, 15)
    gap = math.sqrt(np.mean([part.mean() ** 2 for part in gaps]))
    brier = (2 * np.exp(2 * known) @ [0.03, 0.97]).mean()
    for _ in range(400):
        found = scores(Predictions(*certain(generator, examples)))
        pairs = [(found["nll"], nll), (found["brier"], brier), (found["calibration_error"], gap)]
        covered.append([each.low <= truth <= each.high for each, truth in pairs])
    assert (np.mean(covered, axis=0) > 0.82).all(), np.mean(covered, axis=0)


def test_the_calibration_error_of_perfect_predictions_has_an_upper_end() -> None:
    predicted = np.log(np.stack([np.full(150, 1 - 1e-9), np.full(150, 1e-9)], axis=1))
    found = scores(Predictions(predicted, np.zeros(150, int)))
    assert found["calibration_error"].value < 1e-8
    assert 1 <= found["calibration_error"].high / found["error"].high < 1.6


def test_a_reliability_diagram_holds_every_example_in_bins_of_equal_numbers() -> None:
    predicted, labels = confident(np.random.default_rng(0), 1000, 0.1)
    parts = reliability(predicted, labels)
    assert sum(part.examples for part in parts) == 1000
    assert {part.examples for part in parts} <= {66, 67}
    assert [part.confidence for part in parts] == sorted(part.confidence for part in parts)
    total = sum(part.examples * part.accuracy.value for part in parts)
    assert total == pytest.approx((labels == 0).sum())
    with pytest.raises(
        BadArgument, match="`labels` must be of at least 45 examples, 15 bins of 3, got 40"
    ):
        reliability(predicted[:40], labels[:40])
