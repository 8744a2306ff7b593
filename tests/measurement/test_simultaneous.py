"""Intervals that cover several means together, and the sampling of examples added to them."""

import math

import numpy as np
import pytest
from scipy.stats import t

from gradiometer import BadArgument, Estimate
from gradiometer.measurement.uncertainty.differences import (
    mean_of_few,
    over_examples_too,
    simultaneous_means,
)

EQUAL, UNLIKE = np.ones(7), np.array([0.3, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4])


def differences(deviations: np.ndarray, pairs: int, generator: np.random.Generator) -> np.ndarray:
    """Six alternatives minus a baseline, all with true mean zero."""
    ends = generator.standard_normal((pairs, 7)) * deviations
    return ends[:, 1:] - ends[:, :1]


def coverage(deviations: np.ndarray, pairs: int, sets: int) -> tuple[float, float]:
    """Share of sets in which all intervals cover, and their width relative to Bonferroni's."""
    generator, covered, widths = np.random.default_rng(3), 0, []
    bonferroni = t.ppf(1 - 0.05 / 6, pairs - 1)
    for _ in range(sets):
        found = differences(deviations, pairs, generator)
        means = simultaneous_means(found)
        covered += all(mean.low <= 0 <= mean.high for mean in means)
        widths.append(
            np.mean([(mean.high - mean.value) for mean in means])
            / bonferroni
            / np.mean(found.std(axis=0, ddof=1) / math.sqrt(pairs))
        )
    return covered / sets, float(np.mean(widths))


def test_a_single_alternative_has_students_interval() -> None:
    found = np.array([[0.2], [0.5], [0.1]])
    assert simultaneous_means(found) == (mean_of_few([0.2, 0.5, 0.1]),)


def test_intervals_scale_with_the_differences_and_are_reproducible() -> None:
    found = differences(UNLIKE, 4, np.random.default_rng(0))
    first, scaled = simultaneous_means(found), simultaneous_means(found * 1e-9)
    assert [mean.high * 1e-9 for mean in first] == pytest.approx([mean.high for mean in scaled])
    assert simultaneous_means(found) == first


def test_an_alternative_that_never_differs_has_an_exact_effect_and_changes_no_other() -> None:
    found = differences(EQUAL, 4, np.random.default_rng(0))
    with_zero = np.concatenate([np.zeros((4, 1)), found], axis=1)
    same, *others = simultaneous_means(with_zero)
    assert (same.low, same.high) == (0, 0)
    assert [mean.high for mean in others] == [mean.high for mean in simultaneous_means(found)]
    assert [mean.high for mean in simultaneous_means(np.zeros((3, 2)))] == [0, 0]


def test_with_four_pairs_they_cover_and_are_narrower_than_bonferronis() -> None:
    covered, width = coverage(EQUAL, 4, 40)
    assert covered > 0.8 and width < 0.8


@pytest.mark.nightly
@pytest.mark.parametrize("pairs", [2, 3, 4, 8])
@pytest.mark.parametrize(
    "deviations",
    [EQUAL, UNLIKE, np.array([0.1, 1, 1, 1, 1, 1, 0.05])],
    ids=["equal", "unlike", "few small"],
)
def test_they_cover_for_equal_and_unlike_spreads(deviations: np.ndarray, pairs: int) -> None:
    covered, width = coverage(deviations, pairs, 400)
    assert 0.85 < covered < 0.99
    assert width < 1.05


def test_a_mean_over_runs_and_examples_covers_the_mean_of_both() -> None:
    generator, pairs, examples, misses, narrow = np.random.default_rng(8), 4, 60, 0, 0
    for _ in range(400):
        found = (
            generator.standard_normal((pairs, 1)) * 0.1
            + generator.standard_normal(examples)
            + generator.standard_normal((pairs, examples)) * 0.7
        )
        here = mean_of_few(found.mean(axis=1).tolist())
        (both,) = over_examples_too([here], [found])
        misses += not both.low <= 0 <= both.high
        narrow += not here.low <= 0 <= here.high
    assert 0.06 < misses / 400 < 0.13
    assert narrow / 400 > 0.2


def test_alternatives_that_differ_on_the_same_examples_need_no_wider_intervals_than_one() -> None:
    generator = np.random.default_rng(2)
    hard, own = generator.standard_normal((1, 300)), generator.standard_normal((4, 1, 300))
    noise = 1e-3 * generator.standard_normal((4, 3, 300))
    here = [mean_of_few([0.0, 1e-9, -1e-9])] * 4

    def reach(rows: np.ndarray) -> float:
        return over_examples_too(here, [*rows])[0].high

    alone = over_examples_too(here[:1], [hard + noise[0]])[0].high
    assert reach(hard + noise) == pytest.approx(alone, rel=0.05)
    independent = reach(own / own[0].std() * hard.std() + noise)
    assert independent == pytest.approx(
        alone * t.ppf(1 - (1 - 0.9**0.25) / 2, 299) / t.ppf(0.95, 299), rel=0.05
    )


def test_examples_that_do_not_differ_widen_nothing() -> None:
    here = mean_of_few([0.1, 0.3, 0.2])
    (same,) = over_examples_too([here], [np.repeat([[0.1], [0.3], [0.2]], 50, axis=1)])
    assert (same.low, same.high) == pytest.approx((here.low, here.high))
    assert same.method == "Student over 3 pairs; 50 examples"


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (np.zeros((1, 3)), "`differences` must hold at least 2 pairs, got 1"),
        (np.array([[1.0, math.nan], [0.0, 1.0]]), "`differences` must be finite"),
    ],
)
def test_differences_that_allow_no_interval_are_refused(found: np.ndarray, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        simultaneous_means(found)
    with pytest.raises(BadArgument, match=message):
        over_examples_too([Estimate.exact(0.0)], [found])
