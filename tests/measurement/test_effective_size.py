"""The effective sample sizes: closed forms of autoregressive chains, arviz's values, and the
intervals' coverage."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from arviz_stats.base.array import array_stats
from scipy.integrate import quad
from scipy.signal import lfilter
from scipy.special import ndtri

from gradiometer.measurement import Estimate
from gradiometer_lab.chains.mixing import autocorrelations, bulk_size, tail_size

SETTINGS = [
    # draws, chains, memory
    (400, 6, 0.6),
    (400, 4, 0.6),
    (500, 2, 0.6),
    (1000, 4, 0.9),
    (1000, 8, 0.9),
    (2000, 4, 0.95),
    (300, 8, 0.0),
    (500, 4, -0.3),
]


def chains_of(draws: int, chains: int, memory: float, seed: int) -> np.ndarray:
    """x' = ρx + √(1 − ρ²) ξ from its stationary law N(0, 1)."""
    noise = np.random.default_rng(seed).standard_normal((draws, chains))
    noise[1:] *= math.sqrt(1 - memory**2)
    walks: np.ndarray = lfilter([1], [1, -memory], noise, axis=0)
    return walks


def exact_bulk(draws: int, chains: int, memory: float) -> float:
    """n(1 − ρ)/(1 + ρ): the ranks' normal scores are the draws themselves."""
    return draws * chains * (1 - memory) / (1 + memory)


def exact_tail(draws: int, chains: int, memory: float) -> float:
    """For I(x ≤ q), whose covariance at lag k is ∫₀^{ρᵏ} φ₂(q, q; r) dr, the derivative of the
    bivariate Gaussian's law."""
    place = float(ndtri(0.05))

    def covariance(correlation: float) -> float:
        density = quad(
            lambda r: math.exp(-(place**2) / (1 + r)) / math.sqrt(1 - r * r), 0, correlation
        )[0]
        return float(density) / (2 * math.pi)

    lags = math.ceil(math.log(1e-6) / math.log(abs(memory)))
    return (
        draws
        * chains
        / (1 + 2 * sum(covariance(memory**lag) for lag in range(1, lags)) / (0.05 * 0.95))
    )


@pytest.mark.parametrize(
    ("size", "method"),
    [(bulk_size, {"method": "bulk"}), (tail_size, {"method": "tail", "prob": (0.05, 0.95)})],
)
def test_values_are_those_of_arviz(
    size: Callable[..., Estimate], method: dict[str, object]
) -> None:
    for draws, chains, seed in ((101, 3, 0), (20, 2, 1), (400, 7, 2)):
        values = chains_of(draws, chains, 0.5, seed)
        found = size(values)
        assert found.value == pytest.approx(float(array_stats.ess(values.T, **method)), rel=1e-12)
        assert 0 < found.low < found.value < found.high < math.inf


def coverage(
    size: Callable[..., Estimate],
    exact: Callable[..., float],
    settings: list[tuple[int, int, float]],
    runs: int,
    bias: float = 0.06,
) -> np.ndarray:
    """Share of intervals that contain the exact size. The mean error of the log size must be below
    `bias`."""
    covered = []
    for setting in settings:
        truth = exact(*setting)
        found = [size(chains_of(*setting, seed)) for seed in range(runs)]
        assert np.mean([math.log(each.value / truth) for each in found]) == pytest.approx(
            0, abs=bias
        )
        covered.append(np.mean([each.low <= truth <= each.high for each in found]))
    return np.array(covered)


@pytest.mark.slow
def test_the_interval_of_the_bulk_covers() -> None:
    covered = coverage(bulk_size, exact_bulk, [(400, 6, 0.6), (500, 2, 0.6)], 150)
    assert covered.min() >= 0.9 - 3 * math.sqrt(0.09 / 150), covered


@pytest.mark.nightly
def test_the_intervals_cover_at_every_setting() -> None:
    """Nine times in ten or a little more: between 86 and 98 %."""
    runs = 300
    bulk = coverage(bulk_size, exact_bulk, SETTINGS, runs)
    # the smaller of two reads low
    tail = coverage(tail_size, exact_tail, SETTINGS[:5], runs, bias=0.1)
    for covered in (bulk, tail):
        assert covered.min() >= 0.86 and covered.max() <= 0.985, covered
        assert 0.87 <= covered.mean() <= 0.95, covered


def test_the_interval_is_wider_at_a_higher_level() -> None:
    values = chains_of(200, 4, 0.5, seed=3)
    narrow, wide = bulk_size(values, 0.5), bulk_size(values, 0.99)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_draws_of_few_values_have_a_size() -> None:
    coin = np.random.default_rng(0).integers(0, 2, (60, 3)).astype(float)
    for size in (bulk_size, tail_size):
        found = size(coin)
        assert math.isfinite(found.value) and found.low < found.value < found.high


def test_autocorrelations_are_those_of_the_formula() -> None:
    draws = chains_of(500, 2, 0.6, seed=0)
    away = draws - draws.mean(0)
    expected = [(away[lag:] * away[: 500 - lag]).sum(0) / (away**2).sum(0) for lag in range(5)]
    np.testing.assert_allclose(autocorrelations(draws, 5), expected, atol=1e-12)
