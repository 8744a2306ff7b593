"""The intervals: they cover at their level, and are infinite if the data show too little."""

import math
from collections.abc import Iterator
from inspect import unwrap

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import binom, binomtest, t

from gradiometer import BadArgument
from gradiometer.measurement import Estimate
from gradiometer.measurement.uncertainty import mean, proportion, ratio_of_means
from gradiometer.measurement.uncertainty.means import (
    batch_length,
    batch_means,
    difference_of_means,
    fieller_set,
)

NOISE_SCALE = 450.0
BATCH = 32
INF = math.inf


def autoregressive(rng: np.random.Generator, windows: int, steps: int, time: float) -> np.ndarray:
    """Stationary, standard normal, correlation exp(−lag/time); independent at time zero. Shape
    [windows, steps]."""
    decay = math.exp(-1 / time) if time else 0.0
    draws = rng.standard_normal((windows, steps))
    draws[:, 1:] *= math.sqrt(1 - decay**2)
    return lfilter([1.0], [1.0, -decay], draws, axis=1)


def noise_moments(
    rng: np.random.Generator,
    windows: int,
    steps: int,
    directions: int,
    parts: int,
    time: float = 0.0,
    moving: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """tr Σ and ‖g‖² from micro-batches, with E‖g‖² = 1, B = 32 and noise alike in some directions:
    exact law.

    S is a χ² independent of the mean gradient, and ‖ĝ‖² a non-central χ² around ‖g_t‖². The
    underlying g stands still, or moves as a stationary Ornstein-Uhlenbeck process in `moving`
    directions.
    """
    square = np.ones((windows, steps))
    if moving:
        square = sum(autoregressive(rng, windows, steps, time) ** 2 for _ in range(moving)) / moving
    freedom = (parts - 1) * directions
    trace = NOISE_SCALE * rng.chisquare(freedom, (windows, steps)) / freedom
    sd = math.sqrt(NOISE_SCALE / BATCH / directions)
    along = (np.sqrt(square) + sd * rng.standard_normal((windows, steps))) ** 2
    across = sd**2 * rng.chisquare(directions - 1, (windows, steps))
    yield from zip(trace, along + across - trace / BATCH, strict=True)


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


def slack(windows: int) -> float:
    """Three binomial standard errors of a coverage near 90 %."""
    return 3 * math.sqrt(0.9 * 0.1 / windows)


def covers(estimate: Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


def in_band(hits: list[bool], low: float = 0.87, high: float = 0.93) -> bool:
    return low - slack(len(hits)) <= share(hits) <= high + slack(len(hits))


# The ratio of means: coverage


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "directions", "parts", "time", "moving"),
    [
        (30, 200, 2, 0, 0),
        (30, 200, 8, 0, 0),
        (200, 20, 2, 0, 0),
        (200, 200, 8, 0, 0),
        (200, 200, 2, 200 / 60, 1),
        (2000, 20, 2, 2000 / 60, 1),
    ],
)
def test_the_interval_of_the_noise_scale_covers_at_its_level(
    steps, directions, parts, time, moving
):
    rng = np.random.default_rng(1)
    moments = noise_moments(rng, 1000, steps, directions, parts, time, moving)
    assert in_band(
        [covers(ratio_of_means(trace, signal), NOISE_SCALE) for trace, signal in moments]
    )


@pytest.mark.nightly
@pytest.mark.parametrize("parts", [2, 8])
@pytest.mark.parametrize("directions", [5, 20, 200])
@pytest.mark.parametrize("steps", [30, 200, 2000])
@pytest.mark.parametrize(("moving", "per_window"), [(0, 0), (1, 120), (1, 60), (5, 60)])
def test_the_interval_of_the_noise_scale_covers_at_every_setting(
    steps, directions, parts, moving, per_window
):
    rng = np.random.default_rng(2)
    time = steps / per_window if per_window else 0.0
    estimates = [
        ratio_of_means(trace, signal)
        for trace, signal in noise_moments(rng, 4000, steps, directions, parts, time, moving)
    ]
    # A denominator of noise alone gives a one-sided bound, at 95 %; the expected coverage lies
    # between, in proportion.
    unbounded = share([not estimate.tells for estimate in estimates])
    hits = [covers(estimate, NOISE_SCALE) for estimate in estimates]
    assert in_band(hits, high=0.93 + 0.05 * unbounded)


