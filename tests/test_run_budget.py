"""The budget: kept to on a clock that the test moves."""

import math
from itertools import pairwise

import pytest

from gradiometer import BadArgument
from gradiometer.run import Budget, overhead_sentence


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def train(budget: Budget, clock: Clock, steps: int, step_seconds: float, cost: float) -> int:
    """A training loop on that clock; returns how often it measured."""
    measured = 0
    for _ in range(steps):
        clock.now += step_seconds
        if budget.fits():
            measured += 1
            with budget.measuring():
                clock.now += cost
    return measured


@pytest.mark.parametrize("share", [0.005, 0.02, 0.3])
@pytest.mark.parametrize("cost", [0.0004, 0.003, 0.2])
def test_the_share_is_kept_and_used(share: float, cost: float) -> None:
    clock = Clock()
    budget = Budget(share, clock)
    measured = train(budget, clock, 10_000, 0.01, cost)
    assert budget.used <= share + cost / 100  # the first one is let through before it is earned
    # Nothing is wasted either: another measurement would not have fitted, unless every step was measured.
    assert measured == 10_000 or budget.used > share - 2 * cost / 100
    assert budget.spent == pytest.approx(measured * cost)


def test_after_the_first_no_measurement_goes_beyond_the_share() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    for measured in range(50):
        while not budget.fits():
            clock.now += 0.1
        with budget.measuring():
            clock.now += 0.25
        assert measured == 0 or budget.used <= 0.02 + 1e-9


def test_a_measurement_that_became_dear_is_made_less_often() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    cheap = train(budget, clock, 10_000, 0.01, 0.002)
    dear = train(budget, clock, 10_000, 0.01, 0.02)
    assert cheap == pytest.approx(1000, rel=0.01) and dear == pytest.approx(100, rel=0.1)
    assert budget.used < 0.0201


def test_a_dear_kind_is_saved_for_and_a_cheap_one_goes_by_its_own_cost() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    made = []
    for step in range(20_000):
        clock.now += 0.01
        kind, cost = ("dear", 0.5) if len(made) % 16 == 15 else ("cheap", 0.002)
        if budget.fits(kind, guess=0.5 if kind == "dear" else 0.0):
            made.append((step, kind))
            with budget.measuring(kind):
                clock.now += cost
            assert budget.used <= 0.02 + 1e-9 or step < 20
    steps = [step for step, _ in made]
    gaps = [later - earlier for earlier, later in pairwise(steps)]
    before_dear = [gap for gap, (_, kind) in zip(gaps, made[1:], strict=True) if kind == "dear"]
    others = [gap for gap, (_, kind) in zip(gaps, made[1:], strict=True) if kind == "cheap"]
    assert min(before_dear) >= 2400 and max(others[1:]) <= 11  # the first was let through before it was earned
    assert budget.expected("dear") == pytest.approx(0.5) and budget.expected("other", guess=3.0) == 3.0


def test_a_share_of_zero_never_measures() -> None:
    clock = Clock()
    budget = Budget(0.0, clock)
    assert train(budget, clock, 100, 1.0, 0.0) == 0
    assert budget.used == 0.0


def test_the_time_before_training_earns_nothing() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    clock.now += 3600
    with budget.measuring():
        clock.now += 1
    clock.now += 10
    assert budget.training == pytest.approx(10)
    assert not budget.fits()


def test_drawing_counts_too_and_what_is_nested_counts_once() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    with budget.spending():
        clock.now += 1
        with budget.measuring():
            clock.now += 2
    clock.now += 100
    assert budget.spent == pytest.approx(3) and budget.expected() == pytest.approx(2)
    assert budget.used == pytest.approx(0.03)


def test_time_is_counted_where_measuring_fails() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    with pytest.raises(ZeroDivisionError), budget.measuring():
        clock.now += 5
        raise ZeroDivisionError
    assert budget.spent == pytest.approx(5) and budget.expected() == 0.0


def test_a_budget_goes_on_from_its_checkpoint() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    train(budget, clock, 1000, 0.01, 0.003)
    state = budget.state_dict()
    clock.now += 1e6
    resumed = Budget(0.02, clock)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    train(resumed, clock, 20_000, 0.01, 0.003)
    assert 0.0195 < resumed.used < 0.0201


def test_a_checkpoint_whose_costs_are_of_no_kind_is_gone_on_from_without_them() -> None:
    budget = Budget(0.02, Clock())
    budget.load_state_dict({"elapsed": 100.0, "spent": 1.0, "costs": [0.5, 0.25]})
    assert (budget.elapsed, budget.spent) == (100.0, 1.0) and budget.expected("noise", guess=3.0) == 3.0


@pytest.mark.parametrize("share", [math.nan, -0.1, 1.0, math.inf])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(BadArgument, match="`share` must be at least 0 and below 1"):
        Budget(share)


def test_a_damaged_state_is_refused() -> None:
    with pytest.raises(BadArgument, match="0 ≤ spent ≤ elapsed"):
        Budget(0.1).load_state_dict({"elapsed": 1.0, "spent": math.nan, "costs": {}})


def test_the_overhead_sentence_names_the_time_used_and_the_steps_measured() -> None:
    used = {"budget": 0.02, "used": 0.0131, "measured_steps": 1412, "every": 14.6, "mode": "apart"}
    assert overhead_sentence(used) == (
        "The instrument used 1.3 % of the training time (budget 2 %). It measured 1,412 steps, about one in 14.6, "
        "apart from training."
    )
    assert "budget" not in overhead_sentence({**used, "budget": None, "mode": "shared"})
    asked = overhead_sentence({**used, "every": 5.0}, 5)
    assert "1,412 steps (`every` = 5)" in asked and "budget" not in asked
    few = {**used, "measured_steps": 1, "every": None}
    assert "measured 1 step, apart from training. That is few: `every` = 1 measures" in overhead_sentence(few)
    assert "That is few" not in overhead_sentence(few, 1)
    assert overhead_sentence({**used, "mode": "off"}) == "Measuring was off."
    assert overhead_sentence({}) == "The time used for measuring was not recorded."
