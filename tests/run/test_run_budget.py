"""The budget: kept to on a clock that the test moves."""

import json
import math
import threading
import time
from itertools import pairwise

import pytest

from gradiometer import BadArgument
from gradiometer.run.budget import COOLING, Budget
from gradiometer.run.cadence.overhead import overhead_in_brief, overhead_sentence
from gradiometer.run.clock import clock_for


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
        budget.passed(budget.steps + 1)
        if budget.fits():
            measured += 1
            with budget.spending("readings"):
                clock.now += cost
            budget.made()
    return measured


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.005, 0.02, 0.3])
@pytest.mark.parametrize("cost", [0.0004, 0.003, 0.2])
def test_the_share_is_kept_and_used(share: float, cost: float) -> None:
    clock = Clock()
    budget = Budget(share, clock)
    measured = train(budget, clock, 30_000, 0.01, cost)
    assert budget.used <= share + max(0.1 * share, cost / 100)
    # Nothing is wasted either: another measurement would not have fitted, unless every step was
    # measured.
    assert measured == 30_000 or budget.used > share - 2 * cost / 100
    assert budget.spent == pytest.approx(measured * cost)


@pytest.mark.parametrize(("cost", "readings"), [(1.0, 40), (2.0, 20), (4.0, 20)])
def test_the_start_has_fewer_readings_if_one_costs_more_than_a_step(
    cost: float, readings: int
) -> None:
    """The steps are so short that all of it takes a fraction of a second."""
    clock = Clock()
    budget = Budget(0.02, clock)
    assert train(budget, clock, 300, 3e-4, cost * 3e-4) == readings
    assert budget.short_of() is None


def test_the_next_reading_fits_after_about_as_many_steps_as_it_says() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    train(budget, clock, 10_000, 0.01, 0.004)
    with budget.spending("readings"):
        clock.now += 0.004
    budget.made()
    ahead = budget.steps_until()
    assert train(budget, clock, ahead - 3, 0.01, 0.004) == 0
    assert train(budget, clock, 4, 0.01, 0.004) == 1
    assert Budget(0.0).steps_until() == 1


def test_a_measurement_that_became_dear_is_made_less_often() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    train(budget, clock, 10_000, 0.01, 0.002)
    cheap = train(budget, clock, 10_000, 0.01, 0.002)
    dear = train(budget, clock, 10_000, 0.01, 0.02)
    assert cheap == pytest.approx(1000, rel=0.02) and dear == pytest.approx(100, rel=0.1)
    assert budget.used < 0.0201


def test_the_first_measurement_is_no_forecast_and_the_others_are_forecast_by_their_median() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    for cost in (90.0, 1.0, 1.2, 0.8, 70.0, 1.0):
        with budget.spending("readings"):
            clock.now += cost
        budget.made()
        assert budget.expected() == (0.0 if cost == 90 else pytest.approx(1.0, abs=0.11))
    assert budget.spent_on["start"] == pytest.approx(90) and budget.spent == pytest.approx(164)


def test_a_clock_counts_the_thread_on_the_cpu_and_the_wall_on_an_accelerator() -> None:
    assert clock_for("cuda") is clock_for("mps") is time.perf_counter
    clock = clock_for("cpu")
    began = clock(), time.process_time()

    def work() -> None:
        until = time.thread_time() + 0.2
        while time.thread_time() < until:
            pass

    other = threading.Thread(target=work)
    other.start()
    other.join()
    assert time.process_time() - began[1] >= 0.2 and clock() - began[0] < 0.1
    work()
    assert 0.2 <= clock() - began[0] < 0.3


def test_a_clock_goes_on_where_it_was_in_another_thread() -> None:
    clock = clock_for("cpu")
    seen = [clock()]
    other = threading.Thread(target=lambda: seen.extend([clock(), clock()]))
    other.start()
    other.join()
    seen.append(clock())
    assert seen == sorted(seen) and seen[-1] - seen[0] < 0.1


def test_a_share_of_zero_never_measures() -> None:
    clock = Clock()
    budget = Budget(0.0, clock)
    assert train(budget, clock, 100, 1.0, 0.0) == 0
    assert budget.used == 0.0


