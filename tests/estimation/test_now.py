"""A drifting quantity at the newest reading: coverage where the value is known, exact cases,
guards, refusals."""

import math
from collections.abc import Callable
from inspect import unwrap

import numpy as np
import pytest

from gradiometer import BadArgument, Estimate
from gradiometer.measurement.uncertainty import ratio_of_means
from gradiometer.measurement.uncertainty.now import NOISE_PRIOR, mean_now, ratio_now, trend
from gradiometer.measurement.uncertainty.power_law import Drift

STEPS = np.arange(1, 121) * 10


def moments(
    rng: np.random.Generator, scale: np.ndarray, noise: float = 1.0, tail: float = 0.8
) -> tuple[np.ndarray, np.ndarray]:
    """Unbiased, heavy-tailed readings of tr Σ and ‖g‖² whose ratio is this noise scale at each
    step."""
    heavy = np.exp(tail * rng.standard_normal((2, len(scale))) - tail**2 / 2)
    variance = 50.0 * np.sqrt(scale)
    signal = variance / scale
    return variance * heavy[0], signal * (1 + noise * rng.standard_normal(len(scale)) * heavy[1])


def covered(
    scale: np.ndarray, rate: np.ndarray | None, repeats: int = 30, **readings: float
) -> tuple[float, float]:
    """Share of intervals that contain the newest value, and the median ratio of their ends."""
    rng = np.random.default_rng(7)
    found = [
        ratio_now(*moments(rng, scale, **readings), steps=STEPS[: len(scale)], learning_rate=rate)
        for _ in range(repeats)
    ]
    inside = [each.low <= scale[-1] <= each.high for each in found]
    return float(np.mean(inside)), float(np.median([each.high / each.low for each in found]))


@pytest.mark.parametrize(
    ("scale", "rate"),
    [
        (100 * (STEPS / 1200) ** 0.8, None),
        (100 * (STEPS / 1200) ** 1.5, None),
        (np.full(120, 100.0), None),
        (100 * (STEPS / 1200) ** -0.4, None),
        (np.where(STEPS < 700, 100.0, 700.0), np.where(STEPS < 700, 0.1, 0.01)),
        (100 * (0.02 + np.cos(STEPS / 800) ** 2) ** -0.7, 0.02 + np.cos(STEPS / 800) ** 2),
        (100 * np.exp(STEPS[:30] / 400), None),
    ],
    ids=[
        "rising",
        "rising fast",
        "still",
        "falling",
        "cut of the rate",
        "cosine",
        "30 readings, not a power",
    ],
)
def test_the_interval_contains_the_newest_value(scale: np.ndarray, rate: np.ndarray | None) -> None:
    share, width = covered(scale, rate)
    assert share >= 0.8  # nominal 0.9, with a standard error of 0.055
    assert width < 25


def test_a_mean_over_the_window_misses_where_the_value_now_does_not() -> None:
    rng, scale = np.random.default_rng(3), 100 * (STEPS / 1200) ** 1.2
    pairs = [moments(rng, scale, noise=0.5, tail=0.2) for _ in range(30)]
    assert np.median([ratio_of_means(*pair).value for pair in pairs]) < 60
    assert np.median([ratio_now(*pair, steps=STEPS).value for pair in pairs]) == pytest.approx(
        100, rel=0.1
    )


def test_without_drift_the_interval_is_narrow() -> None:
    steps, rng = np.arange(200), np.random.default_rng(1)
    ends = []
    for _ in range(30):
        found = ratio_now(np.full(200, 50.0), 1 + 0.8 * rng.standard_normal(200), steps=steps)
        ends.append(found.high / found.low)
    assert np.median(ends) <= 2


def test_without_noise_the_value_is_the_newest() -> None:
    found = ratio_now(np.full(80, 30.0), 600.0 / STEPS[:80], steps=STEPS[:80])
    assert found.value == pytest.approx(40, rel=0.05)  # the exponents are on a grid
    still = ratio_now(np.full(80, 30.0), np.full(80, 0.5), steps=STEPS[:80])
    assert (still.low, still.value, still.high) == pytest.approx((60, 60, 60), rel=1e-6)
    assert mean_now(np.full(80, -3.0), steps=STEPS[:80]).value == pytest.approx(-3)


