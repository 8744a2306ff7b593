"""The choice of a rate: close to the best one where that is known, never beside a cliff, the same after a stop."""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quadratic_law import QuadraticLaw
from torch import nn

from gradiometer import supervised
from gradiometer.errors import BadArgument
from gradiometer.lab.closed_forms import Quadratic
from gradiometer.loop.branch import BranchResult, Tail, tail_factor
from gradiometer.tuning import Tuned, tune
from gradiometer.tuning.choice import LOWER, Choice, Round, Stage, choose, rate_of
from gradiometer.tuning.lane import end_loss, late_loss

FIRST, STAGES = Stage(16, 7, 4), (Stage(30, 3, 2), Stage(60, 3, 2))
LAST = (Stage(90, 3, 2, "third"),)
CURVATURES = np.geomspace(0.05, 1, 6)
QUADRATIC = Quadratic(np.diag(CURVATURES), np.diag(CURVATURES))
START, BATCH, STEPS = np.full(6, 2.0), 8, 300


def exact(rate: float, updates: int, tail: Tail = "half", nesterov: bool = True) -> float:
    """The expected loss after so many updates whose rate ends like this; that of a training falls in its second half."""
    rates = rate * np.array([tail_factor(tail, step, step + 1, updates) for step in range(updates)])
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
    return tune(Noisy(), **{"loss": loss, "batches": batches, "steps": STEPS, **settings})


@pytest.mark.parametrize("start", [-14, -8, 2])
def test_with_exact_losses_the_choice_ends_within_one_percent_of_the_best_rate(start: int) -> None:
    def train(stage: Stage, _: int, exponents: Sequence[int]) -> dict[int, float]:
        return {exponent: exact(rate_of(1.0, exponent), stage.updates, stage.tail) for exponent in exponents}

    choice = choose(train, FIRST, lambda _: LAST, start=start, lowest=-40, highest=40)
    assert exact(rate_of(1.0, choice.exponent), STEPS) < 1.01 * best_exact(STEPS)


def test_with_real_branches_the_choice_ends_close_to_the_best_rate() -> None:
    found = tuned()
    assert exact(found.learning_rate, STEPS) < 1.01 * best_exact(STEPS)
    assert found.cost <= found.budget


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "said"), [(60, False), (150, True), (300, False)])
def test_a_rate_that_is_lowered_for_the_length_is_said_to_be(steps: int, said: bool) -> None:
    """With 60 steps there is one round, and with 300 all losses of the last one are equal."""
    found = tuned(steps=steps)
    assert ("is divided by √2" in " ".join(found.sentences)) == said
    assert (found.choice.rounds[-1].minimum - found.choice.exponent == LOWER) == said


@pytest.mark.parametrize("cliff", [-6, 0, 5])
@pytest.mark.parametrize("beyond", [math.inf, 40.0])
def test_the_choice_stays_an_octave_below_what_diverged_or_collapsed(cliff: int, beyond: float) -> None:
    """The best rate is close below the cliff, as it often is."""

    def train(stage: Stage, _: int, exponents: Sequence[int]) -> dict[int, float]:
        return {one: beyond if one >= cliff else 2 - 0.1 * (one - cliff) for one in exponents}

    choice = choose(train, FIRST, lambda _: STAGES, start=0, lowest=-40, highest=40, before=7.0)
    assert cliff - 5 <= choice.exponent <= cliff - 1


def test_a_rate_that_collapsed_in_the_round_before_holds_the_choice_down() -> None:
    def train(stage: Stage, _: int, exponents: Sequence[int]) -> dict[int, float]:
        best = 0 if stage.updates < 60 else 8
        collapsed = 1 if stage.updates == 30 else math.inf
        return {one: 9.0 if one >= collapsed else 1.0 + abs(one - best) / 10 for one in exponents}

    choice = choose(train, FIRST, lambda _: STAGES, start=0, lowest=-40, highest=40, lower=0)
    assert choice.exponent == -1 and choice.held
    assert not choose(train, FIRST, lambda _: STAGES[1:], start=0, lowest=-40, highest=40).held


def test_if_all_rates_diverge_lower_ones_are_tried() -> None:
    def train(stage: Stage, _: int, exponents: Sequence[int]) -> dict[int, float]:
        return {one: math.inf if one > -21 else 1.0 + (one + 25) ** 2 / 100 for one in exponents}

    few = Stage(16, 3, 4)
    assert -27 < choose(train, few, lambda _: STAGES, start=0, lowest=-40, highest=40).exponent < -22


@pytest.mark.parametrize("learns", [-2, -7])
def test_if_nothing_is_learnt_at_the_centre_of_a_long_round_lower_rates_are_tried(learns: int) -> None:
    """Short branches stay on a plateau at all rates, and long ones leave it at low rates only."""

    def train(stage: Stage, _: int, exponents: Sequence[int]) -> dict[int, float]:
        return {one: 1.0 + abs(one - learns) / 10 if stage.updates > 16 and one <= learns else 2.0 for one in exponents}

    choice = choose(train, FIRST, lambda _: [Stage(60, 4, 2)], start=0, lowest=-40, highest=40, before=2.0)
    assert choice.rounds[0].on_plateau and sum(len(one.losses) for one in choice.rounds[1:]) in (3, 4)
    assert learns - 4 <= choice.exponent <= learns


