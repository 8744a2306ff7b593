"""The choice of a rate: close to the best one where that is known, never beside a cliff, the same after a stop."""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradiometer import supervised
from gradiometer.errors import BadArgument
from gradiometer.forks import BranchResult
from gradiometer.problems.closed_forms import Quadratic, QuadraticLaw
from gradiometer.tuning import Tuned, tune
from gradiometer.tuning.choice import Round, Stage, choose, rate_of

FIRST, STAGES = Stage(16, 7, 4), (Stage(30, 3, 2), Stage(60, 3, 2))
CURVATURES = np.geomspace(0.05, 1, 6)
QUADRATIC = Quadratic(np.diag(CURVATURES), np.diag(CURVATURES))
START, BATCH, STEPS = np.full(6, 2.0), 8, 300


def exact(rate: float, updates: int, nesterov: bool = True) -> float:
    """The expected loss after so many updates, linear to zero."""
    rates = rate * (1 - (np.arange(updates) + 0.5) / updates)
    with np.errstate(over="ignore", invalid="ignore"):
        law = QuadraticLaw.at(QUADRATIC, START).after(rates, batch_size=BATCH, momentum=0.9, nesterov=nesterov)
        loss = law.excess_loss + len(CURVATURES) / 2  # the examples scatter by Σ = H around the minimum
        return loss if math.isfinite(loss) else math.inf


@cache
def best_exact(updates: int) -> float:
    return min(exact(rate, updates) for rate in np.geomspace(1e-3, 0.5, 25))


class Noisy(nn.Module):
    """A position, whose loss on an example is the quadratic around it."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.tensor(START, dtype=torch.float64))


def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    curvatures = torch.tensor(CURVATURES)
    assert isinstance(model.position, nn.Parameter)
    return (curvatures * (model.position - batch).square()).sum(1) / 2


def batches(seed: int) -> Iterator[torch.Tensor]:
    """Gaussian examples: the gradient's covariance is that of the quadratic."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor(CURVATURES).rsqrt()
    while True:
        yield spread * torch.randn(BATCH, 6, generator=generator, dtype=torch.float64)


def tuned(**settings: Any) -> Tuned:
    return tune(Noisy(), loss=loss, batches=batches, **{"steps": STEPS, **settings})


@pytest.mark.parametrize("start", [-14, -8, 2])
def test_with_exact_losses_the_choice_ends_within_one_percent_of_the_best_rate(start: int) -> None:
    def train(stage: Stage, _: int, exponents: Sequence[int]) -> dict[int, float]:
        return {exponent: exact(rate_of(1.0, exponent), stage.updates) for exponent in exponents}

    choice = choose(train, FIRST, lambda: STAGES, start=start, lowest=-40, highest=40)
    assert exact(rate_of(1.0, choice.exponent), STEPS) < 1.01 * best_exact(STEPS)


def test_with_real_branches_the_choice_ends_close_to_the_best_rate() -> None:
    found = tuned()
    assert exact(found.learning_rate, STEPS) < 1.01 * best_exact(STEPS)
    assert found.cost <= found.budget


@pytest.mark.parametrize("cliff", [-6, 0, 5])
@pytest.mark.parametrize("beyond", [math.inf, 40.0])
def test_the_choice_stays_an_octave_below_what_diverged_or_collapsed(cliff: int, beyond: float) -> None:
    """The best rate is close below the cliff, as it often is."""

    def train(stage: Stage, _: int, exponents: Sequence[int]) -> dict[int, float]:
        return {one: beyond if one >= cliff else 2 - 0.1 * (one - cliff) for one in exponents}

    choice = choose(train, FIRST, lambda: STAGES, start=0, lowest=-40, highest=40, before=7.0)
    assert cliff - 5 <= choice.exponent <= cliff - 1


def test_a_rate_that_collapsed_in_the_round_before_holds_the_choice_down() -> None:
    def train(stage: Stage, _: int, exponents: Sequence[int]) -> dict[int, float]:
        best = 0 if stage.updates < 60 else 8
        collapsed = 1 if stage.updates == 30 else math.inf
        return {one: 9.0 if one >= collapsed else 1.0 + abs(one - best) / 10 for one in exponents}

    choice = choose(train, FIRST, lambda: STAGES, start=0, lowest=-40, highest=40)
    assert choice.exponent == -1 and choice.held