def test_a_change_that_nothing_recorded_is_contained() -> None:
    rng, scale, inside = np.random.default_rng(5), np.where(STEPS < 800, 10.0, 200.0), 0
    for _ in range(30):
        found = ratio_now(*moments(rng, scale, noise=0.5, tail=0.3), steps=STEPS)
        inside += found.low <= 200 <= found.high
    assert inside >= 26


def test_few_readings_since_a_change_of_the_rate_are_said_to_be_extrapolated() -> None:
    variance, norm_squared = moments(np.random.default_rng(0), np.full(120, 100.0))
    for count, extrapolated in ((5, True), (30, False)):
        rate = np.where(np.arange(120) < 120 - count, 0.1, 0.01)
        found = ratio_now(variance, norm_squared, steps=STEPS, learning_rate=rate)
        assert ("extrapolated" in found.method) is extrapolated


def test_a_signal_lost_in_noise_gives_a_lower_bound_and_the_steps_that_are_missing() -> None:
    rng = np.random.default_rng(2)
    found = ratio_now(np.full(120, 50.0), 0.05 + rng.standard_normal(120), steps=STEPS)
    assert found.high == math.inf and found.low > 10 and str(found).startswith("at least")
    assert found.needed is None or found.needed > 0
    no_signal = ratio_now(np.full(120, 50.0), -1 - rng.random(120), steps=STEPS)
    assert no_signal.high == math.inf


def test_fewer_than_sixteen_readings_tell_nothing() -> None:
    found = ratio_now(np.ones(12), np.ones(12), steps=STEPS[:12])
    assert not found.tells and found.needed == 40
    assert not mean_now(np.ones(15), steps=STEPS[:15]).tells
    assert not mean_now(np.ones(0), steps=np.arange(0)).tells


def test_a_mean_of_either_sign_is_found() -> None:
    rng, inside = np.random.default_rng(4), 0
    truth = 2 * (STEPS / 1200) ** -0.5
    for sign in np.repeat([-1.0, 1.0], 15):
        found = mean_now(sign * truth * (1 + 1.5 * rng.standard_normal(120)), steps=STEPS)
        inside += found.low <= sign * 2 <= found.high
    assert inside >= 24
    none = [mean_now(rng.standard_normal(120), steps=STEPS) for _ in range(20)]
    assert sum(each.low <= 0 <= each.high for each in none) >= 16


@pytest.mark.parametrize("sizes", [(1e200, 1e150), (1e-200, 1e-180), (1e-160, 1e140)])
def test_huge_and_tiny_moments_are_only_scaled(sizes: tuple[float, float]) -> None:
    variance, norm_squared = moments(np.random.default_rng(0), np.full(120, 100.0), noise=0.5)
    plain = ratio_now(variance, norm_squared, steps=STEPS)
    found = ratio_now(variance * sizes[0], norm_squared * sizes[1], steps=STEPS)
    for end in ("low", "value", "high"):
        assert getattr(found, end) == pytest.approx(
            getattr(plain, end) * (sizes[0] / sizes[1]), rel=1e-6
        )
    early = trend(variance * sizes[0], norm_squared * sizes[1], steps=STEPS, now=found)
    assert early is not None and early.early.value == pytest.approx(
        100 * sizes[0] / sizes[1], rel=0.5
    )
    assert mean_now(norm_squared * sizes[1], steps=STEPS).tells


def test_zeros_give_no_number_that_looks_measured() -> None:
    zeros, ones = np.zeros(40), np.ones(40)
    assert ratio_now(zeros, ones, steps=STEPS[:40]).value == 0
    assert ratio_now(ones, zeros, steps=STEPS[:40]).high == math.inf
    assert mean_now(zeros, steps=STEPS[:40]).value == 0


def test_a_long_series_costs_no_more_than_a_short_one_and_agrees() -> None:
    count = 100_000
    steps, rng = np.arange(1, count + 1), np.random.default_rng(0)
    found = ratio_now(
        np.full(count, 50.0), 1e3 / steps * (1 + rng.standard_normal(count)), steps=steps
    )
    assert found.low <= 5_000 <= found.high and found.samples == count


def test_a_trend_is_claimed_only_where_it_is_shown() -> None:
    rng = np.random.default_rng(6)
    for power, direction in ((1.2, 1), (-1.2, -1), (0.0, 0)):
        pair = moments(rng, 100 * (STEPS / 1200) ** power, noise=0.5, tail=0.2)
        found = trend(*pair, steps=STEPS, now=ratio_now(*pair, steps=STEPS))
        assert found is not None and found.direction == direction and found.step == 205
    assert trend(np.ones(11), steps=STEPS[:11], now=Estimate.exact(1.0)) is None