@pytest.mark.parametrize(("steps", "directions"), [(30, 20), (200, 5), (200, 20)])
def test_fiellers_set_covers_at_its_level_even_if_the_denominator_is_all_noise(steps, directions):
    rng = np.random.default_rng(3)
    hits = []
    for trace, signal in noise_moments(rng, 2000, steps, directions, 2):
        means = batch_means(np.stack([trace, signal], axis=1), len(trace) // 25, 25)
        # Student, 24 degrees
        parts = fieller_set(means.mean(axis=0), np.cov(means, rowvar=False) / 25, 1.711)
        hits.append(any(low <= NOISE_SCALE <= high for low, high in parts))
    assert in_band(hits)


def test_a_denominator_of_noise_alone_seldom_gives_an_upper_end():
    rng = np.random.default_rng(4)
    windows = zip(rng.chisquare(5, (2000, 60)), rng.standard_normal((2000, 60)), strict=True)
    bounded = share([ratio_of_means(trace, signal).tells for trace, signal in windows])
    assert abs(bounded - 0.05) < 3 * math.sqrt(0.05 * 0.95 / 2000)


# The mean: coverage


@pytest.mark.slow
@pytest.mark.parametrize("steps", [30, 200, 2000])
@pytest.mark.parametrize("law", ["normal", "chi squared", "student"])
def test_the_interval_of_a_mean_covers_for_independent_readings(steps, law):
    rng = np.random.default_rng(5)
    draws = {
        "normal": rng.standard_normal((1000, steps)),
        "chi squared": rng.chisquare(5, (1000, steps)) - 5,
        "student": rng.standard_t(3, (1000, steps)),
    }[law]
    assert in_band([covers(mean(window), 0) for window in draws])


@pytest.mark.parametrize("steps", [200, 2000])
@pytest.mark.parametrize("per_window", [120, 60])
def test_the_interval_of_a_mean_covers_for_dependent_readings(steps, per_window):
    rng = np.random.default_rng(6)
    windows = autoregressive(rng, 1000, steps, steps / per_window)
    assert in_band([covers(mean(window), 0) for window in windows])
    alone = [covers(mean(window, batches=steps), 0) for window in windows]
    assert not in_band(alone)  # as if independent: far too short, so the test can fail


def test_the_interval_of_a_mean_covers_over_independent_examples():
    rng = np.random.default_rng(7)
    losses = rng.exponential(1.0, (1000, 200))
    assert in_band([covers(mean(window, batches=200), 1) for window in losses])


@pytest.mark.parametrize("readings", [4, 6, 30])
def test_one_batch_per_value_gives_students_interval(readings):
    values = np.random.default_rng(17).standard_normal(readings)
    estimate = mean(values, level=0.95, batches=readings)
    error = values.std(ddof=1) / math.sqrt(readings)
    assert (estimate.low, estimate.high) == pytest.approx(
        t.interval(0.95, readings - 1, values.mean(), error)
    )
    assert (estimate.value, estimate.samples) == (pytest.approx(values.mean()), readings)


def test_a_million_readings_make_as_many_batches_as_a_thousand():
    rng = np.random.default_rng(8)
    assert 6 <= 1_000_000 // batch_length(rng.standard_normal(1_000_000)) <= 48
    estimate = mean(rng.standard_normal(1_000_000))
    assert 0.8 < (estimate.high - estimate.low) / (2 * 1.645e-3) < 1.6


# What every interval has in common


def moments(
    steps: int = 200, directions: int = 200, seed: int = 11
) -> tuple[np.ndarray, np.ndarray]:
    return next(noise_moments(np.random.default_rng(seed), 1, steps, directions, 2))


@pytest.mark.parametrize("factor", [1e-12, 3.7, 1e12])
@pytest.mark.parametrize("directions", [5, 200])
def test_a_change_of_units_scales_the_interval(factor, directions):
    trace, signal = moments(directions=directions)
    before, after = ratio_of_means(trace, signal), ratio_of_means(factor * trace, signal)
    inverse, both = (
        ratio_of_means(trace, factor * signal),
        ratio_of_means(factor * trace, factor * signal),
    )
    for name in ("value", "low", "high"):
        number = getattr(before, name)
        assert getattr(after, name) == pytest.approx(factor * number, rel=1e-9)
        assert getattr(inverse, name) == pytest.approx(number / factor, rel=1e-9)
        assert getattr(both, name) == pytest.approx(number, rel=1e-9)
    assert before.needed == after.needed == inverse.needed
    assert mean(factor * trace).high == pytest.approx(factor * mean(trace).high, rel=1e-9)


@pytest.mark.parametrize("directions", [5, 20, 200])
def test_a_higher_level_widens_every_interval(directions):
    trace, signal = moments(directions=directions)
    for lower, higher in ((0.5, 0.8), (0.8, 0.9), (0.9, 0.99)):
        for narrow, wide in (
            (mean(trace, level=lower), mean(trace, level=higher)),
            (
                ratio_of_means(trace, signal, level=lower),
                ratio_of_means(trace, signal, level=higher),
            ),
            (proportion(95, 100, lower), proportion(95, 100, higher)),
        ):
            assert wide.low < narrow.low
            assert wide.high > narrow.high or wide.high == INF
            assert (narrow.level, wide.level) == (lower, higher)


def test_a_ratio_to_a_constant_is_a_mean_in_another_unit():
    trace, _ = moments()
    ratio, plain = ratio_of_means(trace, np.full(200, 2.0), batches=20), mean(trace, batches=20)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx(
        (plain.value / 2, plain.low / 2, plain.high / 2)
    )


def test_readings_that_never_vary_give_an_interval_without_width():
    constant = np.full(50, 0.1)
    for estimate, value in ((mean(constant), 0.1), (ratio_of_means(3 * constant, constant), 3)):
        assert (estimate.low, estimate.value, estimate.high) == pytest.approx(
            (value,) * 3, rel=1e-12
        )
        assert estimate.low <= estimate.value <= estimate.high


def test_a_denominator_of_zeros_gives_no_upper_end():
    trace, _ = moments()
    estimate = ratio_of_means(trace, np.zeros(200))
    assert (estimate.value, estimate.low, estimate.high, estimate.needed) == (INF, 0, INF, None)
    neither = ratio_of_means(np.zeros(200), np.zeros(200))
    assert math.isnan(neither.value)
    assert (neither.low, neither.high) == (0, INF)


def test_batches_are_consecutive_and_drop_the_oldest_remainder():
    samples = np.arange(22.0).reshape(11, 2)
    assert batch_means(samples, len(samples) // 3, 3).tolist() == [[6, 7], [12, 13], [18, 19]]
    assert batch_length(np.arange(11.0)) == 1
    assert batch_means(np.arange(19.0), 1, 10).tolist() == list(range(9, 19))


def test_dependent_readings_get_longer_batches():
    rng = np.random.default_rng(12)
    independent = [480 // batch_length(window) for window in rng.standard_normal((200, 480))]
    dependent = [480 // batch_length(window) for window in autoregressive(rng, 200, 480, 40)]
    assert np.median(independent) == 24
    assert np.median(dependent) == 6


def test_the_correlation_of_neighbours_is_corrected_for_its_bias():
    """For n readings ±1, equally many, it is (like neighbours − unlike ones)/n + 1/n; the limit is
    0.5/√n."""
    below = np.tile([1.0, 1, -1, -1], 8)  # (1 + 1)/32, and the limit is 2.83/32
    assert batch_length(below) == 1
    above = np.concatenate(
        [np.tile([1.0, 1, -1, -1], 7), np.tile([1.0, 1, -1, -1, -1], 2), [1.0, 1]]
    )
    assert len(above) == 40 and above.sum() == 0  # (3 + 1)/40, and the limit is 3.16/40
    assert batch_length(above) > 1


def test_shared_variation_cancels_in_a_paired_difference():
    rng = np.random.default_rng(13)
    shared, own = rng.standard_normal((1000, 60)), rng.standard_normal((1000, 60))
    estimates = [
        difference_of_means(both + 0.1 * alone + 0.5, both)
        for both, alone in zip(shared, own, strict=True)
    ]
    assert in_band([covers(estimate, 0.5) for estimate in estimates])
    # unpaired: 0.6
    assert np.median([estimate.high - estimate.low for estimate in estimates]) < 0.06


# How many more steps


def test_about_six_in_ten_ratios_are_bounded_after_the_needed_steps():
    rng = np.random.default_rng(14)
    bounded, asked = [], []
    for trace, signal in noise_moments(rng, 600, 2000, 20, 2):
        needed = ratio_of_means(trace[:30], signal[:30]).needed
        if needed is not None:
            asked.append(needed)
        if needed is not None and needed <= 1970:
            bounded.append(ratio_of_means(trace[: 30 + needed], signal[: 30 + needed]).tells)
    assert len(bounded) > 300
    assert 0.45 <= share(bounded) <= 0.75
    # With every variance known, 1 = t·se after 1.645² Var steps, 30 of them done.
    variance = (4 * (NOISE_SCALE / BATCH) ** 2 + 4 * NOISE_SCALE / BATCH) / 20
    assert 0.5 < np.median(asked) / (1.645**2 * variance - 30) < 2


def test_needed_counts_training_steps_not_readings():
    trace, signal = moments(steps=60, directions=20, seed=16)
    dense, sparse = ratio_of_means(trace, signal), ratio_of_means(trace, signal, spacing=50.0)
    assert dense.needed is not None
    assert sparse.needed == pytest.approx(50 * dense.needed, abs=50)
    assert mean(np.ones(3), spacing=50.0).needed == 50


def test_needed_is_none_if_the_denominator_is_not_above_zero():
    trace, signal = moments()
    assert ratio_of_means(trace, signal - signal.mean() - 0.01).needed is None
    assert ratio_of_means(trace, signal).needed is None  # nor if nothing is missing


@pytest.mark.parametrize("readings", [0, 1, 3])
def test_too_few_readings_give_an_unknown_estimate_and_the_missing_steps(readings):
    for estimate in (mean(np.ones(readings)), ratio_of_means(np.ones(readings), np.ones(readings))):
        assert not estimate.tells
        assert (estimate.samples, estimate.needed) == (readings, 4 - readings)
    assert mean(np.ones(readings), batches=readings).needed == 4 - readings
    assert mean(np.ones(10), batches=16).needed == 6


# Proportions


@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 10), (10, 10), (1, 3), (95, 100), (8321, 10000)]
)
def test_a_proportion_has_wilsons_interval(successes, trials):
    estimate = proportion(successes, trials, 0.95)
    reference = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert (estimate.low, estimate.high) == pytest.approx(
        (reference.low, reference.high), abs=1e-12
    )
    assert estimate.low <= estimate.value == successes / trials <= estimate.high
    assert estimate.high > estimate.low


@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.98])
def test_wilsons_interval_covers_on_average_over_500_examples(accuracy):
    counts = np.arange(501)
    chances = binom.pmf(counts, 500, accuracy)
    covered = sum(
        chances[count] for count in counts if covers(proportion(int(count), 500), accuracy)
    )
    assert 0.87 <= covered <= 0.93


