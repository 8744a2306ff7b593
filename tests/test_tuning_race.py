"""Races between optimizers: the better one wins within the budget, and a race that was stopped continues."""

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from command_line import called
from gradiometer.errors import BadArgument
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.recorded.record import ForkRecord
from gradiometer.run import Configuration
from gradiometer.tuning.stages import Rounds
from gradiometer.tuning.variants import variants
from test_tuning import Stopped, tuned


def idle(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """It hardly learns at any rate."""
    return torch.optim.SGD(parameters, lr=min(rate, 1.0) * 1e-9)


def plain(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=rate)


def test_the_combinations_are_those_that_differ() -> None:
    assert [made.words for made in variants("sgd, adamw", (0, 0.9), False, (0.0, 0.1))] == [
        "SGD",
        "SGD with weight decay 0.1",
        "SGD with momentum 0.9",
        "SGD with momentum 0.9 and weight decay 0.1",
        "AdamW",
        "AdamW with weight decay 0.1",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("optimizers", [(idle, "sgd"), ("sgd", idle), (plain, idle, "sgd")])
def test_an_optimizer_that_does_not_learn_loses_at_any_place(optimizers: Any) -> None:
    found = tuned(optimizer=optimizers)
    assert found.made.words != "idle" and found.cost <= found.budget
    assert [end.lane.made.words for end in found.race[0]][-1] == "idle"
    assert any("a race of three chose the best one" in said for said in found.sentences) == (len(optimizers) == 3)
    losses = [end.loss for part in found.race for end in part]
    assert found.race[0][0].loss == min(losses[: len(optimizers)]) and len(found.race[1]) == 2


@pytest.mark.slow
def test_the_rate_of_the_winner_is_chosen_around_its_own_best_branches() -> None:
    found = tuned(momentum=(0, 0.9), optimizer="sgd", steps=600)
    alone = tuned(momentum=found.made.settings["momentum"], steps=600)
    assert alone.learning_rate / 8 < found.learning_rate < 8 * alone.learning_rate  # the loss is flat in it
    ends = {end.lane.made.words: end.rate for end in found.race[0]}
    assert ends["SGD"] > 2 * ends["SGD with Nesterov momentum 0.9"]  # each has its own bracket


@pytest.mark.slow
def test_weight_decay_is_raced_at_the_best_rate_and_wins_where_it_helps() -> None:
    """The minimum is at zero, so that weight decay leads there faster."""
    for decays in ((0.0, 1.0), (1.0, 0.0)):
        found = tuned(weight_decay=decays, steps=600)
        assert found.made.settings["weight_decay"] == 1 and found.cost <= found.budget
        assert [end.lane.made.settings["weight_decay"] for end in found.race[0]] == [1, 0]
        assert len(found.race) == 1 and len(found.choice.rounds) == 2 and len(found.forks) == 2


@pytest.mark.slow
def test_the_first_rates_of_adamw_are_higher_in_shorter_trainings() -> None:
    for steps, exponent in ((300, 5), (1200, 3)):  # √(10,000 / steps), in steps of √2
        first = sorted(tuned(optimizer="adamw", steps=steps).choice.rounds[0].losses)
        assert {exponent - 4, exponent, exponent + 4} <= set(first)


def test_a_budget_that_compares_no_weight_decays_is_refused() -> None:
    with pytest.raises(BadArgument, match="pays for no long branches, which compare weight decays"):
        tuned(weight_decay=(0.0, 1.0), steps=120, budget=1.0)


def test_two_data_orders_give_the_race_intervals() -> None:
    found = tuned(optimizer=["sgd", idle], steps=150, budget=2.6)
    assert found.cost <= 2.6 and all(effect.estimate.tells for effect in found.races[-1].effects())
    assert "idle at" in " ".join(found.sentences) and "higher" in " ".join(found.sentences)


@pytest.mark.slow
@pytest.mark.parametrize("raced", [{"optimizer": "sgd,adamw"}, {"weight_decay": (0.0, 1.0), "steps": 300}])
def test_a_race_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path, raced: dict[str, Any]) -> None:
    settings = {"steps": 120, **raced, "out": tmp_path}
    seen: list[BranchResult] = []

    def stop(result: BranchResult, done: int, _: int) -> None:
        seen.append(result)
        if len(seen) == 5:
            raise Stopped

    with pytest.raises(Stopped):
        tuned(**settings, progress=stop)
    on, whole = tuned(**settings), tuned(**{**settings, "out": None})
    assert on.learning_rate == whole.learning_rate and on.tried == whole.tried and on.made.words == whole.made.words
    assert json.dumps(on.to_dict()) == json.dumps(whole.to_dict())
    kept = {path: path.read_bytes() for path in tmp_path.glob("forks/*/*")}
    tuned(**settings)
    assert {path: path.read_bytes() for path in tmp_path.glob("forks/*/*")} == kept
    records = [ForkRecord.open(path.parent) for path in sorted(tmp_path.glob("forks/*/fork.json"))]
    race = records[-1].fork
    assert all(record.finished for record in records) and any(
        name.startswith(("SGD(", "AdamW(")) for name in race.names
    )
    assert race.effects()[0].to_dict() == whole.races[-1].effects()[0].to_dict()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"optimizer": "sgd,sgd"}, "`optimizer` has 'sgd' twice"),
        ({"optimizer": [partial(torch.optim.SGD), partial(torch.optim.Adam)]}, "the name"),
        ({"optimizer": []}, "`optimizer` must be one value or several, got none"),
        ({"optimizer": "adamw", "momentum": (0, 0.9)}, "`momentum` has several values, but it is a setting of SGD"),
        ({"optimizer": ["sgd", idle], "weight_decay": (0, 0.1)}, "`weight_decay` has several values, but a function"),
        ({"momentum": (0, 1.5)}, "`momentum` must be at least 0 and below 1"),
        ({"momentum": (0, 0.5, 0.9), "budget": 0.5}, "three branches of 16 updates of each of 3 optimizers"),
    ],
)
def test_what_cannot_be_raced_is_refused_by_name(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadArgument, match=sentence):
        tuned(**{"steps": 100, **wrong})