def test_the_long_branches_stay_within_the_bracket() -> None:
    tried = set[int]()

    def train(stage: Stage, _: int, exponents: Sequence[int]) -> dict[int, float]:
        tried.update(exponents if stage is not FIRST else ())
        return {one: 1.0 + one / 100 for one in exponents}

    choose(train, FIRST, lambda _: STAGES[1:], start=0, lowest=-5, highest=40)
    assert tried == {-5, -3}


def on_plateau(loss_of: Callable[[int, int], float], most: int = 4) -> Choice:
    """The choice where no short branch learns anything, and long ones end at this loss of exponent and length."""

    def train(stage: Stage, _: int, exponents: Sequence[int]) -> dict[int, float]:
        return {one: loss_of(one, stage.updates) if stage.updates > 16 else 2.0 for one in exponents}

    return choose(train, FIRST, lambda _: [Stage(60, most, 2)], start=5, lowest=-40, highest=40, before=2.0)


def test_if_no_branch_leaves_a_plateau_one_twice_as_long_decides_whether_the_rate_is_high_or_low() -> None:
    leaves = on_plateau(lambda one, updates: 1.9 if updates == 60 else 1.5)
    assert [sorted(one.losses) for one in leaves.rounds[1:]] == [[0, 2], [2]]
    assert leaves.rounds[2].updates == 120 and leaves.exponent == 2
    assert on_plateau(lambda one, updates: 1.9 + one / 1000 - updates / 10_000).exponent == -2


def test_a_round_of_three_branches_on_a_plateau_takes_the_home_and_not_the_lowest_loss() -> None:
    choice = on_plateau(lambda one, updates: 2.0 + one / 1000, most=3)
    assert sorted(choice.rounds[1].losses) == [0, 2, 4] and choice.exponent == 1 and choice.rounds[1].on_plateau
    worse = Round(60, {-4: 1.9, -2: 1.9, 0: 2.1}, before=2.0, last=True, home=1)
    assert worse.on_plateau and worse.minimum == -2


def test_if_only_high_rates_leave_a_plateau_the_choice_is_just_above_those_that_do_not() -> None:
    choice = on_plateau(lambda one, updates: 1.95 if one < 2 else 1.2 - one / 100)
    assert sorted(choice.rounds[1].losses) == [0, 2, 4, 6] and choice.exponent == 1 and not choice.held
    assert on_plateau(lambda one, updates: 1.9 if one < 2 else 2.0).exponent < 1


def test_a_loss_that_falls_with_every_higher_rate_is_followed_also_near_the_start() -> None:
    assert on_plateau(lambda one, updates: 1.9 - one / 200).exponent == 6 - LOWER
    assert Round(60, {0: 1.941, 2: 1.936}, before=2.05, last=True).best == 2
    by_rate = {2: 1.890, 4: 1.886, 6: 1.870, 8: 1.886}
    assert not Round(60, by_rate, before=2.0, last=True).on_plateau
    assert Round(60, {**by_rate, 4: 1.8885, 6: 1.888, 8: 1.889}, before=2.0, last=True).on_plateau
    assert Round(60, by_rate, before=2.0).on_plateau  # short branches: chance


def test_a_loss_that_falls_in_small_steps_does_not_hold_the_rate_down() -> None:
    assert Round(60, {0: 1.9, 2: 1.75, 4: 1.6, 6: 1.5}, before=2.0, last=True).limit == math.inf
    assert Round(60, {0: 1.9, 2: 1.85, 4: 1.6, 6: 1.55}, before=2.0, last=True).limit == 3


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_long_branches_keep_their_rate_for_most_of_their_length() -> None:
    first, last = tuned().forks
    assert (first.tail, last.tail) == ("linear", "third")
    assert [fork.tail for fork in tuned(optimizer="sgd,adamw", steps=600).races] == ["linear", "third"]


