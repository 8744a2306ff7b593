"""Races: what is clearly worse is stopped, what is close gets the budget, and
everything is kept."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from gradiometer import BadArgument
from gradiometer.loop import Rate
from gradiometer.loop.branch import Branch, BranchResult
from gradiometer.loop.comparison.racing import Race, Rung, race, rungs_for
from gradiometer.loop.readout import Readout

RUNGS = [Rung(100, 4), Rung(200, 4), Rung(400, 4)]


class Grown:
    """Branches whose ends are normal around a mean for each alternative and horizon."""

    def __init__(
        self,
        means: dict[str, float],
        *,
        noise: float = 0.01,
        seed: int = 0,
        slopes: dict[str, float] | None = None,
        lower: bool = True,
    ) -> None:
        self.means, self.noise, self.seed, self.slopes, self.lower = (
            means,
            noise,
            seed,
            slopes or {},
            lower,
        )
        self.asked: list[list[Branch]] = []

    def __call__(self, branches: Sequence[Branch]) -> Iterator[BranchResult]:
        self.asked.append(list(branches))
        for branch in reversed(branches):
            name, size = branch.alternative.name, branch.horizon
            mean = self.means[name] + self.slopes.get(name, 0.0) * math.log(400 / size)
            key = (self.seed, branch.replicate, size, *map(ord, name))
            end = mean + self.noise * np.random.default_rng(key).standard_normal()
            readouts = {
                "test_loss": Readout(end if self.lower else -end, lower_is_better=self.lower)
            }
            yield BranchResult(
                name,
                branch.replicate,
                size,
                1,
                size,
                1.0,
                (),
                readouts if math.isfinite(mean) else {},
                None if math.isfinite(mean) else "the loss is inf",
            )


def result_of(
    grown: Grown, names: Sequence[str] = ("rate 2x", "rate 4x"), budget: int | None = None
) -> Race:
    alternatives = [Rate(float(name.split()[1][:-1])) for name in names]
    return race(grown, alternatives, RUNGS, budget=budget)


@pytest.mark.parametrize("lower", [True, False])
def test_what_is_clearly_worse_is_stopped_and_kept_in_the_record(lower: bool) -> None:
    grown = Grown({"go on": 0.5, "rate 2x": 0.4, "rate 4x": 2.0}, lower=lower)
    found = result_of(grown)
    assert found.best == "rate 2x" and found.left == ("rate 2x", "go on")
    (stop,) = found.stops
    assert (stop.alternative, stop.horizon, stop.replicates, stop.reason) == (
        "rate 4x",
        200,
        4,
        "worse",
    )
    assert stop.behind == "rate 2x" and stop.gap is not None and stop.gap.low > 0
    assert sum(result.alternative == "rate 4x" for result in found.results) == 8
    assert (
        found.spent
        == sum(result.examples for result in found.results)
        == 4 * (3 * 100 + 3 * 200 + 2 * 400)
    )
    assert [effect.verdict for effect in found.effects()] == ["better"]


def test_at_the_first_horizon_nothing_is_stopped_for_being_worse() -> None:
    grown = Grown({"go on": 0.5, "rate 2x": 9.0, "rate 4x": 9.0})
    assert {stop.horizon for stop in result_of(grown).stops} == {200}


def test_an_alternative_that_catches_up_with_the_horizon_is_not_stopped_early() -> None:
    catching_up = {"go on": 0.5, "rate 2x": 0.45, "rate 4x": 0.5}
    found = result_of(Grown(catching_up, slopes={"rate 2x": 0.4}))
    assert (
        found.best == "rate 2x"
        and [stop.alternative for stop in found.stops if stop.horizon < 400] == []
    )


def test_a_branch_that_diverges_stops_its_alternative_at_once() -> None:
    grown = Grown({"go on": 0.5, "rate 2x": math.inf, "rate 4x": 0.5})
    (stop, *_) = result_of(grown).stops
    assert (stop.alternative, stop.horizon, stop.reason, stop.gap) == (
        "rate 2x",
        100,
        "diverged",
        None,
    )


def test_the_baseline_goes_to_the_end_also_if_it_is_worst_or_alone() -> None:
    worst = result_of(Grown({"go on": 9.0, "rate 2x": 0.4, "rate 4x": 0.8}))
    assert "go on" in worst.left and worst.best == "rate 2x"
    alone = result_of(Grown({"go on": 0.5, "rate 2x": math.inf, "rate 4x": math.inf}))
    assert alone.left == ("go on",) and {effect.verdict for effect in alone.effects()} == {
        "diverged"
    }


def test_what_is_saved_pays_for_replicates_of_the_close_ones() -> None:
    grown = Grown({"go on": 0.5, "rate 2x": 0.499, "rate 4x": 2.0}, noise=0.05, seed=2)
    budget = 20_000
    found = result_of(grown, budget=budget)
    replicates = {result.replicate for result in found.results if result.horizon == 400}
    assert len(replicates) == 16 and found.spent <= budget
    assert result_of(grown, budget=1).spent == 4 * (3 * 100 + 3 * 200 + 2 * 400), (
        "the rungs themselves are always run"
    )


def test_the_truly_best_is_kept_among_equals() -> None:
    names = ("rate 2x", "rate 4x", "rate 0.5x")
    means = {"go on": 0.0, **dict.fromkeys(names, 0.0), "rate 0.5x": -1e-6}
    kept = [
        "rate 0.5x"
        not in {stop.alternative for stop in result_of(Grown(means, seed=seed), names).stops}
        for seed in range(12)
    ]
    assert sum(kept) >= 9


def test_rungs_keep_within_the_budget_and_prefer_a_long_last_horizon() -> None:
    for budget in (3_000, 10_000, 40_000, 149_999, 10**6):
        rungs = rungs_for(5, budget, left=10_000, shortest=100)
        cost = sum(5 * rung.horizon * rung.replicates for rung in rungs)
        assert cost <= budget and rungs[-1].horizon <= 10_000 and rungs[0].horizon >= 100
        assert [rung.horizon for rung in rungs] == sorted({rung.horizon for rung in rungs})
    generous, scarce = (rungs_for(5, budget, left=10_000) for budget in (149_999, 20_000))
    assert generous[-1].replicates == 4 and len(generous) == 3
    assert scarce == (Rung(2_000, 2),)


def test_a_budget_that_pays_for_it_goes_to_the_end_of_the_training() -> None:
    assert rungs_for(2, 6_000, left=1_000) == (Rung(1_000, 3),)
    assert rungs_for(2, 14_000, left=1_000, shortest=300) == (Rung(1_000, 4),)
    below = rungs_for(2, 5_999, left=1_000)
    assert len(below) == 3 and below[-1].horizon < 500


def test_what_is_left_after_branches_to_the_end_buys_replicates() -> None:
    grown = Grown({"go on": 0.5, "rate 2x": 0.5}, noise=0.05)
    found = race(grown, [Rate(2)], [Rung(1_000, 3)], budget=10_500)
    assert [len(asked) for asked in grown.asked] == [6, 4] and found.spent == 10_000
    assert found.horizon == 1_000 and found.stops == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: rungs_for(5, 900, shortest=100),
            "`budget` pays for branches of 90 examples, .* at least 1,000",
        ),
    ],
)
def test_races_that_cannot_be_run_are_refused(call: object, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        call()  # type: ignore[operator]
