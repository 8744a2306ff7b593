"""Ensembles: the average as a module and as a file, scores against their peers, intervals that cover, the verb."""

import copy
import itertools
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss
from torch import nn
from torch.nn import functional as F  # noqa: N812

from gradiometer.cli import gradiometer
from gradiometer.convergence.averaging import refresh_batch_norm
from gradiometer.diagnosis import diagnose
from gradiometer.errors import BadInput
from gradiometer.exploration.barrier import between, segment
from gradiometer.exploration.calibration import (
    calibration_difference,
    calibration_error,
    reliability,
    squared_gaps,
)
from gradiometer.exploration.diversity import correlations, disagreement
from gradiometer.exploration.ensemble import Ensemble
from gradiometer.exploration.equivalent import deep_ensemble_equivalent
from gradiometer.exploration.export import export
from gradiometer.exploration.growth import chosen_count, growing, validation_mask
from gradiometer.exploration.scores import (
    Predictions,
    at_temperature,
    averaged,
    checked,
    differences,
    fitted_temperature,
    scores,
)
from gradiometer.exploration.snapshots import Snapshot
from gradiometer.exploration.worth import Growth, Rival, Way, Worth
from gradiometer.measurement.reading import Estimate
from gradiometer.problems.digits import load
from gradiometer.problems.models import digits_cnn
from gradiometer.problems.predictions import held_out_labels, log_probabilities
from gradiometer.report.ensemble import ensemble_section
from gradiometer.report.ensembles import FILE, load_worth
from gradiometer.run.configuration import Configuration
from gradiometer.run.journal import plain, restored
from gradiometer.run.reader import Run
from gradiometer.train import train
from gradiometer.train.ensemble import study


def models(count: int = 3) -> list[nn.Module]:
    torch.manual_seed(0)
    return [digits_cnn() for _ in range(count)]


