"""When a run is measured: enough readings in every run, within the budget, on a clock that the test
moves."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest

from gradiometer.run.budget import Budget
from gradiometer.run.cadence.cadence import Cadence
from gradiometer.run.cadence.early import SMALL
from recorded_run import Dear, Square

FIRST, LOOK, BETWEEN = 0.015, 2e-5, 3e-6
"""Seconds that the first measurement takes longer, of a look at the clock, and of a step that is
only counted."""


@dataclass
class Simulated:
    """A loop whose steps and readings take these times, on a clock that counts nothing else."""

    step_seconds: float
    cost: float
    expensive: float | None = None
    planned: int | None = None
    share: float = 0.02

    def run(self, steps: int) -> "Simulated":
        self.now, noise = 0.0, random.Random(0)
        self.budget = Budget(self.share, lambda: self.now)
        self.budget.planned = self.planned
        self.budget.start()
        cadence = Cadence(
            [Square(), *([Dear()] if self.expensive else [])], self.budget, None, self.share
        )
        self.measured: list[int] = []
        self.expensive_at: list[int] = []
        self.used: list[float] = []
        for step in range(steps):
            self.now += self.step_seconds * noise.lognormvariate(0, 0.1) + (
                0.2 if step == 0 else 0.0
            )
            if step in (0, 1) or step >= cadence.next_look:
                with self.budget.spending():
                    self.now += LOOK
                measure = step == 0 or cadence.due(step)
            else:
                measure = False
                self.now += BETWEEN
                self.budget.charge("bookkeeping", BETWEEN)
            if measure:
                self._measure(step, cadence, noise.lognormvariate)
            self.used.append(self.budget.used)
        cadence.reached(steps)
        return self

    def _measure(self, step: int, cadence: Cadence, noise: Callable[[float, float], float]) -> None:
        with self.budget.spending("readings"):
            self.now += self.cost * self.step_seconds * noise(0, 0.1) + (
                0 if self.measured else FIRST
            )
            for gauge in cadence.expensive():
                with self.budget.spending(gauge.name):
                    self.now += (self.expensive or 0.0) * self.step_seconds
                cadence.ran(gauge)
                self.expensive_at.append(step)
        cadence.made(step)
        self.measured.append(step)


@pytest.mark.parametrize("expensive", [None, 10.0])
@pytest.mark.parametrize("cost", [0.05, 0.55, 0.9, 1.2])
@pytest.mark.parametrize("step_seconds", [0.0003, 0.001, 0.003, 0.03, 0.3])
def test_a_run_of_300_steps_has_enough_readings_whatever_its_step_costs(
    step_seconds: float, cost: float, expensive: float | None
) -> None:
    loop = Simulated(step_seconds, cost, expensive).run(5000)
    by_300 = sum(step < 300 for step in loop.measured)
    assert by_300 >= 40
    assert loop.used[999] < 0.1 and loop.budget.short_of() is None
    # there the bookkeeping alone is 1 to 3 % of a step
    assert loop.used[-1] < 0.021 or step_seconds < 0.003
    later = [step for step in loop.measured if step >= 300]
    assert len(later) >= 15 and max(b - a for a, b in pairwise(later)) < 700


@pytest.mark.parametrize(
    ("step_seconds", "cost", "beyond"), [(0.0003, 6.0, True), (0.003, 0.9, False)]
)
def test_a_run_of_tiny_steps_has_its_readings_at_any_cost_and_says_so(
    step_seconds: float, cost: float, beyond: bool
) -> None:
    loop = Simulated(step_seconds, cost).run(300)
    assert len(loop.measured) >= (40 if cost < 1.25 else 20) and loop.budget.short_of() is None
    assert loop.budget.beyond_allowance() == beyond
    long = Simulated(step_seconds, cost).run(12_000)
    assert not long.budget.beyond_allowance() and long.used[-1] < 0.04


@pytest.mark.parametrize(
    ("step_seconds", "cost", "promised"), [(0.0007, 7.0, 20), (0.0045, 1.2, 40)]
)
def test_bookkeeping_on_a_busy_core_takes_no_reading_away(
    step_seconds: float, cost: float, promised: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_run_cadence.LOOK", 40 * LOOK)
    monkeypatch.setattr("test_run_cadence.BETWEEN", 40 * BETWEEN)
    loop = Simulated(step_seconds, cost).run(300)
    assert len(loop.measured) >= promised and loop.budget.short_of() is None
    assert loop.budget.spent_on["readings"] < SMALL


@pytest.mark.parametrize(("step_seconds", "cost"), [(0.003, 0.9), (0.03, 0.7), (0.3, 1.5)])
def test_the_newest_reading_is_about_now_after_the_promised_ones(
    step_seconds: float, cost: float
) -> None:
    loop = Simulated(step_seconds, cost).run(4000)
    gaps = [(b + 1) / (a + 1) for a, b in pairwise(loop.measured) if a >= 250]
    assert max(gaps) < 1.2 and loop.used[999] < 0.1 and loop.used[-1] < 0.035
    assert Simulated(step_seconds, cost).run(20_000).used[-1] < 0.021


def test_a_short_run_has_its_share_of_the_readings() -> None:
    measured = Simulated(0.01, 0.6).run(150).measured
    assert 15 <= len(measured) <= 28 and measured[1] == 3


def test_where_the_budget_cannot_pay_the_run_says_so_and_goes_on_within_its_budget() -> None:
    loop = Simulated(0.3, 6.0).run(300)
    assert loop.budget.short_of() == 20 and len(loop.measured) < 10 and loop.used[-1] < 0.15
    assert Simulated(0.3, 6.0).run(12_000).used[-1] < 0.021


def test_expensive_gauges_wait_until_the_first_readings_are_made_and_then_share_with_them() -> None:
    loop = Simulated(0.03, 0.6, expensive=20.0).run(12_000)
    assert 300 < loop.expensive_at[0] < 2500 and len(loop.expensive_at) >= 4
    spent = loop.budget.spent_on
    assert 0.5 < spent["dear"] / spent["readings"] < 1.2 and loop.budget.used < 0.0201


def test_a_run_of_known_length_spreads_its_first_readings() -> None:
    known, unknown = Simulated(0.03, 0.6, planned=1000).run(1000), Simulated(0.03, 0.6).run(1000)
    assert sum(step < 300 for step in known.measured) < 20 and len(known.measured) >= 40
    assert known.used[-1] < 0.035 < unknown.used[-1] < 0.05


def test_a_smaller_budget_has_a_smaller_allowance() -> None:
    loop = Simulated(0.03, 0.6, share=0.002).run(1000)
    assert loop.used[-1] < 0.012 and loop.budget.short_of() == 40
