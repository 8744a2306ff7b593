"""Differences between runs: the intervals cover, the needed pairs are enough, and bad arguments
raise."""

import math

import numpy as np
import pytest

from gradiometer import BadArgument
from gradiometer.measurement import Estimate
from gradiometer.measurement.uncertainty import proportion
from gradiometer.measurement.uncertainty.arithmetic import (
    difference_of_estimates,
    ratio_of_estimates,
)
from gradiometer.measurement.uncertainty.differences import (
    MOST_PAIRS,
    difference_over_runs,
    mean_of_few,
    pairs_needed,
)

TRIALS = 2_000
ERROR = 3 * math.sqrt(0.09 / TRIALS)
"""Three standard errors of a coverage of 90 % in this many trials."""


def interval(value: float, low: float, high: float, level: float = 0.9) -> Estimate:
    return Estimate.interval(value, low, high, level=level, method="t", samples=50)


@pytest.mark.parametrize("pairs", [2, 3, 6])
def test_the_interval_of_a_mean_over_few_pairs_covers(pairs: int) -> None:
    random = np.random.default_rng(pairs)
    found = [mean_of_few(list(random.normal(0.3, 1.0, pairs))) for _ in range(TRIALS)]
    covered = np.mean([each.low <= 0.3 <= each.high for each in found])
    assert abs(covered - 0.9) < ERROR


def test_the_pooled_spread_covers_for_one_run_against_three() -> None:
    random = np.random.default_rng(0)
    found = [
        difference_over_runs(list(random.normal(1.0, 0.5, 1)), list(random.normal(0.2, 0.5, 3)))
        for _ in range(TRIALS)
    ]
    covered = np.mean([each.low <= 0.8 <= each.high for each in found])
    assert abs(covered - 0.9) < ERROR


def test_the_interval_of_a_difference_of_accuracies_covers() -> None:
    random = np.random.default_rng(1)
    found = [
        difference_of_estimates(proportion(int(a), 200), proportion(int(b), 200))
        for a, b in zip(
            random.binomial(200, 0.97, TRIALS), random.binomial(200, 0.9, TRIALS), strict=True
        )
    ]
    covered = np.mean([each.low <= 0.07 <= each.high for each in found])
    assert 0.9 - ERROR < covered < 0.94


def test_a_ratio_is_the_difference_of_logarithms_and_keeps_infinite_ends() -> None:
    ratio = ratio_of_estimates(interval(6.0, 3.0, 12.0), interval(2.0, 1.0, 4.0))
    assert ratio.value == pytest.approx(3.0)
    assert ratio.low == pytest.approx(3.0 * 2 ** -math.sqrt(2))
    assert ratio.high == pytest.approx(3.0 * 2 ** math.sqrt(2))
    opened = ratio_of_estimates(interval(6.0, 3.0, math.inf), interval(2.0, 1.0, 4.0))
    assert (opened.low, opened.high) == (ratio.low, math.inf)
    below = ratio_of_estimates(interval(2.0, 1.0, 4.0), interval(6.0, 3.0, math.inf))
    assert (below.low, below.high) == (0.0, pytest.approx(1 / 3 * 2 ** math.sqrt(2)))
    assert not ratio_of_estimates(interval(math.inf, 3.0, math.inf), interval(2.0, 1.0, 4.0)).tells


def test_an_estimate_with_an_infinite_end_leaves_the_difference_unknown() -> None:
    assert not difference_of_estimates(interval(6.0, 3.0, math.inf), interval(2.0, 1.0, 4.0)).tells


def test_the_needed_pairs_show_the_difference_in_four_of_five_cases() -> None:
    needed = pairs_needed(0.5, 1.0, freedom=30)
    assert needed.low < needed.about < needed.high
    random = np.random.default_rng(2)
    found = [mean_of_few(list(random.normal(0.5, 1.0, int(needed.about)))) for _ in range(TRIALS)]
    assert np.mean([each.low > 0 for each in found]) == pytest.approx(0.8, abs=0.05)


def test_no_number_of_pairs_shows_a_difference_of_zero() -> None:
    assert pairs_needed(0.0, 1.0, freedom=2).about == math.inf
    assert str(pairs_needed(1e-9, 1.0, freedom=2)).startswith(f"about more than {MOST_PAIRS:,}")
    assert pairs_needed(100.0, 1.0, freedom=2).about == 2


def test_bad_arguments_raise() -> None:
    for call, message in (
        (
            lambda: mean_of_few([0.1]),
            "`differences` must hold at least 2 values, got 1: add runs",
        ),
        (lambda: mean_of_few([0.1, math.nan]), "`differences` must be finite"),
        (
            lambda: mean_of_few([0.1, 0.2], level=math.nan),
            "`level` must lie between 0 and 1, got nan",
        ),
        (
            lambda: difference_of_estimates(
                interval(1.0, 0.0, 2.0), interval(1.0, 0.0, 2.0, level=0.8)
            ),
            "at one level, got 0.9",
        ),
        (
            lambda: ratio_of_estimates(interval(1.0, 0.0, 2.0), interval(1.0, 0.0, 2.0, level=0.8)),
            "at one level, got 0.9",
        ),
    ):
        with pytest.raises(BadArgument, match=message):
            call()