# Refusals


def with_a(value: float) -> np.ndarray:
    samples = np.ones(20)
    samples[7] = value
    return samples


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean(with_a(math.nan)), "`samples` must be finite, got nan at position 7"),
        (
            lambda: ratio_of_means(with_a(-INF), np.ones(20)),
            "`numerator` must be finite, got -inf at position 7",
        ),
        (
            lambda: ratio_of_means(np.ones(20), with_a(math.nan)),
            "`denominator` must be finite, got nan",
        ),
        (
            lambda: difference_of_means(np.ones(20), with_a(math.nan)),
            "`second` must be finite, got nan",
        ),
        (
            lambda: unwrap(ratio_of_means)(np.ones(20), np.ones(19)),
            "`numerator` and `denominator` must have the same steps, got 20 and 19 readings",
        ),
        (
            lambda: unwrap(difference_of_means)(np.ones(9), np.ones(8)),
            "`first` and `second` .* got 9 and 8 readings",
        ),
        (lambda: mean(np.ones(20), level=1.0), "`level` must lie between 0 and 1, got 1.0"),
        (lambda: ratio_of_means(np.ones(20), np.ones(20), level=math.nan), "`level` .* got nan"),
        (
            lambda: ratio_of_means(np.ones(20), np.ones(20), spacing=math.nan),
            "`spacing` .* got nan",
        ),
        (
            lambda: mean(np.ones(20), spacing=0.0),
            "`spacing` must be a positive number of training steps, got 0.0",
        ),
        (lambda: mean(np.ones(20), batches=3), "`batches` must be at least 4, got 3"),
        (lambda: proportion(3, 0), "`trials` must be at least 1, got 0"),
        (lambda: proportion(11, 10), "`successes` must lie between 0 and the 10 trials, got 11"),
        (lambda: proportion(5, 10, math.nan), "`level` must lie between 0 and 1, got nan"),
    ],
)
def test_bad_arguments_raise(call, message):
    with pytest.raises(BadArgument, match=message):
        call()


@pytest.mark.parametrize("size", [1.0, 1e-150, 1e150])
def test_the_batches_of_a_ratio_follow_the_dependence_of_its_error(size: float) -> None:
    random = np.random.default_rng(0)
    slow = 5 + np.sin(np.linspace(0, 3 * np.pi, 2400))
    white = random.normal(size=(2, 2400))
    cancels = ratio_of_means(size * (3 * slow + white[0]), slow)
    assert cancels.method.startswith("Fieller, 24 batches"), "shared variation cancels in the ratio"
    remains = ratio_of_means(size * (3 * slow + white[0]), 5 + white[1])
    assert remains.method.startswith(("Fieller, 6 batches", "Fieller, 12 batches"))


def test_the_mean_of_readings_whose_sum_is_beyond_doubles_is_unknown() -> None:
    assert not mean(np.full(5, -1e308)).tells
    assert mean(np.full(5, -1e307)).value == -1e307
