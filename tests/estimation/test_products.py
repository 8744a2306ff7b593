"""‖g‖² from products of successive gradients: known answers on quadratics, the combination, and
refusals."""

import numpy as np
import pytest
from noise.quadratics import BATCH, READINGS, RULES, Rule, readings_of, reshuffled, walk

from gradiometer.errors import BadArgument
from gradiometer.estimation.products import (
    PRODUCT_PRIOR,
    GradientMemory,
    Signal,
    by_loss,
    combination,
    signal,
    slope_of_loss,
)
from gradiometer.measurement.uncertainty.now import ratio_now

RUNS = 100


def _z(samples: np.ndarray) -> float:
    return float(samples.mean() / (samples.std(ddof=1) / np.sqrt(len(samples))))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
@pytest.mark.parametrize("size", [0.1, pytest.param(1.0, marks=pytest.mark.slow)])
def test_the_combination_is_right_and_its_interval_covers(rule: Rule, size: float) -> None:
    """The bias is at most a quarter of the interval, and nominal 90 % covers in at least 85 %. A
    product without what the same batch gave a step before is ‖g‖², up to chance."""
    seen = walk(rule, size, runs=RUNS, steps=600, seed=4, settle=600)
    assert abs(_z((seen.product - seen.level - seen.truth).mean(axis=1))) < 3
    truth = seen.variance.mean() / seen.truth.mean()
    means, covered, widths = [], 0, []
    for run in range(RUNS):
        found, norm_squared = readings_of(seen, run, rule)
        scale = ratio_now(
            BATCH * (norm_squared - found.norm_squared),
            found.norm_squared,
            steps=np.arange(len(norm_squared)),
            prior=PRODUCT_PRIOR,
            rare_noise=1 / BATCH,
        )
        means.append(found.norm_squared.mean())
        covered += scale.low <= truth <= scale.high
        widths.append(1 / scale.low - 1 / scale.high)
    assert abs(np.mean(means) / seen.variance.mean() - 1 / truth) < np.median(widths) / 4
    assert covered >= 0.85 * RUNS


def test_the_loss_gives_the_gradient_where_the_lags_bend() -> None:
    """With Nesterov at a large rate a line through the lags is far off: the combination leaves it,
    and no interval has to contain its negative ‖g‖²."""
    rule = RULES[2]
    seen = walk(rule, 1.0, runs=4, steps=600, seed=5, settle=200)
    found, _ = readings_of(seen, 0, rule)
    truth = seen.truth[0].mean()
    assert found.ways["lags"].mean() < 0
    assert abs(found.norm_squared.mean() / truth - 1) < 0.2
    assert found.doubted == ("lags",)
    assert found.contradictions == ()


def test_a_way_that_is_clearly_above_zero_widens_the_interval() -> None:
    rng = np.random.default_rng(2)
    low = 1 + 0.1 * rng.normal(size=64)
    contradicting = 3 + 0.1 * rng.normal(size=64)
    (kept,) = Signal(low, {"loss": low, "lags": contradicting}).contradictions
    assert kept is contradicting


@pytest.mark.parametrize(
    ("place", "size", "doubted"),
    [(1, 0.1, ()), (1, 2.0, ("floor",)), (3, 3.0, ()), (3, 30.0, ("floor",))],
)
def test_without_the_loss_a_floor_shows_where_the_lags_bend(
    place: int, size: float, doubted: tuple[str, ...]
) -> None:
    """At rates near the edge the lags see a tenth (heavy ball) or 0.7 (AdamW) of ‖g‖²."""
    rule = RULES[place]
    seen = walk(rule, size, runs=4, steps=600, seed=5, settle=200)
    for run in range(4):
        found = signal(
            readings(seen.product[run]),
            readings(seen.norm_squared[run]),
            momentum=rule.momentum,
            memory=readings(seen.memory[run]),
        )
        truth = seen.truth[run].mean()
        assert found.doubted == doubted
        if doubted:
            assert found.norm_squared.mean() < 0.8 * truth
            assert abs(found.ways["floor"].mean() / truth - 1) < 0.05


def readings(columns: np.ndarray) -> np.ndarray:
    return columns.reshape(READINGS, -1).mean(axis=1)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_reshuffled_epochs_are_corrected(momentum: float) -> None:
    """The slope of the loss less tr Σ/N is ‖g‖² at stationarity; without the correction it is far
    too large."""
    seen = reshuffled(momentum, 0.1, examples=1400, batch=32, runs=200, seed=6)
    memory = None if momentum == 0 else seen["memory"]
    plain = by_loss(
        seen["product"], memory, np.zeros_like(seen["product"]), GradientMemory(momentum)
    )
    share = 32 / 1400
    corrected = (plain - share / (1 - share) * seen["norm_squared"]) / (1 - share / (1 - share))
    truth = seen["truth"].mean()
    assert 0.9 < corrected.mean() / truth < 1.15
    if momentum == 0:
        assert plain.mean() / truth > 1.5


def test_in_reshuffled_epochs_near_the_noise_scale_the_lags_stand_alone() -> None:
    """Where tr Σ/N is 0.8 of ‖g‖², the slope of the loss gives nearly five times ‖g‖²."""
    seen = reshuffled(0.9, 0.01, examples=1400, batch=32, runs=200, seed=6)
    still = np.zeros(200)
    found = signal(
        seen["product"],
        seen["norm_squared"],
        momentum=GradientMemory(0.9),
        memory=seen["memory"],
        loss=still,
        travelled=np.arange(200.0),
        share_of_examples=32 / 1400,
    )
    assert list(found.ways) == ["lags"]
    assert 0.8 < found.norm_squared.mean() / seen["truth"].mean() < 1.5


def test_a_noisy_way_does_no_harm() -> None:
    rng = np.random.default_rng(1)
    steady, noisy = 1 + 0.2 * rng.normal(size=96), 1 + 40 * rng.normal(size=96)
    assert abs(combination(steady, noisy).mean() - 1) < 0.5


def test_ways_that_agree_are_not_doubted() -> None:
    rng = np.random.default_rng(2)
    way = 1 + rng.normal(size=64)
    assert Signal(way, {"lags": way, "loss": way + 0.1 * rng.normal(size=64)}).doubted == ()


def test_refusals() -> None:
    ones = np.ones(8)
    with pytest.raises(BadArgument, match="`decay` must be at least 0 and below 1, got 1"):
        GradientMemory(1.0)
    with pytest.raises(BadArgument, match="`product` alone is not enough"):
        signal(ones, ones, momentum=GradientMemory())


def test_the_slope_is_per_unit_of_the_rate() -> None:
    travelled = np.cumsum(np.r_[np.full(10, 0.1), np.full(10, 0.01)])
    assert slope_of_loss(5 - 2 * travelled, travelled, 2) == pytest.approx(2.0)
