"""What a batch buys: the model's formulas, intervals carried through, and the choice of a batch in
time and examples."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from gradiometer import BadArgument
from gradiometer.estimation import GradientNoise, relative_updates
from gradiometer.estimation.batch_table import (
    FEWEST_ROUNDS,
    MOST_ROUNDS,
    BatchTable,
    batch_sizes,
    step_times,
)
from gradiometer.measurement import Draw, Estimate, Reading, Sampling, Series

SIZES = (8, 16, 32, 64, 128)


def updates_factor(batch_size: float, noise_scale: float | np.ndarray) -> float | np.ndarray:
    """1 + B_noise/B, written out once more."""
    return 1 + noise_scale / batch_size


def scale(value: float, low: float, high: float) -> Estimate:
    """A noise scale."""
    return Estimate.interval(
        float(value),
        float(low),
        float(high),
        level=0.9,
        method="Fieller, 24 batches of 8",
        samples=200,
        unit="examples",
    )


def table(noise_scale: Estimate, times: dict[int, Estimate] | None = None) -> BatchTable:
    """At B = 32 and η = 0.1."""
    return BatchTable.of([noise_scale], SIZES, present=32, learning_rate=0.1, relative_times=times)


def linear(overhead: float) -> dict[int, Estimate]:
    """Times of a step that costs an overhead and a time an example, known within 5 %."""
    times = {size: (overhead + size) / (overhead + 32) for size in SIZES}
    return {
        size: Estimate.exact(1.0)
        if size == 32
        else Estimate.interval(t, 0.95 * t, 1.05 * t, level=0.9, method="median of 9", samples=9)
        for size, t in times.items()
    }


def test_factors_equal_the_model_relative_to_the_present_batch() -> None:
    for row in table(scale(96, 80, 120)).rows:
        updates = updates_factor(row.batch_size, 96) / updates_factor(32, 96)
        examples = (1 + row.batch_size / 96) / (1 + 32 / 96)
        assert row.updates.value == pytest.approx(updates)
        assert row.examples.value == pytest.approx(examples)
        assert row.learning_rate.value == pytest.approx(0.1 / updates)
        ends = sorted(
            updates_factor(row.batch_size, end) / updates_factor(32, end) for end in (80, 120)
        )
        assert [row.updates.low, row.updates.high] == pytest.approx(ends)


def test_the_present_batch_is_exact() -> None:
    row = table(scale(96, 80, 120)).rows[2]
    assert row.updates == row.examples == Estimate.exact(1.0)
    assert row.learning_rate.value == row.learning_rate.low == row.learning_rate.high == 0.1


def test_an_unbounded_noise_scale_still_bounds_the_factor() -> None:
    factor = relative_updates([scale(math.inf, 64, math.inf)], 32, 128)
    # the linear rule: four times the batch, a quarter of the updates
    assert factor.value == factor.low == 0.25
    assert factor.high == pytest.approx(1.5 / 3)


def test_an_unknown_noise_scale_leaves_the_factor_between_its_bounds() -> None:
    unknown = Estimate.unknown(
        level=0.9, method="too few readings", samples=2, unit="examples", needed=2
    )
    factor = relative_updates([unknown], 32, 128)
    assert (factor.low, factor.high) == (0.25, 1.0)
    assert math.isnan(factor.value) or factor.low <= factor.value <= factor.high


def test_the_factor_of_a_run_is_the_mean_over_its_windows() -> None:
    """Not the factor of the mean noise scale: B = 32 of 10 and 1,000 is 1.0 and 0.5, not nearly 0.5
    twice."""
    windows = [scale(10, 9, 11), scale(1000, 900, 1100)]
    expected = np.mean(
        [updates_factor(64, noise) / updates_factor(32, noise) for noise in (10, 1000)]
    )
    factor = relative_updates(windows, 32, 64)
    assert factor.value == pytest.approx(expected)
    assert factor.samples == 400 and factor.method == "mean of 2 windows, Fieller"


def test_the_factor_of_a_run_equals_an_integral_done_by_hand() -> None:
    """An integral done by hand: 300 steps at B = 16 through B_noise = 16, 48 and 112, at B = 64."""
    counted = sum(100 / (1 + noise / 16) * (1 + noise / 64) for noise in (16, 48, 112))
    factor = relative_updates([scale(noise, noise, noise) for noise in (16, 48, 112)], 16, 64)
    assert 300 * factor.value == pytest.approx(counted)


@pytest.mark.slow
def test_intervals_of_the_factor_along_a_path_cover_at_their_level() -> None:
    """Six windows of readings of half-batches, in each of which B_noise is another one."""
    generator, truths = np.random.default_rng(0), np.array([20.0, 30.0, 50.0, 80.0, 120.0, 200.0])
    truth, held, runs = np.mean(updates_factor(64, truths) / updates_factor(32, truths)), 0, 60
    for _ in range(runs):
        scales = []
        for noise in truths:
            trace = noise * generator.chisquare(20, 40) / 20
            signal = 1 + generator.normal(0, math.sqrt(2) * noise / 32 / math.sqrt(20), 40)
            readings = [
                Reading(
                    "noise", step, 32, 0.1, {"gradient_variance": [t], "gradient_norm_squared": [s]}
                )
                for step, (t, s) in enumerate(zip(trace.tolist(), signal.tolist(), strict=True))
            ]
            scales.append(
                GradientNoise().estimate(Series.of(readings, Sampling(Draw.FRESH)))["noise_scale"]
            )
        factor = relative_updates(scales, 32, 64)
        held += factor.low <= truth <= factor.high
    assert abs(held / runs - 0.9) < 4 * math.sqrt(0.9 * 0.1 / runs)


def test_a_larger_batch_is_faster_if_a_step_is_mostly_overhead() -> None:
    fast = table(scale(96, 80, 120), linear(overhead=300)).fastest
    assert fast[0].batch_size == 128
    slow = table(scale(4, 3, 5), linear(overhead=0)).fastest
    assert slow[0].batch_size == 8


def test_batches_whose_time_overlaps_with_the_fastest_are_listed() -> None:
    rows = table(scale(96, 10, 900), linear(overhead=60)).fastest
    assert len(rows) > 1 and all(row.time.low <= rows[0].time.high for row in rows)
    assert table(scale(96, 80, 120)).fastest == ()


def test_time_is_updates_times_step_time_and_has_both_errors() -> None:
    row = table(scale(96, 80, 120), linear(overhead=0)).rows[-1]
    assert row.time.value == pytest.approx(row.updates.value * 4)
    spread = math.hypot(math.log(row.updates.high / row.updates.value), math.log(1.05))
    assert row.time.high == pytest.approx(row.time.value * math.exp(spread))


def test_the_smallest_batch_and_those_within_a_tenth_are_cheapest() -> None:
    assert [row.batch_size for row in table(scale(1000, 900, 1100)).cheapest] == [8, 16, 32, 64]
    assert [row.batch_size for row in table(scale(4, 3, 5)).cheapest] == [8]


def test_the_table_as_json_has_an_interval_on_every_number() -> None:
    told = table(scale(96, 80, 120), linear(overhead=60)).to_dict()
    assert told["present"] == 32 and {32, 64} & set(told["fastest"]) and told["cheapest"][0] == 8
    for row in told["rows"]:
        for name in ("learning_rate", "updates", "examples", "time"):
            assert row[name]["low"] <= row[name]["value"] <= row[name]["high"]


@pytest.mark.parametrize(
    ("present", "examples", "sizes"),
    [
        (32, None, (2, 4, 8, 16, 32, 64, 128, 256, 512)),
        (32, 100, (2, 4, 8, 16, 32, 64)),
        (100, None, (25, 50, 100, 200, 400, 800, 1600)),
        (1, None, (1, 2, 4, 8, 16)),
    ],
)
def test_batch_sizes_go_from_a_sixteenth_to_sixteen_times(
    present: int, examples: int | None, sizes: tuple[int, ...]
) -> None:
    assert batch_sizes(present, examples) == sizes


class Clock:
    """Time that goes by as steps are made, slower in some rounds than in others."""

    def __init__(self, slow: Callable[[int], float]) -> None:
        self.now, self.steps, self.slow = 0.0, 0, slow

    def __call__(self) -> float:
        return self.now

    def step(self, size: int) -> None:
        self.now += (10 + size) * 1e-3 * self.slow(self.steps // 3)
        self.steps += 1


def test_slow_rounds_do_not_change_the_ratio_of_times() -> None:
    clock = Clock(lambda round_: 1 + 3 * (round_ % 2))
    times = step_times(clock.step, (8, 32, 128), 32, seconds=1.0, clock=clock)
    assert times.relative[128].value == pytest.approx(138 / 42)
    assert times.relative[128].high == pytest.approx(138 / 42)
    assert times.relative[32] == Estimate.exact(1.0)
    assert times.seconds[8].low == pytest.approx(0.018) and times.seconds[8].high == pytest.approx(
        0.072
    )


def test_a_few_interrupted_steps_do_not_change_the_median() -> None:
    clock = Clock(lambda round_: 50.0 if round_ in (3, 7) else 1.0)
    times = step_times(clock.step, (8, 32, 128), 32, seconds=5.0, clock=clock)
    assert times.seconds[32].value == pytest.approx(0.042)


@pytest.mark.parametrize(("seconds", "rounds"), [(1e-3, FEWEST_ROUNDS), (1e3, MOST_ROUNDS)])
def test_the_number_of_rounds_follows_the_time_within_bounds(seconds: float, rounds: int) -> None:
    clock = Clock(lambda round_: 1.0)
    assert (
        step_times(clock.step, (8, 32, 128), 32, seconds=seconds, clock=clock).seconds[8].samples
        == rounds
    )
    assert clock.steps == 3 * (rounds + 1)  # the first is thrown away


def test_nonsense_is_refused_by_name() -> None:
    with pytest.raises(BadArgument, match="`seconds` must be positive, got nan"):
        step_times(print, (32,), 32, seconds=math.nan)
    with pytest.raises(BadArgument, match="`other` must be at least 1 example, got 0"):
        relative_updates([scale(96, 80, 120)], 32, 0)