def test_if_all_rates_diverge_lower_ones_are_tried() -> None:
    def train(stage: Stage, _: int, exponents: Sequence[int]) -> dict[int, float]:
        return {one: math.inf if one > -21 else 1.0 + (one + 25) ** 2 / 100 for one in exponents}

    few = Stage(16, 3, 4)
    assert -27 < choose(train, few, lambda: STAGES, start=0, lowest=-40, highest=40).exponent < -22


@pytest.mark.parametrize("learns", [-2, -7])
def test_if_nothing_is_learnt_at_the_centre_of_a_long_round_lower_rates_are_tried(learns: int) -> None:
    """Short branches stay on a plateau at all rates, and long ones leave it at low rates only."""

    def train(stage: Stage, _: int, exponents: Sequence[int]) -> dict[int, float]:
        return {one: 1.0 + abs(one - learns) / 10 if stage.updates > 16 and one <= learns else 2.0 for one in exponents}

    choice = choose(train, FIRST, lambda: [Stage(60, 4, 2)], start=0, lowest=-40, highest=40, before=2.0)
    assert len(choice.rounds[1].losses) in (3, 4) and choice.rounds[0].on_plateau
    assert learns - 4 <= choice.exponent <= learns


def test_the_long_branches_stay_within_the_bracket() -> None:
    tried = set[int]()

    def train(stage: Stage, _: int, exponents: Sequence[int]) -> dict[int, float]:
        tried.update(exponents if stage is not FIRST else ())
        return {one: 1.0 + one / 100 for one in exponents}

    choose(train, FIRST, lambda: STAGES[1:], start=0, lowest=-5, highest=40)
    assert tried == {-5, -3}


def test_on_a_plateau_the_lowest_of_equal_rates_counts_if_the_highest_is_worse() -> None:
    losses = {-4: 2.0, 0: 1.99, 4: 2.1}
    assert Round(60, losses, before=2.0, last=True).best == -4
    assert Round(60, {**losses, 4: 2.0}, before=2.0, last=True).best == 0
    assert Round(60, losses, before=2.0).best == 0


@pytest.mark.parametrize("most", [STEPS * BATCH // 16, 40])
def test_the_losses_of_a_round_are_those_of_the_same_examples_at_the_end(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("gradiometer.tuning.task.MOST_READ", most)
    found = tuned()
    for made, fork in zip(found.choice.rounds, found.forks, strict=True):
        ends = {result.readouts["train_loss"].mean for result in fork.results}
        assert ends == set(made.losses.values())
        assert {len(result.readouts["train_loss"].values) for result in fork.results} == {most}


def test_the_long_branches_keep_their_rate_for_most_of_their_length() -> None:
    first, last = tuned().forks
    assert (first.tail, last.tail) == ("linear", "third")
    assert [fork.tail for fork in tuned(optimizer="sgd,adamw", steps=600).races] == ["linear", "third"]


def test_a_guard_expects_the_lowest_loss_of_mini_batches_and_not_of_readouts() -> None:
    found = tuned(steps=64)
    results = [result for fork in found.forks for result in fork.results]
    late = [[loss for examples, loss in one.curve if examples > one.examples * 7 / 8] for one in results]
    assert found.expected == min(sum(losses) / len(losses) for losses in late)
    assert found.expected not in {result.readouts["train_loss"].mean for result in results}


def test_a_loss_may_be_negative() -> None:
    def train(stage: Stage, _: int, exponents: Sequence[int]) -> dict[int, float]:
        return {one: -3.0 + (one - 3) ** 2 / 50 for one in exponents}

    assert choose(train, FIRST, lambda: STAGES, start=0, lowest=-40, highest=40).exponent == pytest.approx(3, abs=0.5)


class Stopped(Exception):
    pass


def test_a_tuning_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def stop(result: BranchResult, done: int, _: int) -> None:
        if done == 4:
            raise Stopped

    with pytest.raises(Stopped):
        tuned(out=tmp_path, progress=stop, steps=100)
    lines = sum(len(path.read_text().splitlines()) for path in tmp_path.glob("forks/*/branches.jsonl"))
    assert lines == 4
    trained = []
    on = tuned(out=tmp_path, steps=100, progress=lambda result, *_: trained.append(result))
    whole = tuned(steps=100)
    assert on.learning_rate == whole.learning_rate and on.tried == whole.tried
    kept = sum(len(path.read_text().splitlines()) for path in tmp_path.glob("forks/*/branches.jsonl"))
    assert kept == len(trained) == sum(len(fork.results) for fork in whole.forks)
    again = tuned(out=tmp_path, steps=100)
    assert again.learning_rate == whole.learning_rate and again.cost == whole.cost
    assert len(list(tmp_path.glob("forks/*/fork.json"))) == len(whole.forks)
    assert sum(len(path.read_text().splitlines()) for path in tmp_path.glob("forks/*/branches.jsonl")) == kept


def test_the_model_and_random_states_are_not_touched() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1), nn.Flatten(0))
    inputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    before, random = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    squared = supervised(nn.MSELoss(reduction="none"))
    found = tune(model, loss=squared, batches=(inputs, inputs.sum(1)), batch_size=16, steps=40)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random) and found.cost <= 1.3


