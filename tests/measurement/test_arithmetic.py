"""Arithmetic with estimates keeps the coverage of their intervals, and the median's interval covers
too."""

import math

import numpy as np
import pytest

from gradiometer import BadArgument
from gradiometer.measurement import Estimate
from gradiometer.measurement.uncertainty import transform
from gradiometer.measurement.uncertainty.arithmetic import average, product
from gradiometer.measurement.uncertainty.means import median

Z = 1.6448536269514722
"""The normal distribution's 95 % quantile: intervals at 90 %."""


def normal(value: float, error: float) -> Estimate:
    """An estimate with a normal error of known size."""
    return Estimate.interval(
        value,
        value - Z * error,
        value + Z * error,
        level=0.9,
        method="normal, known error",
        samples=50,
    )


def covers(share: float, trials: int) -> bool:
    """True if a coverage seen in this many trials is compatible with 90 %, at 4 standard errors."""
    return abs(share - 0.9) < 4 * math.sqrt(0.9 * 0.1 / trials)


def test_an_increasing_function_keeps_the_ends_and_a_decreasing_one_swaps_them() -> None:
    estimate = Estimate.interval(
        4.0, 1.0, 9.0, level=0.9, method="m", samples=7, unit="examples", needed=3
    )
    root, inverse = (
        transform(estimate, math.sqrt),
        transform(estimate, lambda x: 1 / x, unit="1/examples"),
    )
    assert (root.value, root.low, root.high) == (2.0, 1.0, 3.0)
    assert (inverse.low, inverse.high, inverse.unit) == (1 / 9, 1.0, "1/examples")
    assert (root.level, root.samples, root.method, root.needed) == (0.9, 7, "m", 3)


def test_an_infinite_end_stays_infinite_and_an_unknown_value_unknown() -> None:
    unknown = Estimate.unknown(level=0.9, method="too few readings", samples=2, needed=2)
    carried = transform(unknown, lambda x: x)
    assert math.isnan(carried.value) and (carried.low, carried.high, carried.needed) == (
        -math.inf,
        math.inf,
        2,
    )


def test_an_exact_number_stays_exact() -> None:
    assert transform(Estimate.exact(4.0), math.sqrt) == Estimate.exact(2.0)
    assert product(Estimate.exact(3.0), Estimate.exact(2.0)) == Estimate.exact(6.0)


def test_nine_in_ten_intervals_contain_the_average() -> None:
    generator, errors, held = np.random.default_rng(0), np.array([0.1, 0.5, 2.0]), 0
    for _ in range(2000):
        values = 1 + errors * generator.standard_normal(3)
        mean = average(
            [
                normal(float(value), float(error))
                for value, error in zip(values, errors, strict=True)
            ]
        )
        held += mean.low <= 1 <= mean.high
    assert covers(held / 2000, 2000)


def test_nine_in_ten_intervals_contain_the_product() -> None:
    """The method is exact for log-normal estimates. Adding the ends would contain the product in 98
    of 100 cases."""
    generator, errors, held = np.random.default_rng(0), (0.2, 0.3), 0
    for _ in range(2000):
        factors = [
            transform(normal(float(e * generator.standard_normal()), e), math.exp) for e in errors
        ]
        times = product(*factors)
        held += times.low <= 1 <= times.high
    assert covers(held / 2000, 2000)


def test_an_average_counts_an_unknown_value_as_the_middle_of_its_interval() -> None:
    unknown = Estimate.interval(math.nan, 0.5, 1.0, level=0.9, method="m", samples=2)
    mean = average([unknown, Estimate.interval(0.6, 0.55, 0.65, level=0.9, method="m", samples=50)])
    assert mean.value == pytest.approx((0.75 + 0.6) / 2)
    assert mean.low == pytest.approx(mean.value - math.hypot(0.25, 0.05) / 2)
    assert mean.samples == 52


def test_a_product_with_an_infinite_end_has_an_infinite_end() -> None:
    open_above = Estimate.interval(2.0, 1.0, math.inf, level=0.9, method="m", samples=9)
    reaches_zero = Estimate.interval(2.0, 0.0, 3.0, level=0.9, method="m", samples=9)
    assert product(open_above, normal(2.0, 0.1)).high > 1e300
    assert product(reaches_zero, normal(2.0, 0.1)).low == 0


def test_bad_arguments_raise() -> None:
    at_95 = Estimate.interval(1.0, 0.9, 1.1, level=0.95, method="m", samples=9)
    with pytest.raises(BadArgument, match="`estimates` must be at one level, got 90%, 95%"):
        average([normal(1.0, 0.1), at_95])
    with pytest.raises(BadArgument, match="`estimates` is empty"):
        average([])
    with pytest.raises(BadArgument, match="`estimates` must be positive to be multiplied"):
        product(normal(0.1, 0.1), normal(1.0, 0.1))


@pytest.mark.parametrize("count", [5, 9, 40])
def test_nine_in_ten_intervals_contain_the_median_of_a_skewed_distribution(count: int) -> None:
    draws = np.random.default_rng(0).lognormal(0, 2, (2000, count))
    held = np.mean([estimate.low <= 1 <= estimate.high for estimate in map(median, draws)])
    assert held > 0.9 - 4 * math.sqrt(0.09 / 2000)
    assert held < 0.99  # an interval from the least to the greatest of 9 would hold it always


def test_too_few_samples_give_an_unknown_median() -> None:
    estimate = median(np.arange(4.0))
    assert not estimate.tells and estimate.needed == 1
    assert median(np.arange(4.0), level=0.8).tells


def test_a_median_of_samples_that_are_not_finite_raises() -> None:
    with pytest.raises(BadArgument, match="`samples` must be finite"):
        median(np.array([1.0, math.nan, 2.0]))
    with pytest.raises(BadArgument, match="`level` must lie between 0 and 1, got nan"):
        median(np.arange(9.0), level=math.nan)
