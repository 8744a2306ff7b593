"""Fieller's set: the ratios compatible with two means, in all its shapes."""

import math

import numpy as np
import pytest

from gradiometer.measurement.uncertainty.means import fieller_set, ratio_interval, steps_to_bound

INF = math.inf


def contradicts(
    ratio: np.ndarray, means: np.ndarray, covariance: np.ndarray, quantile: float
) -> np.ndarray:
    variance = covariance[0, 0] - 2 * ratio * covariance[0, 1] + ratio**2 * covariance[1, 1]
    return (means[0] - ratio * means[1]) ** 2 > quantile**2 * variance


def test_fiellers_set_agrees_with_trying_every_ratio():
    rng = np.random.default_rng(9)
    grid = np.tan(np.linspace(-math.pi / 2, math.pi / 2, 4001)[1:-1])
    seen = set()
    for _ in range(500):
        factor = rng.standard_normal((2, 2))
        means, covariance, quantile = (
            rng.standard_normal(2) * 2,
            factor @ factor.T,
            rng.uniform(0.3, 2),
        )
        parts = fieller_set(means, covariance, quantile)
        inside = np.any([(low <= grid) & (grid <= high) for low, high in parts], axis=0)
        np.testing.assert_array_equal(inside, ~contradicts(grid, means, covariance, quantile))
        seen.add((len(parts), math.isfinite(parts[0][0]), math.isfinite(parts[-1][1])))
    assert seen == {(1, True, True), (2, False, False), (1, False, False)}


@pytest.mark.parametrize(
    ("means", "covariance", "parts"),
    [
        ((6.0, 2.0), ((0, 0), (0, 0)), [(3, 3)]),
        ((0.0, 2.0), ((0, 0), (0, 0)), [(0, 0)]),
        ((0.0, 0.0), ((0, 0), (0, 0)), [(-INF, INF)]),
        ((1.0, 0.0), ((0, 0), (0, 0)), []),
        ((3.0, 2.0), ((1, 0), (0, 0)), [(1, 2)]),  # a known denominator: (3 ± 1)/2
        ((2.0, 3.0), ((0, 0), (0, 1)), [(0.5, 1)]),  # a known numerator: 2/(3 ± 1)
        ((2.0, 1.0), ((0, 0), (0, 4)), [(-INF, -2), (2 / 3, INF)]),  # and 2/(1 ± 2)
        ((2.0, 1.0), ((0, 0), (0, 1)), [(1, INF)]),  # and 2/(1 ± 1)
        ((-2.0, 1.0), ((0, 0), (0, 1)), [(-INF, -1)]),
        ((1.0, 1.0), ((2, 0), (0, 2)), [(-INF, INF)]),
    ],
)
def test_fiellers_set_has_the_known_shapes(means, covariance, parts):
    result = fieller_set(np.array(means), np.array(covariance, dtype=float), 1.0)
    assert [tuple(part) for part in result] == [pytest.approx(part) for part in parts]


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ((2.0, 3.0), (2 / 3, 0.5, 1)),
        ((2.0, 0.5), (4, 4 / 3, INF)),
        ((2.0, 0.0), (INF, 2, INF)),
        ((2.0, -0.5), (INF, 2, INF)),
        ((2.0, -3.0), (INF, 2, INF)),  # as far below zero as that, it still says no more than zero
        ((-2.0, 3.0), (0, 0, 0)),
    ],
)
def test_a_negative_mean_gives_no_narrower_interval_than_zero(means, expected):
    covariance = np.array([[0.0, 0.0], [0.0, 1.0]])
    assert ratio_interval(np.array(means), covariance, 1.0, nonnegative=True) == pytest.approx(
        expected
    )


def test_two_means_below_zero_leave_a_nonnegative_ratio_unknown():
    value, low, high = ratio_interval(np.array([-0.5, -0.5]), np.eye(2), 1.0, nonnegative=True)
    assert math.isnan(value)
    assert (low, high) == (0, INF)


def test_nonnegative_only_cuts_the_interval_at_zero_or_widens_it():
    rng = np.random.default_rng(10)
    for _ in range(300):
        factor, means = rng.standard_normal((2, 2)), rng.standard_normal(2) * 2
        covariance = factor @ factor.T
        value, low, high = ratio_interval(means, covariance, 1.7, nonnegative=True)
        ratios = np.concatenate([np.geomspace(1e-3, 1e3, 200), [0.0]])
        possible = ratios[~contradicts(ratios, means, covariance, 1.7)]
        assert ((low <= possible) & (possible <= high)).all()
        assert low >= 0
        assert math.isnan(value) or low <= value <= high


@pytest.mark.parametrize(
    ("denominator", "margin", "needed"),
    [(1.0, 3.0, 800), (1.0, 1.0, 1), (0.0, 1.0, None), (1e-320, 1e200, None)],
)
def test_the_steps_to_a_bound_grow_as_the_square_of_the_shortfall(denominator, margin, needed):
    assert steps_to_bound(denominator, margin, 100.0) == needed
