"""The noise gauge: exact over all batches of a tiny set, additive over layers, and plain in what it
says and refuses."""

import math
import re
from collections.abc import Iterator, Sequence
from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import nn

from conftest import Case
from gradiometer import BadArgument
from gradiometer.estimation import GradientNoise
from gradiometer.estimation.batch_advice import examples_factor, judge_batch_size, updates_factor
from gradiometer.estimation.noise import noise_moments
from gradiometer.measurement import (
    Draw,
    Estimate,
    Objective,
    Reading,
    Sampling,
    Series,
    State,
    TrainingStep,
    supervised,
)
from gradiometer.measurement.reading import Spread
from gradiometer.verdict import say

FEATURES = torch.tensor([[1.0, 0.2], [-0.5, 1.5], [2.0, -1.0], [0.3, 0.4]], dtype=torch.float64)
TARGETS = torch.tensor([[0.7], [-1.2], [0.1], [2.0]], dtype=torch.float64)


@pytest.fixture(scope="module")
def objective() -> Objective:
    """A linear model with a layer before it, in doubles: nine parameters in two layers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).double()

    def squared_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - target).square().sum(dim=1)

    return Objective(model, supervised(squared_error))


@pytest.fixture(scope="module")
def per_example(objective: Objective) -> np.ndarray:
    """The gradient of each of the four examples, one backward each."""
    batches = ((FEATURES[i : i + 1], TARGETS[i : i + 1]) for i in range(4))
    return np.stack(
        [torch.cat([g.flatten() for g in objective.gradient(batch)]).numpy() for batch in batches]
    )


def series_over(
    objective: Objective, batches: Iterator[Sequence[int]], gauge: GradientNoise, sampling: Sampling
) -> Series:
    """One reading for every batch. The index is always 0, so that every batch is dealt out in the
    same way, and all orders of a batch stand for all ways to deal it."""
    readings = []
    for position, chosen in enumerate(batches):
        batch = FEATURES[list(chosen)], TARGETS[list(chosen)]
        step = TrainingStep(objective, batch, index=0, learning_rate=0.1, sampling=sampling)
        readings.append(Reading("noise", position, len(chosen), 0.1, gauge.measure(step)))
    return Series.of(readings, sampling, objective.layers)


def trace_of_covariance(gradients: np.ndarray) -> float:
    return float(gradients.var(axis=0).sum())


@pytest.mark.parametrize(
    ("size", "parts"), [(2, 2), (3, 2), (3, None), pytest.param(4, 3, marks=pytest.mark.slow)]
)
def test_means_over_all_batches_with_replacement_are_exact(
    objective: Objective, per_example: np.ndarray, size: int, parts: int | None
) -> None:
    """Among them batches that do not divide evenly, of 1 + 2 and of 1 + 1 + 2 examples."""
    sampling = Sampling(Draw.REPLACEMENT, 4)
    series = series_over(objective, product(range(4), repeat=size), GradientNoise(parts), sampling)
    estimates = GradientNoise(parts).estimate(series)
    trace, signal = trace_of_covariance(per_example), float(np.square(per_example.mean(0)).sum())
    assert estimates["gradient_variance"].value == pytest.approx(trace, rel=1e-12)
    assert estimates["gradient_norm_squared"].value == pytest.approx(signal, rel=1e-12)
    assert estimates["noise_scale"].value == pytest.approx(trace / signal, rel=1e-12)
    assert estimates["signal_to_noise"].value == pytest.approx(signal / (trace / size), rel=1e-12)


@pytest.mark.parametrize(("size", "parts"), [(2, 2), (3, 2), (3, None)])
def test_means_over_all_batches_without_replacement_equal_those_of_the_training_set(
    objective: Objective, per_example: np.ndarray, size: int, parts: int | None
) -> None:
    sampling = Sampling(Draw.RESHUFFLED, 4)
    series = series_over(objective, permutations(range(4), size), GradientNoise(parts), sampling)
    estimates = GradientNoise(parts).estimate(series)
    train = per_example.mean(0)
    error = np.mean(
        [
            np.square(per_example[list(b)].mean(0) - train).sum()
            for b in permutations(range(4), size)
        ]
    )
    signal = float(np.square(train).sum())
    assert error == pytest.approx(trace_of_covariance(per_example) / size * (4 - size) / 3)
    assert estimates["gradient_variance"].value == pytest.approx(
        trace_of_covariance(per_example), rel=1e-12
    )
    assert estimates["gradient_norm_squared"].value == pytest.approx(signal, rel=1e-12)
    assert estimates["signal_to_noise"].value == pytest.approx(signal / error, rel=1e-12)


def test_means_over_all_training_sets_equal_those_of_the_population(
    objective: Objective, per_example: np.ndarray
) -> None:
    """The population is the first three examples; training sets are all triples of them, batches
    all pairs."""
    gauge, sampling = GradientNoise(gradient_of="population"), Sampling(Draw.RESHUFFLED, 3)
    batches = (
        [train[i] for i in pair]
        for train in product(range(3), repeat=3)
        for pair in permutations(range(3), 2)
    )
    estimates = gauge.estimate(series_over(objective, batches, gauge, sampling))
    population = per_example[:3]
    assert estimates["gradient_variance"].value == pytest.approx(
        trace_of_covariance(population), rel=1e-12
    )
    signal = float(np.square(population.mean(0)).sum())
    assert estimates["gradient_norm_squared"].value == pytest.approx(signal, rel=1e-12)


def test_train_and_population_estimates_differ_by_the_variance_over_the_examples(
    objective: Objective, per_example: np.ndarray
) -> None:
    sampling = Sampling(Draw.RESHUFFLED, 4)
    series = series_over(objective, permutations(range(4), 2), GradientNoise(), sampling)
    train, population = (
        GradientNoise(gradient_of=whose).estimate(series) for whose in ("train", "population")
    )
    excess = train["gradient_norm_squared"].value - population["gradient_norm_squared"].value
    assert excess == pytest.approx(population["gradient_variance"].value / 4)


def test_moments_of_unequal_micro_batches_are_unbiased() -> None:
    """By algebra, not by chance: the noise formulas are linear in E‖ĝ_j‖² = ‖g‖² + tr Σ / b_j."""
    trace, signal, sizes = 7.0, 3.0, np.array([14, 15])
    expected = Spread(sizes, (signal + trace / sizes)[:, None], np.array([signal + trace / 29]))
    seen = noise_moments(expected)
    assert seen[0].item() == pytest.approx(trace)
    assert seen[1].item() == pytest.approx(signal)


def test_noise_is_averaged_over_batches_of_two_sizes() -> None:
    sizes = [32, 32, 32, 29] * 10
    readings = [
        Reading("noise", i, size, 0.1, {"gradient_variance": [8.0], "gradient_norm_squared": [2.0]})
        for i, size in enumerate(sizes)
    ]
    estimates = GradientNoise().estimate(Series.of(readings, Sampling(Draw.FRESH), ("0",)))
    assert estimates["batch_size"].value == 32
    assert estimates["signal_to_noise"].value == pytest.approx(
        2 / np.mean([8 / size for size in sizes])
    )


def test_total_moments_are_the_sum_over_layers(case: Case) -> None:
    gauge, sampling = GradientNoise(), Sampling(Draw.FRESH)
    readings = [
        Reading("noise", i, 12, 0.1, gauge.measure(_step(case, index=i, sampling=sampling)))
        for i in range(8)
    ]
    series = Series.of(readings, sampling, case.objective.layers)
    estimates = gauge.estimate(series)
    assert estimates["gradient_variance"].value == pytest.approx(
        series.moments["gradient_variance"].mean(axis=0).sum()
    )
    assert estimates["gradient_norm_squared"].value == pytest.approx(
        series.moments["gradient_norm_squared"].mean(axis=0).sum()
    )
    by_layer = [
        name.removeprefix("noise_scale/") for name in estimates if name.startswith("noise_scale/")
    ]
    assert by_layer == (list(series.layers) if len(series.layers) > 1 else [])


def test_estimates_of_a_layer_equal_those_of_a_model_with_only_that_layer() -> None:
    generator = np.random.default_rng(0)
    moments = {
        "gradient_variance": generator.chisquare(5, (60, 2)),
        "gradient_norm_squared": generator.normal(1, 1, (60, 2)),
    }
    whole, second = (
        _series({name: part[:, cut] for name, part in moments.items()}) for cut in ([0, 1], [1])
    )
    assert (
        GradientNoise().estimate(whole)["noise_scale/1"]
        == GradientNoise().estimate(second)["noise_scale"]
    )


@pytest.mark.parametrize(
    "gauge",
    [GradientNoise(), GradientNoise(None), GradientNoise(parts=8, gradient_of="population")],
    ids=repr,
)
def test_repr_recreates_the_gauge(gauge: GradientNoise) -> None:
    assert eval(repr(gauge)) == gauge


@pytest.mark.parametrize("parts", [1, 0, math.nan])
def test_a_single_part_is_refused(parts: int) -> None:
    with pytest.raises(
        BadArgument,
        match=r"`parts` must be at least 2, got .*: one gradient per step shows no spread",
    ):
        _unchecked(GradientNoise, parts=parts)


def test_an_unknown_gradient_of_is_refused() -> None:
    with pytest.raises(
        BadArgument, match="`gradient_of` must be 'train' or 'population', got 'test'"
    ):
        _unchecked(GradientNoise, gradient_of="test")


def test_a_training_set_of_unknown_size_is_refused_without_replacement() -> None:
    series = _series(
        {"gradient_variance": np.ones((9, 1)), "gradient_norm_squared": np.ones((9, 1))},
        Sampling(Draw.RESHUFFLED),
    )
    with pytest.raises(
        BadArgument, match=r"training set of unknown size: give its number of `examples`, or use"
    ):
        GradientNoise().estimate(series)
    assert GradientNoise(gradient_of="population").estimate(series)["noise_scale"].value == 1


def test_a_batch_of_one_is_refused() -> None:
    model = nn.Linear(2, 1).double()
    step = TrainingStep(
        Objective(model, supervised(nn.MSELoss())),
        (FEATURES[:1], TARGETS[:1]),
        index=0,
        learning_rate=0.1,
        sampling=Sampling(Draw.FRESH),
    )
    with pytest.raises(BadArgument, match="the spread within a step needs two parts"):
        GradientNoise().measure(step)


def test_the_whole_training_set_as_one_batch_has_no_noise() -> None:
    series = _series(
        {"gradient_variance": np.full((9, 1), 4.0), "gradient_norm_squared": np.ones((9, 1))},
        Sampling(Draw.RESHUFFLED, 32),
    )
    estimates = GradientNoise().estimate(series)
    assert estimates["signal_to_noise"].value == math.inf
    assert estimates["gradient_variance"].value == pytest.approx(4 * 31 / 32)


def test_two_readings_give_no_noise_scale() -> None:
    estimates = GradientNoise().estimate(
        _series({"gradient_variance": np.ones((2, 1)), "gradient_norm_squared": np.ones((2, 1))})
    )
    assert not estimates["noise_scale"].tells
    finding = GradientNoise().judge(estimates)
    assert finding is not None and finding.state is State.CANNOT_TELL


def finding_at(
    batch_size: int, value: float, low: float, high: float, needed: int | None = None
) -> tuple[State, str]:
    """State and words of a finding, at a noise scale from 200 readings."""
    value, low, high = float(value), float(low), float(high)
    scale = Estimate.interval(
        value, low, high, level=0.9, method="Fieller", samples=200, unit="examples", needed=needed
    )
    finding = judge_batch_size("noise", Estimate.exact(float(batch_size)), scale)
    return finding.state, f"{say(finding).seen} {say(finding).means}"


def test_a_batch_below_the_noise_scale() -> None:
    state, words = finding_at(32, 450, 364, 589)
    assert state is State.LOOK
    assert words == (
        "A batch twice as large would nearly halve the updates: the gradient noise scale is 450 "
        "[364, 589] (200 measured steps), 14 times the batch of 32. Doubling the "
        "batch would cut the number of updates by 47% and use 7% more examples."
    )


def test_a_batch_above_the_noise_scale() -> None:
    state, words = finding_at(512, 64, 50, 80)
    assert state is State.LOOK
    assert words == (
        "Half the batch would save 44% of the examples and cost 11% more updates: B = 512 is 8.0 "
        "times the gradient noise scale 64.0 [50.0, 80.0] (200 measured steps). The examples in a "
        "batch already agree, so averaging more of them gains little."
    )


def test_a_batch_near_the_noise_scale() -> None:
    state, words = finding_at(64, 64, 30, 120)
    assert state is State.OK
    assert words == (
        "B = 64 is near the gradient noise scale 64.0 [30.0, 120] (200 measured steps). Here "
        "updates and examples trade about evenly: training needs 2.0× as many updates as with very "
        "large batches, and 2.0× as many examples as with very small ones."
    )


def test_an_unbounded_noise_scale_is_reported_with_its_lower_bound_and_the_steps_needed() -> None:
    state, words = finding_at(32, 2000, 900, math.inf, needed=1234)
    assert state is State.LOOK
    assert words.startswith(
        "A batch twice as large would nearly halve the updates: the gradient noise scale is at "
        "least 900, above B = 32; an upper bound needs about 1,200 more steps at B = 32."
    )
    state, words = finding_at(1024, 2000, 900, math.inf, needed=1234)
    assert state is State.CANNOT_TELL
    assert (
        "noise scale is at least 900; an upper bound needs about 1,200 more steps at B = 1,024."
        in words
    )
    assert "The gradient is not distinguishable from zero in these readings" in words
    assert (
        "at least 900, above B = 32; there is no upper bound yet."
        in finding_at(32, 2000, 900, math.inf)[1]
    )


def test_a_wide_interval_around_the_batch_size_gives_cannot_tell() -> None:
    state, words = finding_at(32, 64, 6, 300)
    assert state is State.CANNOT_TELL
    assert words.startswith(
        "The gradient noise scale 64.0 [6.00, 300] (200 measured steps) is too uncertain for B = 32"
    )


@pytest.mark.parametrize(
    ("low", "high", "state"),
    [
        (16, 256, State.OK),
        (15.9, 256, State.CANNOT_TELL),
        (16, 256.1, State.CANNOT_TELL),
        (65, 256, State.LOOK),
        (16, 63, State.LOOK),
    ],
)
def test_a_batch_is_near_a_noise_scale_that_is_surely_within_a_factor_of_four(
    low: float, high: float, state: State
) -> None:
    assert finding_at(64, math.sqrt(low * high), low, high)[0] is state


def test_an_unknown_noise_scale_is_reported_with_the_steps_needed() -> None:
    state, words = finding_at(32, math.nan, -math.inf, math.inf, needed=7)
    assert state is State.CANNOT_TELL
    assert words.startswith(
        "The gradient noise scale is not known yet; an interval needs about 7 more steps at B = 32."
    )
    assert (
        "it is too early to say how many steps an interval needs"
        in finding_at(32, math.nan, -math.inf, math.inf)[1]
    )


@pytest.mark.parametrize(
    "scale", [(450, 364, 589), (64, 30, 120), (5, 4, 6), (0, 0, 9), (math.inf, 50, math.inf)]
)
def test_no_finding_promises_too_much_or_prints_nan_or_inf(
    scale: tuple[float, float, float],
) -> None:
    words = finding_at(32, *scale)[1]
    assert not re.search(r"optimal|best|guaranteed|nan|\binf\b", words)


def test_a_batch_at_the_noise_scale_needs_twice_the_updates_and_twice_the_examples() -> None:
    assert updates_factor(100.0, 100.0) == examples_factor(100.0, 100.0) == 2
    assert updates_factor(25.0, 100.0) == 5
    assert examples_factor(25.0, 100.0) == 1.25


def _series(moments: dict[str, np.ndarray], sampling: Sampling | None = None) -> Series:
    """Readings at consecutive steps, at B = 32."""
    steps, layers = moments["gradient_variance"].shape
    return Series(
        gauge="noise",
        steps=np.arange(steps),
        batch_size=np.full(steps, 32),
        learning_rate=np.full(steps, 0.1),
        moments=moments,
        sampling=sampling or Sampling(Draw.FRESH),
        layers=tuple(str(layer) for layer in range(layers)),
    )


def _step(case: Case, index: int, sampling: Sampling) -> TrainingStep:
    return TrainingStep(
        case.objective, case.batch, index=index, learning_rate=0.1, sampling=sampling
    )


def _unchecked(build: type, **settings: object) -> object:
    """Build past the shape checker, which only the test suite has: what a user's mistake meets."""
    gauge = object.__new__(build)
    for name, value in {"parts": 2, "gradient_of": "train", **settings}.items():
        object.__setattr__(gauge, name, value)
    gauge.__post_init__()
    return gauge