def made_up(seed: int, examples: int = 400, classes: int = 4, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities, and labels drawn from them: calibrated where `sharpness` is 1, too sure above."""
    generator = np.random.default_rng(seed)
    logits = 1.5 * generator.standard_normal((examples, classes))
    truth = np.exp(log_softmax(logits, axis=1))
    labels = (truth.cumsum(1) < generator.random((examples, 1))).sum(1).clip(max=classes - 1)
    return log_softmax(sharpness * logits, axis=1), labels


# The module


def test_an_ensemble_says_the_mean_of_its_members_probabilities() -> None:
    members, images = models(), torch.randn(7, 1, 8, 8)
    mean = sum(member(images).softmax(1) for member in members) / 3
    torch.testing.assert_close(Ensemble(members)(images), mean)
    weighted = 0.5 * members[0](images).softmax(1) + 0.125 * members[1](images).softmax(1)
    weighted = weighted + 0.375 * members[2](images).softmax(1)
    torch.testing.assert_close(Ensemble(members, weights=[4.0, 1.0, 3.0])(images), weighted)
    cooler = (mean**2) / (mean**2).sum(1, keepdim=True)
    torch.testing.assert_close(Ensemble(members, temperature=0.5)(images), cooler)
    last = (members[1](images).softmax(1) + members[2](images).softmax(1)) / 2
    torch.testing.assert_close(Ensemble(members).last(2)(images), last)


def test_a_probability_below_the_smallest_float_keeps_its_loss() -> None:
    sure = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        sure.weight.copy_(torch.tensor([[400.0], [0.0]]))
    ensemble = Ensemble([sure, copy.deepcopy(sure)])
    assert ensemble.log_probabilities(torch.ones(1, 1))[0, 1].item() == pytest.approx(-400)


@pytest.mark.parametrize(
    ("count", "settings", "words"),
    [
        (1, {}, "at least 2 models, got 1"),
        (3, {"weights": [1.0, 1.0]}, "one for each of the 3 members, got 2"),
        (2, {"weights": [1.0, math.nan]}, "finite, not negative, and not all zero"),
        (2, {"weights": [0.0, 0.0]}, "finite, not negative, and not all zero"),
        (2, {"temperature": math.nan}, "`temperature` must be positive and finite, got nan"),
    ],
)
def test_what_is_no_ensemble_is_refused(count: int, settings: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Ensemble(models(count), **settings)


def test_an_ensemble_is_made_of_snapshots_of_one_architecture() -> None:
    members = models()
    snapshots = [Snapshot.of(member, number, 10 * number) for number, member in enumerate(members, start=1)]
    made, images = Ensemble.of_snapshots(snapshots, digits_cnn()), torch.randn(4, 1, 8, 8)
    assert torch.equal(made(images), Ensemble(members)(images))
    with pytest.raises(BadInput, match="at least 2 models, got 1"):
        Ensemble.of_snapshots(snapshots[:1], digits_cnn())
    with pytest.raises(BadInput, match=r"snapshot 1 \(step 10\) is of another architecture"):
        Ensemble.of_snapshots(snapshots, load("mlp").model())
    with pytest.raises(BadInput, match="between 2 and the 3 members, got 4"):
        made.last(4)


def test_an_exported_ensemble_says_the_same_for_any_number_of_examples(tmp_path: Path) -> None:
    ensemble = Ensemble(models(), weights=[1.0, 2.0, 3.0], temperature=1.7)
    path = export(ensemble, torch.randn(4, 1, 8, 8), tmp_path / "e.pt2")
    program = torch.export.load(path).module()
    for count in (1, 2, 19):
        images = torch.randn(count, 1, 8, 8)
        torch.testing.assert_close(program(images), ensemble.eval()(images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_ensemble_in_onnx_says_the_same_to_another_runtime(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    ensemble = Ensemble(models(2)).eval()
    path = export(ensemble, torch.randn(4, 1, 8, 8), tmp_path / "e.onnx")
    runtime = reference.ReferenceEvaluator(str(path))
    for count in (1, 6):
        images = torch.randn(count, 1, 8, 8)
        (said,) = runtime.run(None, {"inputs": images.numpy()})
        np.testing.assert_allclose(said, ensemble(images).detach().numpy(), atol=1e-6)


def test_what_cannot_be_exported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Choosy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(BadInput, match=r"a file named \.pt2 \(torch\) or \.onnx, got e\.pth"):
        export(nn.Identity(), torch.zeros(2, 1), tmp_path / "e.pth")
    with pytest.raises(BadInput, match=r"the folder .* does not exist"):
        export(nn.Identity(), torch.zeros(2, 1), tmp_path / "nowhere" / "e.pt2")
    with pytest.raises(BadInput, match="at least 2 examples, got 1"):
        export(nn.Identity(), torch.zeros(1, 1), tmp_path / "e.pt2")
    with pytest.raises(BadInput, match=r"torch\.export cannot follow the model"):
        export(Choosy(), torch.ones(2, 1), tmp_path / "e.pt2")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"needs onnx and onnxscript: `pip install 'gradiometer\[export\]'`"):
        export(nn.Identity(), torch.zeros(2, 1), tmp_path / "e.onnx")
    assert not list(tmp_path.iterdir())


# Scores and their peers


def test_error_log_loss_and_brier_score_are_those_of_scikit_learn() -> None:
    said, labels = made_up(0)
    found = scores(Predictions(said, labels, 1.3))
    probabilities = np.exp(said)
    assert found["error"].value == pytest.approx(1 - accuracy_score(labels, said.argmax(1)))
    assert found["nll"].value == pytest.approx(log_loss(labels, probabilities))
    assert found["brier"].value == pytest.approx(brier_score_loss(labels, probabilities, scale_by_half=False))
    calibrated = torch.tensor(said).div(1.3).softmax(1).numpy()
    assert found["calibrated_nll"].value == pytest.approx(log_loss(labels, calibrated))
    assert all(estimate.low <= estimate.value < estimate.high for estimate in found.values())


def test_the_debiased_calibration_error_of_equal_bins_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.classification.calibration_error import _ce_compute

    generator = np.random.default_rng(0)
    places = generator.integers(0, 10, 600)
    confidence = (places + 0.5) / 10  # one confidence a bin: then the two corrections are the same
    found = (generator.random(600) < confidence - 0.05).astype(float)
    whole, _ = squared_gaps(confidence - found, places)
    peer = _ce_compute(
        torch.tensor(confidence), torch.tensor(found), torch.linspace(0, 1, 11, dtype=torch.float64), "l2", debias=True
    )
    assert math.sqrt(whole.sum() / 600) == pytest.approx(float(peer))


def test_the_fitted_temperature_is_where_the_slope_of_the_log_loss_is_zero_and_undoes_overconfidence() -> None:
    said, labels = made_up(1, examples=20_000, sharpness=2.0)
    temperature = fitted_temperature(said, labels)
    assert temperature == pytest.approx(2.0, abs=0.1)  # 20,000 examples: a standard error of about 0.02
    inverse = torch.tensor(1 / temperature, dtype=torch.float64, requires_grad=True)
    F.cross_entropy(torch.tensor(said) * inverse, torch.tensor(labels)).backward()
    assert abs(inverse.grad) < 1e-4


def test_the_temperature_comes_from_other_examples_than_those_scored() -> None:
    said, labels = made_up(2, sharpness=3.0)
    validation = validation_mask(len(labels))
    changed = labels.copy()
    changed[~validation] = (labels[~validation] + 1) % 4
    first, second = (Predictions.split(said, given, validation) for given in (labels, changed))
    assert first.temperature == second.temperature == fitted_temperature(said[validation], labels[validation])
    assert len(first.labels) == (~validation).sum() == 300
    assert not np.array_equal(first.losses["calibrated_nll"], second.losses["calibrated_nll"])


def test_the_average_of_log_probabilities_is_of_probabilities() -> None:
    parts = [made_up(seed)[0] for seed in range(3)]
    np.testing.assert_allclose(np.exp(averaged(parts)), np.mean(np.exp(parts), axis=0))
    weighted = np.average(np.exp(parts), axis=0, weights=[1, 2, 5])
    np.testing.assert_allclose(np.exp(averaged(parts, [1.0, 2.0, 5.0])), weighted)
    np.testing.assert_allclose(np.exp(at_temperature(parts[0], 2.0)).sum(1), 1)


def test_a_paired_difference_is_of_the_scores_and_far_narrower_than_they_are() -> None:
    said, labels = made_up(3, examples=1000)
    other = log_softmax(said + 0.1 * np.random.default_rng(0).standard_normal(said.shape), axis=1)
    first, second = Predictions(said, labels), Predictions(other, labels)
    one, two, difference = scores(first), scores(second), differences(first, second)
    for name, estimate in difference.items():
        assert estimate.value == pytest.approx(one[name].value - two[name].value, abs=1e-12)
        assert estimate.low <= estimate.value <= estimate.high
    assert difference["nll"].high - difference["nll"].low < 0.3 * (one["nll"].high - one["nll"].low)
    same = differences(first, first)
    assert same["error"].low < 0 < same["error"].high  # never differing on 1,000 examples is no proof of equality
    with pytest.raises(BadInput, match="have other labels"):
        differences(first, Predictions(said, (labels + 1) % 4))


@pytest.mark.parametrize(
    ("said", "labels", "words"),
    [
        (np.zeros((3, 2)), np.zeros(3, int), "add up to a probability of 2, not 1: take the log_softmax"),
        (np.full((3, 2), np.nan), np.zeros(3, int), "not 1"),
        (np.log(np.full((3, 2), 0.5)), np.array([0, 1, 2]), "between 0 and 1, the classes predicted"),
        (np.log(np.full((3, 2), 0.5)), np.array([0, 1]), "do not belong together"),
    ],
)
def test_what_are_no_log_probabilities_of_labelled_examples_is_refused(
    said: np.ndarray, labels: np.ndarray, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        checked(said, labels)


# Calibration


def confident(generator: np.random.Generator, examples: int, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Two classes, the first predicted with a confidence of 0.6 to 0.95, and right that often less the gap."""
    confidence = generator.uniform(0.6, 0.95, examples)
    labels = (generator.random(examples) >= confidence - gap).astype(int)
    return np.log(np.stack([confidence, 1 - confidence], axis=1)), labels


@pytest.mark.parametrize("gap", [0.0, 0.05])
def test_the_square_of_the_calibration_error_has_no_bias(gap: float) -> None:
    generator, found = np.random.default_rng(0), []
    places = np.arange(300) * 15 // 300
    for _ in range(1500):
        said, labels = confident(generator, 300, gap)
        order = np.argsort(said[:, 0])
        gaps = np.exp(said[order, 0]) - (labels[order] == 0)
        found.append(squared_gaps(gaps, places)[0].sum() / 300)
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - gap**2) < 4 * error
    assert error < 0.0005  # the plain estimate is 15·0.17/300 = 0.0085 too large, and would be seen


