"""The difference of two proportions on the same examples: the score interval and its coverage."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

from gradiometer import BadArgument
from gradiometer.measurement.uncertainty.proportions import difference_of_proportions


def outcomes(
    only_first: int, only_second: int, both: int, neither: int
) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([True, False, True, False], [only_first, only_second, both, neither])
    second = np.repeat([False, True, True, False], [only_first, only_second, both, neither])
    return first, second


def likelihood_at(difference: float, b: int, c: int, n: int) -> float:
    """The likeliest P(only second), given that P(only first) minus it is the difference, by brute
    force."""
    least, most = max(0.0, -difference), (1 - difference) / 2

    def loss(q: float) -> float:
        cells = [(b, q + difference), (c, q), (n - b - c, 1 - 2 * q - difference)]
        return -sum(count * math.log(max(share, 1e-300)) for count, share in cells)

    return minimize_scalar(loss, bounds=(least, most), method="bounded", options={"xatol": 1e-13}).x


@pytest.mark.parametrize(
    ("b", "c", "n"), [(9, 3, 40), (1, 0, 25), (0, 6, 100), (20, 21, 60), (12, 1, 13)]
)
def test_each_end_is_the_outermost_difference_that_the_score_test_accepts(
    b: int, c: int, n: int
) -> None:
    estimate = difference_of_proportions(*outcomes(b, c, 0, n - b - c), level=0.9)
    assert estimate.value == pytest.approx((b - c) / n)
    for end, sign in ((estimate.low, 1), (estimate.high, -1)):
        q = likelihood_at(end, b, c, n)
        score = (b - c - n * end) / math.sqrt(n * (2 * q + end - end**2))
        assert score == pytest.approx(sign * 1.6448536, abs=2e-4)


def test_two_that_never_differ_still_have_an_interval_with_width() -> None:
    estimate = difference_of_proportions(*outcomes(0, 0, 30, 70), level=0.9)
    z2 = 1.6448536**2
    assert (estimate.low, estimate.high) == pytest.approx(
        (-z2 / (100 + z2), z2 / (100 + z2)), abs=1e-6
    )
    always = difference_of_proportions(*outcomes(8, 0, 0, 0), level=0.9)
    assert (always.value, always.high) == (1, 1)
    assert 0.3 < always.low < 0.9


@pytest.mark.parametrize(("p", "q"), [(0.05, 0.05), (0.1, 0.02), (0.3, 0.1), (0.01, 0.002)])
def test_the_interval_covers_counted_over_all_outcomes(p: float, q: float) -> None:
    n, covered = 40, 0.0
    for b, c in itertools.product(range(n + 1), repeat=2):
        if b + c > n:
            continue
        ways = gammaln(n + 1) - gammaln(b + 1) - gammaln(c + 1) - gammaln(n - b - c + 1)
        chance = math.exp(
            ways + b * math.log(p) + c * math.log(q) + (n - b - c) * math.log(1 - p - q)
        )
        if chance < 1e-7:
            continue
        estimate = difference_of_proportions(*outcomes(b, c, 0, n - b - c))
        covered += chance * (estimate.low <= p - q <= estimate.high)
    assert covered > 0.87


def test_a_level_that_is_none_raises() -> None:
    yes = np.ones(3, dtype=bool)
    with pytest.raises(BadArgument, match="`level` must lie between 0 and 1, got nan"):
        difference_of_proportions(yes, yes, level=math.nan)
