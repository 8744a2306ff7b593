"""Formulas that oscillate without a period: conditions on them, and their powers."""

import math

import numpy as np
import pytest

from gradiometer import theorem
from gradiometer.convergence.theorem.theorem import read

DECIDED = [
    ("abs(cos(sqrt(t)*log(t)))/t**2", (True, False, True)),
    ("ceil(t/3)**-0.9", (True, True, True)),
    ("max(sin(t), 0.5)/t**2", (True, False, True)),
    ("1/t if sin(t) > 2 else 1/t**2", (True, False, True)),  # never
    ("(t**2 % 7)/t", (True, True, True)),  # the remainder of a square has the period 7
]


@pytest.mark.parametrize(("text", "truth"), DECIDED)
def test_an_oscillation_without_a_period_is_decided(
    text: str, truth: tuple[bool, bool, bool]
) -> None:
    verdict = theorem(text)
    assert (verdict.limit_zero, verdict.sum_diverges, verdict.sum_of_squares_converges) == truth


@pytest.mark.parametrize(("text", "truth"), DECIDED)
def test_the_decisions_agree_with_exact_sums_over_dyadic_blocks(
    text: str, truth: tuple[bool, bool, bool]
) -> None:
    """Σ over [2^k, 2^(k+1)) falls as a power of 2^k if the sum is finite, and does not fall if it
    is infinite."""
    rate = read(text)
    values = np.array([rate(step) for step in range(2**14 - 1)])  # step t − 1 is t
    ends = [2**k - 1 for k in (8, 10, 13, 14)]
    for terms, infinite in ((values, truth[1]), (values**2, not truth[2])):
        early, late = (math.fsum(terms[ends[place] : ends[place + 1]]) for place in (0, 2))
        early /= 2  # two blocks
        assert late > 0.7 * early if infinite else late < 0.3 * early


@pytest.mark.parametrize(
    "text",
    [
        "(sqrt(2)*t % 1)/t",  # 2**0.5 is rounded
        "(1 + cos(log(log(t + 9))))/t",  # longer and longer without a change
        "1/t if sin(t) == 0.5 else 1/t**2",  # at hardly any step
        "1/t if sin(t) > 1 - 1/t else 1/t**2",  # at fewer and fewer steps
        "1/t**(3 + sin(t))",
    ],
)
def test_an_oscillation_of_which_nothing_is_proven_stays_undecided(text: str) -> None:
    assert theorem(text).sum_diverges is None


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("(1 + cos(5*log(t)))/t**2", (True, False, True)),
    ],
)
def test_an_oscillation_with_cycles_in_proportion_to_t_is_decided(
    text: str, truth: tuple[bool, bool, bool]
) -> None:
    verdict = theorem(text)
    assert (verdict.limit_zero, verdict.sum_diverges, verdict.sum_of_squares_converges) == truth
