"""A limit of time for a decision of the theorem."""

import time
from importlib import import_module

import pytest

from gradiometer.convergence.schedules import Schedule
from gradiometer.convergence.theorem import theorem
from gradiometer.convergence.theorem.theorem import within
from known_series import conditions


def test_a_decision_that_takes_too_long_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Schedule):
        def formula(self, step: object) -> float:
            return sum(1 / k for k in range(1, 10**9))

    monkeypatch.setattr(import_module("gradiometer.convergence.theorem.theorem"), "SECONDS", 0.1)
    try:
        verdict = theorem(Slow())
    finally:
        del Schedule.kinds["Slow"]
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