@pytest.mark.parametrize(("gap", "least"), [(0.0, 0.9), (0.04, 0.85), (0.1, 0.85)])
def test_the_interval_of_the_calibration_error_covers(gap: float, least: float) -> None:
    generator, covered = np.random.default_rng(1), []
    for _ in range(400):
        said, labels = confident(generator, 1000, gap)
        estimate = calibration_error(said, labels, level=0.9)
        covered.append(estimate.low <= gap <= estimate.high)
    assert np.mean(covered) > least  # 0.9 less three standard errors of 0.015 is 0.855


def test_the_interval_of_a_difference_in_calibration_covers() -> None:
    generator, covered = np.random.default_rng(2), []
    for _ in range(400):
        said, labels = confident(generator, 1000, 0.1)
        surer = np.exp(said[:, 0]) - 0.05  # right 0.05 less often than it says, where the first is 0.1 off
        other = np.log(np.stack([surer, 1 - surer], axis=1))
        estimate = calibration_difference(said, other, labels)
        covered.append(estimate.low <= 0.05 <= estimate.high)
    assert np.mean(covered) > 0.85


def test_a_reliability_diagram_holds_every_example_in_bins_of_equal_numbers() -> None:
    said, labels = confident(np.random.default_rng(0), 1000, 0.1)
    parts = reliability(said, labels)
    assert sum(part.examples for part in parts) == 1000
    assert {part.examples for part in parts} <= {66, 67}
    assert [part.confidence for part in parts] == sorted(part.confidence for part in parts)
    total = sum(part.examples * part.accuracy.value for part in parts)
    assert total == pytest.approx((labels == 0).sum())
    with pytest.raises(BadInput, match="15 bins need at least 45 examples, got 40"):
        reliability(said[:40], labels[:40])