@pytest.mark.slow
@pytest.mark.parametrize(("truth", "below"), [(-2.0, 1.0), (0.0, 1.0), (5.0, 1.0), (3.0, 0.05)])
def test_a_ratio_of_either_sign_covers_its_value_and_is_unknown_if_the_denominator_may_be_zero(
    truth: float, below: float
) -> None:
    rng = np.random.default_rng(8)
    covered = unknown = 0
    for _ in range(100):
        denominator = below + 0.3 * rng.standard_normal(100)
        numerator = truth * below + 0.5 * rng.standard_normal(100)
        found = ratio_now(numerator, denominator, steps=np.arange(100), nonnegative=False)
        covered += found.low <= truth <= found.high
        unknown += not found.tells
    assert covered >= 85
    assert unknown == 0 if below == 1.0 else unknown > 50


def test_a_drifting_ratio_of_negative_sign_is_the_one_of_now() -> None:
    rng = np.random.default_rng(9)
    numerator = -3 * (STEPS / 1200) ** 0.8 * (1 + 0.3 * rng.standard_normal(len(STEPS)))
    found = ratio_now(numerator, np.ones(len(STEPS)), steps=STEPS, nonnegative=False)
    assert found.low <= -3 <= found.high < -2


def test_two_clearly_positive_moments_have_the_same_ratio_whatever_signs_are_possible() -> None:
    pair = moments(np.random.default_rng(10), 100 * (STEPS / 1200) ** 0.8)
    assert ratio_now(*pair, steps=STEPS, nonnegative=False) == ratio_now(*pair, steps=STEPS)


def test_the_expected_drift_is_that_of_denominator_over_numerator_for_either_sign() -> None:
    """The rate falls tenfold at the newest reading, so the value there rests on the prior: the
    ratio grows tenfold."""
    prior = Drift(time=(0.0, 0.05), rate=(1.0, 0.05), still=0.0, share=1.0)
    rates = np.where(np.arange(20) < 19, 0.1, 0.01)
    numerator = 2 + 0.1 * np.random.default_rng(11).standard_normal(20)
    for sign in (1, -1):
        found = ratio_now(
            sign * numerator,
            np.ones(20),
            steps=np.arange(20),
            learning_rate=rates,
            nonnegative=False,
            prior=prior,
        )
        assert 15 < sign * found.value < 25 and "extrapolated" in found.method


def test_an_interval_that_the_newest_readings_open_names_no_number_of_steps() -> None:
    rng = np.random.default_rng(12)
    variance, norm_squared = np.full(200, 100.0), 1 + 0.05 * rng.standard_normal(200)
    norm_squared[-14:] /= 100
    found = ratio_now(variance, norm_squared, steps=np.arange(200))
    assert found.high == math.inf and found.low > 50 and found.needed is None


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: ratio_now(np.full(20, math.nan), np.ones(20), steps=STEPS[:20]), "numerator"),
        (lambda: ratio_now(np.ones(20), np.full(20, math.inf), steps=STEPS[:20]), "denominator"),
        (lambda: unwrap(ratio_now)(np.ones(20), np.ones(19), steps=STEPS[:20]), "denominator"),
        (lambda: unwrap(ratio_now)(np.ones(20), np.ones(20), steps=STEPS[:19]), "steps"),
        (lambda: ratio_now(np.ones(20), np.ones(20), steps=STEPS[:20][::-1]), "steps"),
        (lambda: mean_now(np.ones(20), steps=np.zeros(20)), "steps"),
        (
            lambda: unwrap(mean_now)(np.ones(20), steps=STEPS[:20], learning_rate=np.ones(3)),
            "learning_rate",
        ),
        (
            lambda: mean_now(np.ones(20), steps=STEPS[:20], learning_rate=-np.ones(20)),
            "learning_rate",
        ),
        (lambda: mean_now(np.ones(20), steps=STEPS[:20], level=90.0), "level"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(call: Callable[[], object], argument: str) -> None:
    with pytest.raises(BadArgument, match=f"`{argument}`"):
        call()


def test_the_prior_is_what_the_field_has_seen() -> None:
    assert NOISE_PRIOR.log_density(np.array([-0.6]), np.array([0.7])) > NOISE_PRIOR.log_density(
        np.array([1.5]), np.array([0.7])
    )
