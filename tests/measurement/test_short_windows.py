"""Windows of 30 readings that are fourth powers of gradients: intervals that cover, or none."""

import math

import numpy as np
import pytest
from short_windows import FAMILIES, scores

from gradiometer import Draw, Sampling, Series


def series(samples: np.ndarray, newest: bool = False) -> Series:
    count = len(samples)
    made = Series(
        "mine", np.arange(count), np.full(count, 32), np.full(count, 0.1), {}, Sampling(Draw.FRESH)
    )
    return made.at_newest() if newest else made


@pytest.mark.parametrize("newest", [True, False])
def test_a_mean_that_few_readings_carry_is_unknown(newest: bool) -> None:
    samples = np.ones(30)
    samples[3] = 100
    window = series(samples, newest)
    assert window.mean(samples).tells and not window.mean(samples, fourth_powers=True).tells
    assert window.mean(samples, fourth_powers=True).method.endswith("few readings carry it")
    assert window.mean(samples[::-1] * 0 + np.arange(30) % 3, fourth_powers=True).tells


@pytest.mark.parametrize("newest", [True, False])
def test_a_ratio_whose_denominator_may_be_zero_is_unknown(newest: bool) -> None:
    noise = np.random.default_rng(0).normal(size=30)
    above = 1 + noise[::-1] / 10
    for mean, known in ((0.4, False), (2.0, True)):  # 2.2 and 11 standard errors
        ratio = series(above, newest).ratio(above, mean + noise - noise.mean(), fourth_powers=True)
        assert ratio.tells == known


def test_a_slow_drift_is_not_taken_for_few_readings() -> None:
    falling = 0.8 ** np.arange(60.0)
    assert series(falling, newest=True).mean(falling, fourth_powers=True).tells


def test_the_interval_of_a_window_has_room_for_skewness() -> None:
    """Of exponential readings Student's interval ends too low in one window of ten."""
    random = np.random.default_rng(1)
    plain, roomy, known = 0, 0, 0
    for _ in range(200):
        samples = random.exponential(size=30)
        found = series(samples).mean(samples, fourth_powers=True)
        if math.isfinite(found.high):
            known += 1
            roomy += found.high < 1
            plain += series(samples).mean(samples).high < 1
    assert known > 150 and roomy < 0.08 * known and roomy < plain


@pytest.mark.nightly
@pytest.mark.parametrize("name", FAMILIES)
def test_few_windows_of_thirty_readings_are_wrong(name: str) -> None:
    for newest in (True, False):
        for quantity, score in scores(FAMILIES[name](), 100, newest, seed=3).items():
            assert score.wrong <= 0.2, quantity