# Diversity


def test_disagreement_is_that_of_pairs_over_the_error_of_members() -> None:
    parts, labels = [made_up(seed)[0] for seed in range(3)], made_up(0)[1]
    pairs = [(one.argmax(1) != other.argmax(1)).mean() for one, other in itertools.combinations(parts, 2)]
    wrong = np.mean([(part.argmax(1) != labels).mean() for part in parts])
    estimate = disagreement(parts, labels)
    assert estimate.value == pytest.approx(np.mean(pairs) / wrong)
    assert estimate.low < estimate.value < estimate.high
    assert disagreement([parts[0], parts[0]], labels).value == 0
    with pytest.raises(BadInput, match="at least 2, got 1"):
        disagreement(parts[:1], labels)


def test_correlations_are_numpys_over_all_outputs_and_their_jackknife_is_the_plain_one() -> None:
    parts = [made_up(seed, examples=60)[0] for seed in range(2)]
    parts.append(log_softmax(parts[0] + 0.5 * parts[1], axis=1))
    found = correlations(parts)
    for (one, other), estimate in found.items():
        flat = np.exp(parts[one]).ravel(), np.exp(parts[other]).ravel()
        assert estimate.value == pytest.approx(np.corrcoef(*flat)[0, 1])
    first, last = np.exp(parts[0]), np.exp(parts[2])
    kept = [np.delete(np.arange(60), place) for place in range(60)]
    left_out = np.arctanh([np.corrcoef(first[k].ravel(), last[k].ravel())[0, 1] for k in kept])
    error = math.sqrt(59 / 60 * ((left_out - left_out.mean()) ** 2).sum())
    assert math.atanh(found[0, 2].high) - math.atanh(found[0, 2].value) == pytest.approx(1.6448536 * error, rel=1e-6)
    assert correlations([parts[0], parts[0]])[0, 1].value == 1


