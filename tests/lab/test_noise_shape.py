"""The shape of the noise: every moment exact over all batches of a tiny set, and known answers on
the quadratic."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from conftest import CASES, Case
from gradiometer import BadArgument
from gradiometer.estimation import GradientNoise, NoiseShape
from gradiometer.estimation.micro_batches import inner_products
from gradiometer.estimation.noise import cosine
from gradiometer.measurement import Draw, Objective, Reading, Sampling, Series, State, TrainingStep
from gradiometer.verdict import say
from gradiometer_lab.closed_forms import Quadratic
from gradiometer_lab.closed_forms.quadratic import Position, output_losses
from gradiometer_lab.noise_shape import moments_of_gram, of_a_finite_population

GRADIENTS = np.array([[1.0, 0.2, -0.3], [-0.5, 1.5, 0.4], [2.0, -1.0, 0.1], [0.3, 0.4, 1.2]])
"""Four examples, three parameters: all of the population."""

FRESH = Sampling(Draw.FRESH)


def true_moments(mean: np.ndarray, covariance: np.ndarray) -> dict[str, float]:
    """Every moment from g and Σ."""
    trace, signal = float(np.trace(covariance)), float(mean @ mean)
    return {
        "gradient_variance": trace,
        "gradient_norm_squared": signal,
        "variance_along_gradient": float(mean @ covariance @ mean),
        "gradient_norm_fourth": signal**2,
        "variance_times_norm_squared": trace * signal,
        "gradient_variance_squared": trace**2,
        "covariance_norm_squared": float(np.sum(covariance**2)),
    }


@pytest.mark.parametrize("size", [1, 2])
def test_means_of_all_moments_over_all_batches_are_exact(size: int) -> None:
    """Four micro-batches of one example over all 4⁴ batches; of two over 4⁸ would be many: there
    over all pairs."""
    pool = (
        GRADIENTS
        if size == 1
        else np.array([(a + b) / 2 for a in GRADIENTS[:2] for b in GRADIENTS[:2]])
    )
    population = GRADIENTS if size == 1 else GRADIENTS[:2]
    batches = (pool[list(chosen)] for chosen in product(range(4), repeat=4))
    seen = [moments_of_gram(batch @ batch.T, size) for batch in batches]
    expected = true_moments(population.mean(0), np.cov(population, rowvar=False, bias=True))
    for name, truth in expected.items():
        assert np.mean([moments[name] for moments in seen]) == pytest.approx(
            truth, rel=1e-10, abs=1e-12
        ), name


def test_batches_without_replacement_give_the_moments_of_their_training_set() -> None:
    """Their mean over all batches is that over all different examples, which the parts of one whole
    batch give at once.

    The noise scale is three times N: uncorrected, ‖g‖⁴ has the wrong size altogether. What is left
    is of third and fourth moments, over N².
    """
    draw = np.random.default_rng(0)
    gradients = draw.normal(size=(60, 40)) * np.linspace(0.5, 2, 40)
    gradients += draw.normal(size=40) * 0.08 - gradients.mean(0)
    train = gradients.mean(0)
    truth = true_moments(train, np.cov(gradients, rowvar=False))
    assert truth["gradient_variance"] > 3 * 60 * truth["gradient_norm_squared"]
    raw = {
        name: np.array([value])
        for name, value in moments_of_gram(gradients @ gradients.T, 1).items()
    }
    found = of_a_finite_population(raw, 1 / 60)
    assert found["gradient_norm_squared"].item() == pytest.approx(
        truth["gradient_norm_squared"], rel=1e-9
    )
    del truth["covariance_norm_squared"]  # it stays that of the distribution
    for name, expected in truth.items():
        assert found[name].item() == pytest.approx(expected, rel=0.04), name
    off = {name for name, expected in truth.items() if abs(raw[name].item() / expected - 1) > 0.4}
    assert off == set(truth) - {"gradient_variance", "gradient_variance_squared"}


def test_the_tests_of_a_training_set_use_the_error_of_its_own_batches() -> None:
    """At B = N there is no error; at B = N/2 it is half of tr S/B."""
    moments = {name: np.ones(9) for name in true_moments(np.ones(1), np.ones((1, 1)))}
    whole, half = (
        NoiseShape()
        .estimate(series_of(moments, Sampling(Draw.RESHUFFLED, 64), size))["norm_test"]
        .value
        for size in (64, 32)
    )
    assert whole == 0.0 and half == pytest.approx(math.sqrt((1 / 32 - 1 / 64) / (1 + 1 / 64)))


def series_of(moments: dict[str, np.ndarray], sampling: Sampling, size: int) -> Series:
    steps = np.arange(len(next(iter(moments.values()))))
    return Series(
        "noise_shape", steps, np.full_like(steps, size), np.ones(len(steps)), moments, sampling
    )


def test_inner_products_of_equal_parts_average_to_the_squared_gradient_norm(case: Case) -> None:
    case.model.eval()
    step = _step(case)
    gram, size = inner_products(step, 4)
    assert gram.shape == (4, 4) and size == 3
    if step.objective.traits(
        step.batch
    ).fixed:  # then the mean of all of them is the inner product of ĝ with itself
        norm = sum(part.square().sum().item() for part in step.gradient)
        assert gram.mean() == pytest.approx(norm, rel=1e-4)


def test_parts_of_one_example_have_the_per_example_gradient_norms() -> None:
    torch.manual_seed(0)
    case = CASES["mlp"]()
    each, size = inner_products(_step(case), 12)
    assert size == 1 and each.shape == (12, 12)
    spread = _step(case).spread(None)
    assert np.sort(np.diag(each)) == pytest.approx(
        np.sort(spread.squared_norms.sum(axis=1)), rel=1e-4
    )


def test_measuring_the_shape_leaves_training_as_it_was(case: Case) -> None:
    from gradiometer.testing import training_state

    case.loss(case.model, case.batch).mean().backward()
    before = training_state(case.model)
    NoiseShape(4).measure(_step(case))
    assert training_state(case.model) == before


@pytest.fixture(scope="module")
def quadratic() -> Quadratic:
    """Noise of unlike size in six directions: an effective dimension of 3.2."""
    return Quadratic(np.geomspace(0.5, 2, 6), np.geomspace(0.1, 2, 6))


def readings_of(
    quadratic: Quadratic, steps: int, batch_size: int, gauge: NoiseShape | GradientNoise
) -> Series:
    """Readings of fresh batches at a fixed point, where g is not small."""
    generator = np.random.default_rng(1)
    start = quadratic.minimum + 0.5
    objective = Objective(Position(quadratic, start), output_losses)
    root = np.linalg.cholesky(quadratic.noise) @ np.linalg.inv(quadratic.curvature)
    readings = []
    for index in range(steps):
        batch = torch.from_numpy(generator.standard_normal((batch_size, 6)) @ root.T)
        step = TrainingStep(objective, batch, index=index, learning_rate=0.1, sampling=FRESH)
        readings.append(Reading(gauge.name, index, batch_size, 0.1, gauge.measure(step)))
    return Series.of(readings, FRESH, objective.layers)


@pytest.mark.slow
def test_dimension_and_tests_equal_the_closed_forms_on_the_quadratic(quadratic: Quadratic) -> None:
    batch_size, gauge = 16, NoiseShape(8)
    series = readings_of(quadratic, 250, batch_size, gauge)
    gradient = quadratic.gradient(quadratic.minimum + 0.5)
    truth = true_moments(gradient, quadratic.noise)
    for name, expected in truth.items():
        values = series.moments[name]
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(values)), name
    estimates = gauge.estimate(series)
    trace, signal, along = (
        truth["gradient_variance"],
        truth["gradient_norm_squared"],
        truth["variance_along_gradient"],
    )
    expected = {
        "effective_dimension": trace**2 / truth["covariance_norm_squared"],
        "norm_test": math.sqrt(trace / batch_size / signal),
        "inner_product_test": math.sqrt(along / batch_size) / signal,
        "orthogonality_test": math.sqrt((trace - along / signal) / batch_size / signal),
    }
    assert expected["effective_dimension"] == pytest.approx(3.2, abs=0.1)
    for name, value in expected.items():
        assert estimates[name].value == pytest.approx(value, rel=0.1), name
        assert estimates[name].high < 1.5 * value, name
    seen, means = (say(gauge.judge(estimates)).seen, say(gauge.judge(estimates)).means)
    assert (
        seen.startswith("The gradient noise has about 3.")
        and "times as long as the gradient" in means
    )


def test_the_cosine_equals_that_of_batches_with_the_gradient_on_the_quadratic(
    quadratic: Quadratic,
) -> None:
    """In six directions 1/√(1 + tr Σ/(B‖g‖²)) is within 5 % of the mean cosine."""
    estimate = GradientNoise().estimate(readings_of(quadratic, 200, 4, GradientNoise()))["cosine"]
    gradient = quadratic.gradient(quadratic.minimum + 0.5)
    noise = np.random.default_rng(2).multivariate_normal(np.zeros(6), quadratic.noise / 4, 20_000)
    batches = gradient + noise
    mean = np.mean(batches @ gradient / np.linalg.norm(batches, axis=1) / np.linalg.norm(gradient))
    formula = 1 / math.sqrt(1 + quadratic.gradient_variance / (4 * gradient @ gradient))
    assert formula == pytest.approx(mean, rel=0.05)
    assert estimate.low <= formula <= estimate.high and estimate.high - estimate.low < 0.1


def test_the_cosine_lies_between_zero_and_one() -> None:
    assert (cosine(-0.1), cosine(0.0), cosine(math.inf)) == (0, 0, 1)
    assert cosine(1.0) == pytest.approx(math.sqrt(0.5))


def test_intervals_of_the_effective_dimension_cover_at_their_level(quadratic: Quadratic) -> None:
    generator, root = np.random.default_rng(0), np.linalg.cholesky(quadratic.noise)
    truth, held, windows = quadratic.gradient_variance**2 / float(np.sum(quadratic.noise**2)), 0, 80
    for _ in range(windows):
        gradients = generator.standard_normal((32, 8, 6)) @ root.T + 0.3
        moments = [moments_of_gram(part @ part.T, 1) for part in gradients]
        readings = [
            Reading("noise_shape", place, 8, 0.1, reading) for place, reading in enumerate(moments)
        ]
        estimate = NoiseShape().estimate(Series.of(readings, FRESH))["effective_dimension"]
        held += estimate.low <= truth <= estimate.high
    assert abs(held / windows - 0.9) < 4 * math.sqrt(0.9 * 0.1 / windows)


@pytest.mark.parametrize("gauge", [NoiseShape(), NoiseShape(None), NoiseShape(parts=4)], ids=repr)
def test_repr_recreates_the_gauge(gauge: NoiseShape) -> None:
    assert eval(repr(gauge)) == gauge


def test_too_few_parts_or_examples_for_the_shape_are_refused() -> None:
    with pytest.raises(
        BadArgument, match="`parts` must be at least 4, got 3: the square of the noise needs"
    ):
        NoiseShape(3)
    with pytest.raises(
        BadArgument,
        match="`parts` is 13 for a batch of 12, but each part needs at least 1 example: use",
    ):
        NoiseShape(13).measure(_step(CASES["mlp"]()))
    with pytest.raises(
        BadArgument,
        match="each part needs at least 2 examples, since the loss couples the examples",
    ):
        NoiseShape(8).measure(_step(CASES["cnn_with_batch_norm"]()))
    with pytest.raises(BadArgument, match="`gram` has 3 micro-batches"):
        moments_of_gram(np.eye(3), 1)


def test_gradients_that_need_too_much_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradiometer.estimation.micro_batches.MOST_NUMBERS", 1000)
    with pytest.raises(
        BadArgument, match="that many gradients are more than 1,000 numbers; use fewer parts"
    ):
        NoiseShape(8).measure(_step(CASES["mlp"]()))


def test_an_unknown_shape_gives_no_finding_or_cannot_tell() -> None:
    names = true_moments(np.ones(2), np.eye(2))
    moments = dict(zip(names, (1.0, 1.0, 0.1, 1.0, 1.0, 1.0, 0.5), strict=True))
    readings = [Reading("noise_shape", place, 8, 0.1, moments) for place in range(2)]
    assert NoiseShape().judge(NoiseShape().estimate(Series.of(readings, FRESH))) is None
    readings = [
        Reading("noise_shape", place, 8, 0.1, moments | {"gradient_norm_squared": (-1.0) ** place})
        for place in range(40)
    ]
    finding = NoiseShape().judge(NoiseShape().estimate(Series.of(readings, FRESH)))
    assert finding is not None and finding.state is State.CANNOT_TELL


def _step(case: Case) -> TrainingStep:
    return TrainingStep(case.objective, case.batch, index=3, learning_rate=0.1, sampling=FRESH)