def test_the_start_is_measured_on_as_many_examples_as_a_branch_and_the_cost_is_what_went_through_the_loss() -> None:
    examples = {True: 0, False: 0}

    def counting(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        examples[torch.is_grad_enabled()] += len(batch)
        return loss(model, batch)

    found, first = tuned(loss=counting), batches(zlib.crc32(b"0/start"))
    with torch.no_grad():
        losses = [float(loss(Noisy(), next(first)).mean()) for _ in range(4 + STEPS // 16)]
    assert found.choice.rounds[0].before == pytest.approx(sum(losses) / len(losses))
    assert found.cost == pytest.approx((examples[True] + examples[False] / 3) / (STEPS * BATCH))


@pytest.mark.parametrize(("seed", "of_readout"), [(0, False), (2, True)])
def test_a_guard_expects_the_lowest_loss_of_mini_batches_or_of_readouts_where_they_are_higher(
    seed: int, of_readout: bool
) -> None:
    found = tuned(steps=64, seed=seed)
    results = [result for fork in found.forks for result in fork.results]
    late = [[loss for examples, loss in one.curve if examples > one.examples * 7 / 8] for one in results]
    pairs = [(sum(part) / len(part), one.readouts["train_loss"].mean) for part, one in zip(late, results, strict=True)]
    assert found.expected == min(map(max, pairs))
    assert (found.expected in {readout for _, readout in pairs}) == of_readout


class Stopped(Exception):
    pass


def parity(**settings: Any) -> Tuned:
    """A deep network on classes that it cannot learn in so few steps."""
    torch.manual_seed(0)
    layers = [layer for _ in range(5) for layer in (nn.Linear(8, 8), nn.GELU())]
    inputs = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    losses = supervised(nn.CrossEntropyLoss(reduction="none"))
    data = inputs, (inputs.prod(1) > 0).long()
    return tune(nn.Sequential(*layers, nn.Linear(8, 2)), loss=losses, batches=data, batch_size=8, steps=160, **settings)


def test_a_plateau_is_told_and_its_longer_branch_is_kept_but_not_expected_of_the_training(tmp_path: Path) -> None:
    def stop(result: BranchResult, done: int, _: int) -> None:
        if done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        parity(out=tmp_path, progress=stop)
    found, whole = parity(out=tmp_path), parity()
    assert found.learning_rate == whole.learning_rate and found.tried == whole.tried and found.cost <= 1.3
    assert [len(fork.results) for fork in found.forks] == [3, 2, 1] and len(
        list(tmp_path.glob("forks/*/fork.json"))
    ) == 3
    assert any("all rates had learnt equally little, and no more after" in sentence for sentence in found.sentences)
    assert len(found.effects()) == 1  # those of the round of two
    for forks in permutations(found.forks):
        expected = min(max(late_loss(one), end_loss(one)) for fork in forks[:2] for one in fork.results)
        assert replace(found, forks=forks).expected == expected


def test_a_loss_may_be_negative() -> None:
    def train(stage: Stage, _: int, exponents: Sequence[int]) -> dict[int, float]:
        return {one: -3.0 + (one - 3) ** 2 / 50 for one in exponents}

    choice = choose(train, FIRST, lambda _: STAGES, start=0, lowest=-40, highest=40)
    assert choice.exponent + LOWER == pytest.approx(3, abs=0.5)


@pytest.mark.parametrize(("lower", "bend", "below"), [(0, 0.01, 0), (1, 0.01, 1), (2, 0.01, 2), (1, 0.0001, 0)])
def test_the_choice_is_below_the_minimum_of_the_long_branches_unless_these_are_equal(
    lower: int, bend: float, below: int
) -> None:
    def train(stage: Stage, _: int, exponents: Sequence[int]) -> dict[int, float]:
        return {one: 1.0 + bend * (one - 1) ** 2 for one in exponents}

    choice = choose(train, FIRST, lambda _: LAST, start=1, lowest=-40, highest=40, before=3.0, lower=lower)
    assert choice.rounds[1].minimum - choice.exponent == below and len(choice.rounds[1].losses) == 3
    edge = choose(train, FIRST, lambda _: LAST, start=1, lowest=1, highest=40, before=3.0, lower=lower)
    assert edge.exponent >= 1


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


@pytest.mark.parametrize("steps", [60, 61])
def test_the_lines_to_paste_train_with_the_chosen_rate(steps: int) -> None:
    found, model = tuned(steps=steps), Noisy()
    names: dict[str, Any] = {"torch": torch, "model": model}
    exec(found.line, names)
    optimizer, scheduler = names["optimizer"], names["scheduler"]
    ours = found.scheduler(mine := found.optimizer(model.parameters()))
    assert type(optimizer) is type(mine) and optimizer.defaults["nesterov"]
    for _ in range(steps + 3):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(mine.param_groups[0]["lr"], rel=5e-3, abs=1e-12)
        for one in (optimizer, scheduler, mine, ours):
            one.step()
    assert mine.param_groups[0]["lr"] == 0
    assert f" for the first 30 of {steps} updates, and from there linearly to zero." in found.sentences[0]


@pytest.mark.parametrize("budget", [1.3, 2.6])
def test_small_batches_at_the_end_of_epochs_are_updates_too(budget: float) -> None:
    data = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    squared = supervised(nn.MSELoss(reduction="none"))
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    found = tune(model, loss=squared, batches=(data, data.sum(1)), batch_size=90, steps=200, budget=budget)
    for made, fork in zip(found.choice.rounds, found.forks, strict=True):
        assert {result.updates for result in fork.results} == {made.updates}
    assert 0.7 * budget < found.cost <= budget


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