def test_a_copy_has_no_barrier_and_a_permuted_network_has_one_although_it_is_the_same_function() -> None:
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
    flat, hill = segment(model, copy.deepcopy(model), wrong), segment(model, permuted, wrong)
    assert flat.barrier.value == 0
    assert flat.barrier.low < 0 < flat.barrier.high < 0.05
    assert hill.barrier.low > 0.005
    middle = hill.errors[5].value
    assert hill.barrier.value >= middle - (hill.errors[0].value + hill.errors[-1].value) / 2 > 0
    assert hill.shares[5] == 0.5


def test_between_two_models_batch_norm_is_estimated_anew_and_the_ends_are_left_alone() -> None:
    torch.manual_seed(0)
    first, last = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)) for _ in range(2))
    inputs, seen = torch.randn(50, 3), []

    def wrong(model: nn.Module) -> np.ndarray:
        seen.append(copy.deepcopy(model))
        return np.zeros(50, dtype=bool)

    before = [copy.deepcopy(model.state_dict()) for model in (first, last)]
    segment(first, last, wrong, points=3, refresh=lambda m: refresh_batch_norm(m, [inputs], lambda m, batch: m(batch)))
    weight = 0.75 * first[0].weight + 0.25 * last[0].weight
    torch.testing.assert_close(seen[1][0].weight, weight)
    torch.testing.assert_close(seen[1][1].running_mean, seen[1][0](inputs).mean(0))
    for state, model in zip(before, (first, last), strict=True):
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    assert between(first, last, 0.5)[1].num_batches_tracked == first[1].num_batches_tracked
    with pytest.raises(BadInput, match="`points` must be at least 1, got 0"):
        segment(first, last, wrong, points=0)


# Growing, choosing, and what it is worth