def test_the_time_before_training_earns_nothing() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    clock.now += 3600
    with budget.spending():
        clock.now += 1
    clock.now += 10
    assert budget.training == pytest.approx(10)


def test_time_in_a_nested_region_is_charged_to_the_inner_name() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    with budget.spending("progress"):
        clock.now += 1
        with budget.spending("readings"):
            clock.now += 2
        clock.now += 3
    clock.now += 100
    assert budget.spent_on == {"progress": pytest.approx(4), "readings": pytest.approx(2)}
    assert budget.used == pytest.approx(0.06)


def test_a_region_that_is_settled_goes_on_under_another_name() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    with budget.spending("readings"):
        clock.now += 2
        budget.settle("bookkeeping")
        assert budget.spent_on == {"readings": pytest.approx(2)}
        clock.now += 3
    clock.now += 100
    assert budget.spent_on == {"readings": pytest.approx(2), "bookkeeping": pytest.approx(3)}


def test_branches_have_a_budget_of_their_own_and_leave_the_share_to_the_readings() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    train(budget, clock, 5000, 0.01, 0.003)
    with budget.spending("forks", outside=True):
        clock.now += 500
    assert train(budget, clock, 5000, 0.01, 0.003) > 250 and budget.used > 5


@pytest.mark.slow
def test_the_newest_reading_is_never_old_also_where_the_start_used_up_what_may_be_borrowed() -> (
    None
):
    """A reading costs five steps of 0.8 ms, so that twenty early ones are beyond the allowance of
    1,000 steps."""
    clock = Clock()
    budget = Budget(0.02, clock)
    made = [step for step in range(60_000) if train(budget, clock, 1, 0.0008, 0.004)]
    late = [(after + 1) / (before + 1) for before, after in pairwise(made) if before > 200]
    assert max(late) < 1.25 and made[-1] > 59_000
    assert budget.used <= 0.021


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 20_000])
def test_a_fixed_cost_is_paid_back_and_leaves_a_part_of_the_share_to_the_readings(at: int) -> None:
    """Half of what the whole run may use, before its first step or in its middle."""
    clock = Clock()
    budget = Budget(0.02, clock)
    train(budget, clock, at, 0.01, 0.003)
    with budget.spending("look", fixed=True):
        clock.now += 5
    soon, later = (
        train(budget, clock, 10_000, 0.01, 0.003),
        train(budget, clock, 50_000 - at, 0.01, 0.003),
    )
    assert budget.used <= 0.021
    assert soon > 0.24 * 0.02 * 100 / 0.003 and later > 0.02 * 60 / 0.003


def test_a_fixed_cost_is_lent_and_does_not_keep_an_expensive_measurement_waiting() -> None:
    """5 s at the start, of which 1.1 s are paid back by step 10,000; 0.9 s of the share are left,
    and half of them."""
    clock = Clock()
    budget = Budget(0.02, clock)
    with budget.spending("look", fixed=True):
        clock.now += 5
    for steps in (1001, 10_000):
        clock.now += 0.01 * (steps - budget.steps)
        budget.passed(steps)
    assert budget.fits("batch_sharpness", guess=0.3) and not budget.fits(
        "batch_sharpness", guess=0.6
    )


def test_looks_of_cooling_use_neither_the_half_of_expensive_measurements_nor_the_promised_readings() -> (
    None
):
    clock = Clock()
    budget = Budget(0.02, clock)
    with budget.spending(COOLING):
        clock.now += 1
    assert train(budget, clock, 300, 0.01, 0.003) == 40
    budget = Budget(0.02, clock)
    with budget.spending(COOLING):
        clock.now += 0.9
    clock.now += 100
    budget.passed(10_000)
    assert budget.fits("batch_sharpness", guess=0.3) and not budget.fits(
        "batch_sharpness", guess=1.05
    )


def test_looks_of_cooling_count_against_the_share_and_do_not_starve_the_readings() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    made = 0
    for _ in range(20):
        with budget.spending(COOLING):
            clock.now += 0.01 * 1000 * 0.01
        made += train(budget, clock, 1000, 0.01, 0.003)
    assert budget.used <= 0.021 and made > 0.4 * 0.02 * 200 / 0.003