def test_two_data_orders_give_intervals_and_one_gives_none() -> None:
    one, two = tuned(steps=60), tuned(steps=60, budget=2.6)
    assert [effect.replicates for effect in one.effects()] == [1] * len(one.effects())
    assert not any(effect.estimate.tells for effect in one.effects())
    assert all(effect.estimate.tells for effect in two.effects()) and two.cost <= 2.6


@pytest.mark.parametrize("optimizer", ["adamw", lambda parameters, rate: torch.optim.Adam(parameters, lr=rate)])
def test_other_optimizers_are_tuned_without_the_probe(optimizer: Any) -> None:
    found = tuned(optimizer=optimizer, steps=100)
    assert found.bracket is None and 1e-3 < found.learning_rate < 2
    made = found.optimizer(Noisy().parameters())
    assert isinstance(made, torch.optim.Adam) and made.param_groups[0]["lr"] == found.learning_rate


def test_the_lines_to_paste_train_with_the_chosen_rate() -> None:
    found, model = tuned(steps=60), Noisy()
    names: dict[str, Any] = {"torch": torch, "model": model}
    exec(found.line, names)
    optimizer, scheduler = names["optimizer"], names["scheduler"]
    ours = found.scheduler(mine := found.optimizer(model.parameters()))
    assert type(optimizer) is type(mine) and optimizer.defaults["nesterov"]
    for _ in range(60):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(mine.param_groups[0]["lr"], rel=5e-3, abs=1e-12)
        for one in (optimizer, scheduler, mine, ours):
            one.step()
    assert mine.param_groups[0]["lr"] == 0


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"steps": 4}, "`steps` must be at least 8"),
        ({"budget": 0.05}, "`budget` pays for no three branches"),
        ({"budget": math.nan}, "`budget` must be positive"),
        ({"optimizer": "sdg"}, "`optimizer` must be one of 'sgd', 'adamw', 'schedulefree', or a function"),
        ({"optimizer": lambda parameters, rate: rate}, "`optimizer` returned a float"),
        ({"momentum": 1.0}, "`momentum` must be at least 0 and below 1"),
        ({"weight_decay": -1.0}, "`weight_decay` must be at least 0"),
        ({"batches": iter(())}, "`batches` is a tuple_iterator, which cannot be replayed"),
        ({"loss": nn.MSELoss()}, "`loss` must be a function of"),
        ({"pool": "nowhere"}, "`pool` must be here"),
    ],
)
def test_a_bad_argument_is_refused_by_name(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadArgument, match=sentence):
        tune(Noisy(), **{"loss": loss, "batches": batches, "steps": 100, **wrong})


def test_branches_whose_loss_falls_towards_higher_rates_have_not_failed() -> None:
    """The loss at the start is that of a few batches, and can be far below that of the others."""
    falling = Round(16, {-4: 6.0, -2: 5.8, 0: 5.4}, before=3.5)
    assert not falling.failed and falling.best == 0
    rising = Round(16, {-4: 5.4, -2: 6.0, 0: math.inf}, before=3.5)
    assert rising.failed and rising.best == -4
    assert Round(16, {-4: math.inf, -2: math.inf, 0: math.inf}, before=3.5).failed