def noisy(seed: int, noise: float, examples: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """The truth's log-probabilities with noise of a member's own, and labels drawn from the truth."""
    truth, labels = made_up(0, examples=examples)
    draws = np.random.default_rng(seed + 1)
    return log_softmax(truth + noise * draws.standard_normal(truth.shape), axis=1), labels


def test_members_with_noise_of_their_own_each_add_something_less_every_time() -> None:
    members, labels = [noisy(seed, 1.0)[0] for seed in range(4)], noisy(0, 1.0)[1]
    sizes = growing(members, labels, validation_mask(len(labels)))
    added = [size.added["calibrated_nll"] for size in sizes[1:]]
    assert [size.count for size in sizes] == [1, 2, 3, 4]
    assert sizes[0].added == {}
    assert all(estimate.high < 0 for estimate in added)
    assert [estimate.value for estimate in added] == sorted(estimate.value for estimate in added)
    assert chosen_count(members, labels) == 4


def test_an_early_member_that_hurts_is_left_out() -> None:
    labels = noisy(0, 1.0)[1]
    members = [noisy(9, 12.0)[0], *(noisy(seed, 0.5)[0] for seed in range(3))]
    assert chosen_count(members, labels) == 3
    with pytest.raises(BadInput, match="at least 2, got 1"):
        chosen_count(members[:1], labels)


def test_an_ensemble_is_worth_as_many_runs_as_reach_its_loss() -> None:
    runs, labels = [noisy(seed, 1.0)[0] for seed in range(4)], noisy(0, 1.0)[1]
    validation = validation_mask(len(labels))

    def worth(said: np.ndarray) -> tuple[float, float, float]:
        predictions = Predictions.split(said, labels, validation)
        estimate = deep_ensemble_equivalent(predictions, runs, labels, validation)
        return estimate.low, estimate.value, estimate.high

    two = worth(averaged([noisy(20, 1.0)[0], noisy(21, 1.0)[0]]))
    assert two[0] < 2 < two[2]
    assert 1 < two[0] < two[2] < 4
    assert worth(noisy(22, 3.0)[0]) == (1, 1, 1)
    assert worth(noisy(23, 0.0)[0])[1] == math.inf
    with pytest.raises(BadInput, match="`runs` must be at least 2, got 1"):
        deep_ensemble_equivalent(Predictions(runs[0], labels), runs[:1], labels, validation)


def drawn(generator: np.random.Generator, examples: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Examples of a population, and what six members, each a fixed function of the example, say of them."""
    truth = 1.5 * generator.standard_normal((examples, 4))
    chances = np.exp(log_softmax(truth, axis=1))
    labels = (chances.cumsum(1) < generator.random((examples, 1))).sum(1).clip(max=3)
    members = []
    for member in range(6):
        own = np.random.default_rng(member)
        ripple = np.sin(2 * truth @ own.standard_normal((4, 4)) + own.uniform(0, 6, 4))
        members.append(log_softmax(truth + ripple, axis=1))
    return members, labels


@pytest.mark.slow
def test_the_intervals_of_disagreement_correlation_and_equivalent_cover() -> None:
    def found(members: list[np.ndarray], labels: np.ndarray) -> list[Estimate]:
        validation = validation_mask(len(labels))
        two = Predictions.split(averaged(members[:2]), labels, validation)
        three = Predictions.split(averaged([members[0], members[0], members[1]]), labels, validation)
        return [
            disagreement(members[:3], labels),
            correlations(members[:2])[0, 1],
            deep_ensemble_equivalent(two, members[2:], labels, validation),
            deep_ensemble_equivalent(three, members[2:], labels, validation),
        ]

    truth = [estimate.value for estimate in found(*drawn(np.random.default_rng(10_000), 100_000))]
    assert 1 < truth[3] < truth[2] < 4
    covered = []
    for seed in range(200):
        estimates = found(*drawn(np.random.default_rng(seed), 800))
        covered.append([e.low <= value <= e.high for e, value in zip(estimates, truth, strict=True)])
    shares = np.mean(covered, axis=0)
    assert (shares > 0.83).all(), shares  # 0.9 less three standard errors of 0.021 is 0.836
    assert (shares < 0.97).all(), shares


# The verb


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with snapshots, a single one of the same length, and one of another architecture."""
    out = tmp_path_factory.mktemp("runs")
    given = {"epochs": 6, "learning_rate": 0.2, "momentum": 0.9, "budget": 0.0, "check_edge": False}
    return {
        "snapshots": train(load("mlp"), Configuration(snapshots=3, **given), out).path,
        "single": train(load("mlp"), Configuration(schedule="cosine", **given), out).path,
        "other": train(load("mlp"), Configuration(schedule="cosine", seed=1, **given), out).path,
    }


def asked(*arguments: str) -> dict:
    done = CliRunner().invoke(gradiometer, ["ensemble", *arguments, "--json"], catch_exceptions=False)
    return json.loads(done.stdout)


def test_the_verb_scores_the_snapshots_against_the_last_one_swa_and_other_runs(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "digits.pt2"
    against = [f"--against={runs[name]}" for name in ("single", "other")]
    said = asked(str(runs["snapshots"]), *against, "--points", "3", "--export", str(file))
    assert (said["snapshots"], said["scored"], said["validation"]) == (3, 270, 90)
    names = [rival["name"] for rival in said["against"]]
    assert names == ["the last snapshot", "SWA of the same snapshots", str(runs["single"]), str(runs["other"])]
    for rival in said["against"]:
        for name, difference in rival["difference"].items():
            gap = said["scores"][name]["value"] - rival["scores"][name]["value"]
            assert difference["value"] == pytest.approx(gap, abs=1e-9)
            assert difference["low"] <= difference["value"] <= difference["high"]
    assert [row["members"] for row in said["growing"]] == [1, 2, 3]
    assert [row["snapshot"] for row in said["barriers"]] == [1, 2]
    assert said["deep_ensemble_equivalent"]["value"] >= 1
    assert "A cheap ensemble, not a posterior" in said["sentences"][-1]
    problem = load("mlp")
    images, labels = problem.test.batch(torch.arange(len(problem.test)))
    program = torch.export.load(file).module()
    scored = ~validation_mask(len(labels))
    loss = F.nll_loss(program(images).log()[scored], labels[scored])
    assert float(loss) == pytest.approx(said["scores"]["calibrated_nll"]["value"], abs=1e-5)


def test_the_verb_says_in_words_what_each_member_adds(runs: dict[str, Path]) -> None:
    done = CliRunner().invoke(
        gradiometer, ["ensemble", str(runs["snapshots"]), "--points", "0"], catch_exceptions=False
    )
    words = " ".join(done.output.split())
    assert "snapshots, averaged, on 270 test examples (90 others chose how many" in words
    assert " member adds " in words
    assert "A cheap ensemble, not a posterior" in words
    assert "barrier" not in words


def test_the_run_keeps_what_was_found_and_its_page_answers_the_question(runs: dict[str, Path]) -> None:
    said = asked(str(runs["snapshots"]), "--points", "2")
    run = Run.open(runs["snapshots"])
    kept = load_worth(run)
    assert kept == Worth.from_dict(restored(json.loads(json.dumps(plain(kept.to_dict())))))
    assert kept.gain.value == pytest.approx(-said["against"][0]["difference"]["calibrated_nll"]["value"])
    page = Path(said["report"]).read_text(encoding="utf-8")
    for words in (
        "The ensemble as it grows",
        "Is its confidence deserved?",
        "less the last snapshot",
        "not a posterior",
    ):
        assert words in page
    (run.path / FILE).write_text("{}")
    assert load_worth(run) is None
    with pytest.raises(BadInput, match="are not the worth of an ensemble"):
        Worth.from_dict({"snapshots": "three"})
    assert "3 snapshots are kept" in ensemble_section(run, diagnose(run)).lead


def test_what_was_found_is_read_without_torch() -> None:
    code = "import sys, gradiometer.report.ensemble; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def some_worth(gain: tuple[float, float, float], barrier: tuple[float, float], **changes: object) -> Worth:
    """Made-up numbers, to be put into words."""

    def estimate(value: float, low: float, high: float) -> Estimate:
        return Estimate.interval(value, low, high, level=0.9, method="made up", samples=7500)

    difference = {"calibrated_nll": estimate(-gain[1], -gain[2], -gain[0]), "error": estimate(-0.001, -0.003, 0.001)}
    scores = {"error": estimate(0.1, 0.09, 0.11), "calibrated_nll": estimate(0.3, 0.29, 0.31)}
    sizes = tuple(Growth(m, scores, difference if m > 1 else {}) for m in range(1, 6))
    way = Way(1, estimate(sum(barrier) / 2, *barrier), (0.0, 0.5, 1.0), (scores["error"],) * 3)
    rival = Rival("the last snapshot", scores, difference)
    worth = Worth(5, 5, 1.1, 7500, 2500, sizes, (rival,), scores["error"], (), (way,), ())
    return replace(worth, **changes)


def test_words_follow_the_intervals() -> None:
    better, unclear, worse = (
        some_worth(gain, barrier)
        for gain, barrier in (
            ((0.001, 0.002, 0.003), (-0.002, 0.006)),
            ((-0.001, 0.001, 0.003), (0.02, 0.3)),
            ((-0.003, -0.002, -0.001), (0.3, 0.4)),
        )
    )
    assert [worth.finding("runs/a").state for worth in (better, unclear, worse)] == ["ok", "cannot tell", "look"]
    assert "is better than the last of them alone: by 0.00200 [0.00100, 0.00300]" in better.sentences[0]
    assert "cannot be told from the last of them alone" in unclear.sentences[0]
    assert "is worse than the last of them alone: by 0.00200 [0.00100, 0.00300]" in worse.sentences[0]
    added = "A fifth member adds 0.00100 [−0.00100, 0.00300] of calibrated log-loss, which cannot be told from nothing."
    assert unclear.sentences[1] == added
    assert "did not leave one basin" in better.sentences[2]
    assert "cannot be told: the highest barrier" in unclear.sentences[2]
    assert "lie in different basins" in worse.sentences[2]
    assert better.finding("runs/a").advice == "gradiometer ensemble runs/a --export ensemble.pt2"
    assert worse.finding("runs/a").advice == ""
    fewer = some_worth((0.001, 0.002, 0.003), (0.0, 0.001), chosen=3)
    assert "Of 5 snapshots the last 3 are taken, as 2,500 validation examples ask" in fewer.sentences[2]
    many = some_worth((0.001, 0.002, 0.003), (0.0, 0.001), deep_ensemble_equivalent=Estimate.exact(math.inf))
    assert "more than were given [more than were given, more than were given]" in many.sentences[3]


def test_the_study_leaves_the_run_as_it_was(runs: dict[str, Path]) -> None:
    before = {path: path.read_bytes() for path in sorted(runs["snapshots"].rglob("*")) if path.is_file()}
    torch.manual_seed(4711)
    state = torch.get_rng_state()
    study(runs["snapshots"], points=0)
    assert torch.equal(state, torch.get_rng_state())
    assert before == {path: path.read_bytes() for path in sorted(runs["snapshots"].rglob("*")) if path.is_file()}


def test_the_verb_refuses_what_it_cannot_judge(runs: dict[str, Path], tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        done = CliRunner().invoke(gradiometer, ["ensemble", *map(str, arguments)])
        assert isinstance(done.exception, BadInput), done.exception
        return str(done.exception)

    assert "holds no snapshot" in refused(runs["single"])
    assert "`--level` must lie between 0 and 1, got nan" in refused(runs["snapshots"], "--level", "nan")
    assert "a file named .pt2" in refused(runs["snapshots"], "--export", tmp_path / "x.pth")
    wider = train(
        load("cnn"), Configuration(model="cnn", snapshots=2, epochs=2, budget=0.0, check_edge=False), tmp_path
    ).path
    for path in sorted((wider / "snapshots").iterdir()):
        stored = Snapshot.from_bytes(path.read_bytes(), "x")
        path.write_bytes(Snapshot.of(load("mlp").model(), stored.number, stored.step).to_bytes())
    assert "is of another architecture" in refused(wider)
    first = min((wider / "snapshots").iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    assert "is not a whole snapshot" in refused(wider)
    first.write_bytes(Snapshot.of(load("cnn").model(), 1, 45).to_bytes())
    max((wider / "snapshots").iterdir()).unlink()
    assert "at least 2 models, got 1" in refused(wider)


def test_a_problem_that_is_no_classification_is_refused(tmp_path: Path) -> None:
    from gradiometer.problems.registry import load as problem_named

    run = train(problem_named("one-dimensional"), Configuration(problem="one-dimensional", snapshots=2), tmp_path)
    with pytest.raises(BadInput, match=r"batches of type Tensor: pairs \(inputs, labels\) are needed"):
        study(run.path)


@pytest.mark.slow
def test_the_example_runs_and_ends_in_a_sentence(tmp_path: Path) -> None:
    example = Path(__file__).parent.parent / "examples" / "ensemble.py"
    command = [sys.executable, str(example), "--export", str(tmp_path / "digits.pt2")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Five snapshots less the last of them: error" in done.stdout
    assert (tmp_path / "digits.pt2").is_file()
