"""A tuning: its choice ends close to the best rate, costs what it says, and is the same after a
stop."""

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_tuning_race import BATCH, CURVATURES, START, STEPS, best_exact, exact
from torch import nn

from gradiometer import supervised
from gradiometer.errors import BadArgument, GradiometerError
from gradiometer.tuning import Tuned, tune
from gradiometer.tuning.lane import LoopLane
from gradiometer.tuning.optimizers import variants
from unseen import unseen

SQUARED = supervised(nn.MSELoss(reduction="none"))


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


@cache
def short(optimizer: str = "sgd") -> Tuned:
    """A tuning of a short training, which several tests compare with others."""
    return tuned(steps=60, optimizer=optimizer)


class Stopped(GradiometerError):
    pass


def stopping(after: int) -> Callable[[str], None]:
    """A progress that stops the tuning after so many lanes."""
    said: list[str] = []

    def stop(text: str) -> None:
        said.append(text)
        if len(said) == after:
            raise Stopped

    return stop


class Idle(torch.optim.SGD):
    """It makes updates of its first gradient and of no other. A factor on the rate would be found
    and taken out."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        moved = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        firsts = [self.state[p].setdefault("first", p.grad.clone()) for p in moved]
        if all(torch.equal(first, p.grad) for first, p in zip(firsts, moved, strict=True)):
            super().step(closure)


def idle(parameters: Any, rate: float) -> torch.optim.Optimizer:
    """It does not learn at any rate."""
    return Idle(parameters, lr=rate)


def test_the_choice_ends_close_to_the_best_rate_of_the_exact_law() -> None:
    found = tuned()
    assert exact(found.learning_rate, STEPS // 2, STEPS // 2) < 1.03 * best_exact()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"optimizer": "sgd,adamw"}, marks=pytest.mark.slow),
        {"budget": 0.4},
        {"steps": 40},
    ],
)
def test_the_cost_is_what_went_through_the_loss_and_within_the_budget(
    settings: dict[str, Any],
) -> None:
    examples = unseen({True: 0, False: 0})

    def counting(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        examples.value[torch.is_grad_enabled()] += len(batch)
        return loss(model, batch)

    found = tuned(loss=counting, **settings)
    counted = (examples.value[True] + examples.value[False] / 3) / (
        found.steps * BATCH
    ) - found.done / found.steps
    assert counted <= settings.get("budget", 1.0)
    assert found.cost == pytest.approx(counted, abs=8 / found.steps)  # lanes are whole updates


@pytest.mark.parametrize(("offset", "optimizer"), [(-20.0, "sgd"), (20.0, "adamw")])
def test_a_constant_in_the_loss_changes_no_choice(offset: float, optimizer: str) -> None:
    def shifted(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return loss(model, batch) + offset

    plain = short(optimizer)
    moved = tuned(steps=60, optimizer=optimizer, loss=shifted)
    assert moved.learning_rate == pytest.approx(plain.learning_rate, rel=1e-9)
    assert (
        moved.made.words == plain.made.words
        and moved.done == plain.done
        and moved.cost == plain.cost
    )
    assert [one["learning_rate"] for one in moved.tried] == pytest.approx(
        [one["learning_rate"] for one in plain.tried], rel=1e-9
    )


@pytest.mark.parametrize("unit", [8.0, 0.125])
def test_in_another_unit_every_lane_of_sgd_has_the_same_bits(unit: float) -> None:
    """A factor that is a power of two rounds nothing. The gradients are small: the 1e-6 that PyTorch
    adds to a norm before it clips would be 1 % of them, and its rounding chose other rates."""

    def ends(factor: float) -> list[tuple[float, float]]:
        torch.manual_seed(0)
        inputs = torch.randn(256, 4)
        data = inputs, inputs.sum(dim=1) + 0.5 * torch.randn(256)
        squared = supervised(nn.MSELoss(reduction="none"))
        found = tune(
            nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)),
            loss=lambda model, batch: 1e-4 * factor * squared(model, batch),
            batches=data,
            batch_size=16,
            steps=60,
            clip=0.5,
        )
        return [(one.lane.rate * factor, one.loss / factor) for rung in found.rungs for one in rung]

    assert ends(unit) == ends(1.0)


@pytest.mark.parametrize("power", [-3, pytest.param(3, marks=pytest.mark.slow)])
def test_a_loss_times_c_divides_the_rate_by_c(power: int) -> None:
    """Momentum and the clipping norm are scaled along: the clipping is a multiple of the gradient
    at the start."""

    def scaled(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return 2.0**power * loss(model, batch)

    plain = short()
    moved = tuned(steps=60, loss=scaled)
    assert moved.learning_rate * 2.0**power == pytest.approx(plain.learning_rate, rel=1e-9)
    assert moved.made.clip == pytest.approx(plain.made.clip * 2.0**power, rel=1e-9)


def test_the_winner_goes_on_to_the_bits_of_a_training_from_the_start() -> None:
    found, model = tuned(steps=100), Noisy()
    optimizer, scheduler = found.go_on(model)
    assert isinstance(found.lane, LoopLane) and 0 < found.done <= 50
    rest, whole = found.lane.batches(), Noisy()
    fresh, stream = found.optimizer(whole.parameters()), found.lane.loop.data.replicate(0, 0)
    falling = found.scheduler(fresh)
    for _ in range(found.steps):
        fresh.zero_grad()
        loss(whole, next(stream)).mean().backward()
        fresh.step()
        falling.step()
    for _ in range(found.done, found.steps):
        optimizer.zero_grad()
        loss(model, rest.take()[0]).mean().backward()
        optimizer.step()
        scheduler.step()
    assert torch.equal(model.position, whole.position)
    assert optimizer.param_groups[0]["lr"] == 0


def test_a_tuning_that_was_stopped_goes_on_to_the_same_choice_and_bits(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        tuned(out=tmp_path, progress=stopping(5), steps=60)
    assert len((tmp_path / "race.jsonl").read_text().splitlines()) == 5
    on = tuned(out=tmp_path, steps=60)
    whole = short()
    again = tuned(out=tmp_path, steps=60)
    assert json.dumps(on.to_dict()) == json.dumps(whole.to_dict()) == json.dumps(again.to_dict())
    positions = []
    for each in (on, whole, again):
        model = Noisy()
        each.go_on(model)
        positions.append(model.position.detach())
    assert torch.equal(positions[0], positions[1]) and torch.equal(positions[2], positions[1])


@pytest.mark.slow
def test_the_numbers_are_the_same_in_processes() -> None:
    with_dropout = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1), nn.Flatten(0))
    inputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    settings = {"loss": SQUARED, "batches": (inputs, inputs.sum(1)), "batch_size": 16, "steps": 48}
    here, there = (tune(with_dropout, **settings, pool=pool) for pool in ("here", "processes:2"))
    assert here.tried == there.tried


def test_new_statistics_of_batch_norm_are_paid_for() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1), nn.Flatten(0))
    inputs = torch.randn(256, 3, generator=torch.Generator().manual_seed(1))
    examples = unseen({True: 0, False: 0})

    def counting(model: nn.Module, batch: Any) -> torch.Tensor:
        examples.value[torch.is_grad_enabled()] += len(batch[0])
        return SQUARED(model, batch)

    found = tune(model, loss=counting, batches=(inputs, inputs.sum(1)), batch_size=16, steps=128)
    counted = (examples.value[True] + examples.value[False] / 3) / (128 * 16) - found.done / 128
    assert counted <= 1 and found.cost == pytest.approx(counted, abs=8 / 128)


def test_the_model_and_random_states_are_not_touched() -> None:
    model = nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1), nn.Flatten(0)
    )
    inputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))
    before, random = (
        {name: value.clone() for name, value in model.state_dict().items()},
        torch.get_rng_state(),
    )
    tune(model, loss=SQUARED, batches=(inputs, inputs.sum(1)), batch_size=16, steps=40)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(
    "optimizers",
    [
        pytest.param((idle, "sgd"), marks=pytest.mark.slow),
        pytest.param(("sgd", idle), marks=pytest.mark.slow),
        ("sgd", idle, "adamw"),
    ],
)
def test_an_optimizer_that_does_not_learn_loses_at_any_place(optimizers: Any) -> None:
    found = tuned(steps=80, optimizer=optimizers, budget=1.3)
    assert found.made.words != "idle"
    assert "idle" in {one["optimizer"] for one in found.tried} and "idle at" in " ".join(
        found.sentences
    )


def test_weight_decay_is_raced_and_wins_where_it_helps() -> None:
    """The minimum is at zero, so that weight decay leads there faster."""
    for decays in ((0.0, 1.0), (1.0, 0.0)):
        assert tuned(steps=80, weight_decay=decays).made.settings["weight_decay"] == 1


def test_the_combinations_are_those_that_differ() -> None:
    assert [made.words for made in variants("sgd, adamw", (0, 0.9), False, (0.0, 0.1))] == [
        "SGD",
        "SGD with weight decay 0.1",
        "SGD with momentum 0.9",
        "SGD with momentum 0.9 and weight decay 0.1",
        "AdamW",
        "AdamW with weight decay 0.1",
    ]


@pytest.mark.parametrize("steps", [60, pytest.param(61, marks=pytest.mark.slow)])
def test_the_lines_to_paste_train_with_the_chosen_rate(steps: int) -> None:
    found, model = short() if steps == 60 else tuned(steps=steps), Noisy()
    names: dict[str, Any] = {"torch": torch, "model": model}
    exec(found.line, names)
    optimizer, scheduler = names["optimizer"], names["scheduler"]
    ours = found.scheduler(mine := found.optimizer(model.parameters()))
    assert type(optimizer) is type(mine) and optimizer.defaults["nesterov"]
    for _ in range(steps + 3):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(
            mine.param_groups[0]["lr"], rel=5e-3, abs=1e-12
        )
        for one in (optimizer, scheduler, mine, ours):
            one.step()
    assert mine.param_groups[0]["lr"] == 0
    assert (
        f" for the first 30 of {steps} updates, and from there linearly to zero."
        in found.sentences[0]
    )


def test_progress_says_absolute_rates_and_the_time_that_is_left() -> None:
    said: list[str] = []
    found = tuned(steps=60, progress=said.append)
    assert len(said) == len(found.tried)
    pattern = r"SGD with Nesterov momentum 0.9 at rate [\d.]+: (training loss [\d.]+|diverged) after \d+ of 60 updates; "
    assert all(
        re.fullmatch(pattern + r"about [\d.]+ (s|min) left, the training included", one)
        for one in said
    )


def test_the_time_that_is_left_is_right_where_a_readout_takes_longer_than_its_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lanes are read out, and the training that follows is not."""
    now = unseen(0.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.value)
    monkeypatch.setattr(time, "perf_counter", lambda: now.value)

    def slow(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        now.value += 0.1 if torch.is_grad_enabled() else 2.0
        return loss(model, batch)

    said: list[tuple[float, str]] = []
    found = tuned(loss=slow, steps=160, progress=lambda text: said.append((now.value, text)))
    end = now.value + 0.1 * (found.steps - found.done)
    forecasts = [
        (end - when, float(left))
        for when, text in said
        for left in re.findall(r"about ([\d.]+) s left", text)
    ]
    assert len(forecasts) == len(found.tried) >= 9
    for real, forecast in forecasts[2:]:
        assert forecast == pytest.approx(real, rel=0.1)


def test_the_cost_and_the_time_of_a_huge_budget_are_numbers() -> None:
    said: list[str] = []
    found = tuned(steps=24, budget=1e308, progress=said.append)
    assert found.cost == pytest.approx(tuned(steps=24, budget=20.0).cost) and found.cost > 0
    assert not any("inf" in one for one in said)


def test_what_cannot_be_told_is_said() -> None:
    inputs = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    noise = torch.randn(256, generator=torch.Generator().manual_seed(1))
    found = tune(
        model, loss=SQUARED, batches=(1e-6 * inputs, 1e-6 * noise + 3), batch_size=8, steps=320
    )
    assert found.learning_rate > 0
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    flat = tune(model, loss=SQUARED, batches=(1e-9 * inputs, noise), batch_size=8, steps=160)
    assert any("standardise the inputs" in sentence for sentence in flat.sentences)
    assert flat.first_loss == pytest.approx(float(noise.square().mean()), rel=0.5)
    # with the same rates, a loss that has come down says that something was learnt
    learnt = replace(flat, first_loss=3 * flat.rungs[-1][0].loss)
    assert any("ended at the same loss" in sentence for sentence in learnt.sentences)
    assert not any("standardise the inputs" in sentence for sentence in learnt.sentences)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"steps": 4}, "`steps` must be at least 8"),
        (
            {"budget": 0.05},
            "`budget` 0.05 does not pay for three trial runs of each kind: give at least 0",
        ),
        ({"budget": math.nan}, "`budget` must be positive"),
        (
            {"optimizer": "sdg"},
            "`optimizer` must be one of 'sgd', 'adamw', 'schedulefree', or a function",
        ),
        ({"optimizer": lambda parameters, rate: rate}, "`optimizer` returned a float"),
        ({"optimizer": "sgd,sgd"}, "`optimizer` has 'sgd' twice"),
        ({"optimizer": []}, "`optimizer` must be one value or several, got none"),
        (
            {"optimizer": "adamw", "momentum": (0, 0.9)},
            "`momentum` has several values, but it is a setting of SGD",
        ),
        (
            {"optimizer": ["sgd", idle], "weight_decay": (0, 0.1)},
            "`weight_decay` has several values, but a function",
        ),
        ({"momentum": 1.0}, "`momentum` must be at least 0 and below 1"),
        ({"weight_decay": -1.0}, "`weight_decay` must be at least 0"),
        ({"batches": iter(())}, "`batches` is a tuple_iterator, which cannot be replayed"),
        ({"loss": nn.MSELoss()}, "`loss` must be a function of"),
        ({"pool": "nowhere"}, "`pool` must be here"),
        ({"threads": 2**40}, "`threads` must be at most 512"),
    ],
)
def test_a_bad_argument_is_refused_by_name(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadArgument, match=sentence):
        tune(Noisy(), **{"loss": loss, "batches": batches, "steps": 100, **wrong})


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(BadArgument, match="`model` has no parameters"):
        tune(nn.ReLU(), loss=loss, batches=batches, steps=100)


def test_the_budget_that_a_refusal_names_is_enough() -> None:
    with pytest.raises(BadArgument, match="give at least") as refused:
        tuned(steps=60, optimizer="sgd,adamw", budget=0.3)
    enough = float(str(refused.value).rsplit(" ", 1)[1].rstrip("."))
    assert np.isfinite(tuned(steps=60, optimizer="sgd,adamw", budget=enough).learning_rate)