def test_the_budget_that_a_refusal_names_is_enough() -> None:
    with pytest.raises(BadArgument, match="give at least") as refused:
        tuned(steps=60, optimizer="sgd,adamw", budget=0.5)
    enough = float(str(refused.value).rsplit(" ", 1)[1].rstrip("."))
    assert 0.5 < tuned(steps=60, optimizer="sgd,adamw", budget=enough).cost <= enough < 2


def test_the_command_writes_the_optimizer_that_won(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["tune", "quadratic", "--steps", "240", "-b", "10", "--json"]
    code, out, _ = called(capsys, *small, "--optimizer", "adamw,sgd", "--momentum", "0,0.9", "--set", "nesterov=yes")
    told = json.loads(out)
    written = Configuration.from_toml(told["file"])
    best = told["race"][-1][0]["name"]
    assert code == 0 and told["cost"] <= 1.3 and len(told["race"][0]) == 3
    words = "AdamW" if written.optimizer == "adamw" else "SGD"
    words += f" with Nesterov momentum {written.momentum:g}" if written.momentum else ""
    assert words == best and written.learning_rate == told["learning_rate"]
    code, _, err = called(capsys, *small, "--momentum", "0,high")
    assert code == 2 and "`momentum` must be a number, or several with commas between them" in err


def test_the_last_round_has_three_branches_for_what_is_left_of_the_budget_and_four_on_a_plateau() -> None:
    plan = Rounds(steps=300, whole=1.3, spent=24.0, readout=6.0)
    [last], [on_plateau] = plan.then(70.0, False), plan.then(70.0, True)
    assert (last.most, last.updates) == (3, (390 - 24 - 70) // 3 - 6)
    assert (on_plateau.most, on_plateau.updates) == (4, (390 - 24 - 70) // 4 - 6)
    large = replace(plan, whole=9.0, lanes=2)
    assert large.then(70.0, False)[0].updates == 120 and (end := large.final(70.0)) is not None and end.updates == 120
    [shortest] = plan.then(294.0, False)
    assert shortest.updates == plan.first.updates + 1 and not plan.then(297.0, False)
