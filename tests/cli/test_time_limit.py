"""A limit of time for a decision of the theorem."""

from importlib import import_module

import pytest

from gradiometer.convergence.theorem import theorem
from known_series import STAYS, conditions


def test_a_decision_that_takes_too_long_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    periodic = "0.05*(1 + cos(pi*((t-1) % 50)/50))"
    assert conditions(theorem(periodic)) == STAYS
    monkeypatch.setattr(import_module("gradiometer.convergence.theorem.theorem"), "SECONDS", 0.0)
    verdict = theorem(periodic)
    assert conditions(verdict) == (None, None, None) and verdict.theorem is None
    assert "it is undecided whether it goes to zero" in verdict.why