def test_time_is_counted_where_measuring_fails() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    with pytest.raises(ZeroDivisionError), budget.spending("readings"):
        clock.now += 5
        raise ZeroDivisionError
    assert budget.spent == pytest.approx(5) and budget.expected() == 0.0


def test_a_budget_goes_on_from_its_checkpoint() -> None:
    clock = Clock()
    budget = Budget(0.02, clock)
    train(budget, clock, 1200, 0.01, 0.003)
    state = budget.state_dict()
    clock.now += 1e6
    resumed = Budget(0.02, clock)
    resumed.load_state_dict(json.loads(json.dumps(state)))
    assert resumed.state_dict() == state
    train(resumed, clock, 20_000, 0.01, 0.003)
    assert 0.0195 < resumed.used < 0.0205


def test_a_damaged_state_is_refused() -> None:
    with pytest.raises(BadArgument, match="0 ≤ spent ≤ elapsed"):
        Budget(0.1).load_state_dict({"elapsed": 1.0, "spent": {"readings": math.nan}, "costs": {}})


def test_the_overhead_sentence_names_the_time_used_and_the_steps_measured() -> None:
    used = {"budget": 0.02, "used": 0.0131, "measured_steps": 1412, "every": 14.6, "mode": "apart"}
    assert overhead_sentence(used) == (
        "The instrument used 1.3 % of the training time (budget 2 %). It measured 1,412 steps, "
        "about one in 14.6, apart from training."
    )
    assert "budget" not in overhead_sentence({**used, "budget": None, "mode": "shared"})
    asked = overhead_sentence({**used, "every": 5.0}, 5)
    assert "1,412 steps (`every` = 5)" in asked and "budget" not in asked
    few = {**used, "measured_steps": 12, "every": None, "short_of": 40}
    assert overhead_sentence(few).endswith(
        "The budget of 2 % paid for 12 readings, and intervals need about 40: set a larger "
        "`budget`, or `every` = 1 to measure every step, at any cost."
    )
    assert "paid for" not in overhead_sentence(few, 1)
    spent = {"readings": 0.011, "cooling": 0.5, "batch_sharpness": 0.002, "bookkeeping": 1e-5}
    by_name = overhead_sentence({**used, "used": 0.513, "spent": spent, "outside": ["cooling"]})
    assert (
        "(budget 2 %): cooling 50 %, readings 1.1 %, batch_sharpness 0.2 %; cooling outside the "
        "budget" in by_name
    )
    by_name = overhead_sentence(
        {**used, "used": 9.5, "spent": {**spent, "looks": 9.1}, "outside": ["cooling"]}, 5
    )
    assert (
        "used 950 % of the training time: looks 910 %, cooling" in by_name
        and "outside" not in by_name
    )
    beyond = {**used, "every": 5.0, "beyond_allowance": True}
    assert overhead_sentence(beyond).endswith(
        "it has them nevertheless, and a smaller `budget` has fewer."
    )
    assert "nevertheless" not in overhead_sentence({**beyond, "short_of": 40})
    assert overhead_sentence({**used, "mode": "off"}) == "Measuring was off."
    assert overhead_sentence({}) == "The time used for measuring was not recorded."


def test_forks_that_were_asked_for_are_no_measuring() -> None:
    overhead = {
        "mode": "apart",
        "budget": 0.02,
        "used": 13.89,
        "measured_steps": 125,
        "spent": {"readings": 0.4, "forks on request": 13.49},
        "outside": ["forks on request"],
    }
    assert overhead_in_brief(overhead, every=4) == "Measuring took 40 % of the training time."


@pytest.mark.parametrize("cost", [0.6, 3.0])
def test_the_newest_reading_stays_recent_however_few_are_promised(cost: float) -> None:
    """As where products show the noise, and the budget pays for little else."""
    now = [0.0]
    budget = Budget(0.02, clock=lambda: now[0])
    budget.promised = 6
    budget.start()
    newest = 0
    oldest = 0.0
    for step in range(2000):
        now[0] += 1.0
        if step % 50 == 0:
            with budget.spending("looks"):
                now[0] += 1.0
        budget.passed(step)
        if step and budget.fits():
            with budget.spending("readings"):
                now[0] += cost
            budget.made()
            newest = step
        if step > 300:
            oldest = max(oldest, (step - newest) / step)
    assert oldest < 0.2
