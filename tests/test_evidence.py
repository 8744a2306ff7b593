"""Evidence about Python functions whose formula is not known."""

import math
import time
from collections.abc import Callable
from importlib import import_module

import pytest

from gradiometer import UserCodeFailed
from gradiometer.convergence.theorem import theorem
from gradiometer.convergence.theorem.evidence import evidence, within
from known_series import ALL, FINITE, SLOW, STAYS, Truth, conditions

OPAQUE: list[tuple[Callable[[int], float], Truth]] = [
    (lambda t: 1 / t, ALL),
    (lambda t: 1e-12 / t, ALL),
    (lambda t: 1 / (t + 10**9), ALL),
    (lambda t: 0.1 / (1 + t / 300), ALL),
    (lambda t: t**-0.6, ALL),
    (lambda t: t**-0.5, SLOW),
    (lambda t: t**-0.9, ALL),
    (lambda t: t**-1.1, FINITE),
    (lambda t: t**-2.0, FINITE),
    (lambda t: t**-0.25, SLOW),
    (lambda t: 1 / math.log(t + 1), SLOW),
    (lambda t: 1 / (t * math.log(t + 1)), ALL),
    (lambda t: 1 / (t * math.log(t + 1) ** 2), FINITE),
    (lambda t: 1 / (t * math.log(t + 1) ** 0.5), ALL),
    (lambda t: math.log(t + 1) / t, ALL),
    (lambda t: math.log(t + 1) / t**2, FINITE),
    (lambda t: 1 / math.sqrt(t * math.log(t + 1)), SLOW),
    (lambda t: 1 / (math.sqrt(t) * math.log(t + 1)), ALL),
    (lambda t: 0.1 * 0.99**t, FINITE),
    (lambda t: 0.1 * 0.5 ** (t // 30), FINITE),
    (lambda t: math.exp(-math.sqrt(t)), FINITE),
    (lambda t: math.exp(-(math.log(t) ** 2)), FINITE),
    (lambda t: 0.1, STAYS),
    (lambda t: 0.01 + 1 / t, STAYS),
    (lambda t: max(1 / t, 1e-3), STAYS),
    (lambda t: 0.05 * (1 + math.cos(math.pi * (t % 50) / 50)), STAYS),
    (lambda t: (1 + math.sin(t % 1000)) / t, ALL),
    (lambda t: 1 / t if t % 2 else 0.0, ALL),
    (lambda t: 1 / t if t % 2 else 1 / t**1.5, ALL),
    (lambda t: 1 / t if t < 10**6 else 1 / t**2, FINITE),
    (lambda t: 1 / t**2 if t < 10**6 else 1 / t, ALL),
    (lambda t: 0.1 if t < 10**9 else 0.0, FINITE),
    (lambda t: 0.0, FINITE),
    (lambda t: 0.5 ** math.floor(math.log2(t)), ALL),
    (lambda t: 1 / math.floor(math.log(t + 2)), SLOW),
    (lambda t: 1 / t.bit_length() ** 2, SLOW),
    (lambda t: 2.0 ** (-t.bit_length()), ALL),
    (lambda t: 1 / (t * t.bit_length() ** 2), FINITE),
    (lambda t: 1 / (t * math.log(t + 2) * math.log(math.log(t + 2))), ALL),
    (lambda t: 1 / (t * math.log(t + 2) * math.log(math.log(t + 2)) ** 2), FINITE),
]


@pytest.mark.slow
def test_evidence_is_mostly_right_and_seldom_wrong() -> None:
    right = wrong = 0
    for function, truth in OPAQUE:
        seen = evidence(function)
        for answer, known in zip(conditions(seen), truth, strict=True):
            right += answer == known
            wrong += answer is not None and answer != known
    assert right >= 0.85 * 3 * len(OPAQUE)
    assert wrong <= 0.03 * 3 * len(OPAQUE)


@pytest.mark.parametrize("scale", [lambda x: x, lambda x: x * math.log(x + 2)], ids=["log log", "log log, log log log"])
def test_evidence_does_not_call_a_slowly_diverging_sum_finite(scale) -> None:
    """1/(t log t log log t …) sums to infinity, too slowly for a thousand dyadic blocks to show it."""
    seen = evidence(lambda t: 1 / (t * math.log(t + 2) * scale(math.log(math.log(t + 20)))))
    assert seen.sum_diverges is not False


def test_a_python_function_gets_evidence_and_no_verdict() -> None:
    verdict = theorem(lambda t: 1 / t)
    assert conditions(verdict) == (None, None, None)
    assert verdict.theorem is None
    assert "undecided" in verdict.why and "Evidence only" in verdict.why and "looks infinite" in verdict.why
    assert verdict.evidence is not None and conditions(verdict.evidence) == ALL


def test_a_function_that_takes_too_long_is_stopped() -> None:
    start, spent = time.monotonic(), time.thread_time()
    assert theorem(lambda t: 1 / t if t < 100 else sum(1 / k for k in range(1, t))).theorem is None
    assert time.monotonic() - start > 0.4 and time.thread_time() - spent < 3


def test_a_decision_that_takes_too_long_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("gradiometer.convergence.theorem.theorem"), "SECONDS", 0.1)
    verdict = theorem(lambda t: 1 / t if t < 3 else sum(1 / k for k in range(1, 10**9)))
    assert conditions(verdict) == (None, None, None) and verdict.theorem is None
    assert "no answer within 0.1 s" in verdict.why


def test_limits_of_time_may_be_nested() -> None:
    def forever() -> None:
        while True:
            pass

    assert within(0.2, lambda: (within(0.05, forever), "went on")) == (None, "went on")
    spent = time.thread_time()
    assert within(0.05, lambda: within(10.0, forever)) is None and time.thread_time() - spent < 2
    with pytest.raises(ZeroDivisionError):
        within(1.0, lambda: 1 / 0)


def test_a_function_that_returns_no_number_is_rejected() -> None:
    with pytest.raises(UserCodeFailed, match="must return a number at t = 1"):
        theorem(lambda t: None)  # type: ignore[arg-type,return-value]
