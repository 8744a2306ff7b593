"""The thermometer in a loop of your own: the heat balance closes, or the run says why it is not
measured."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from conftest import CASES
from gradiometer import BadArgument, Unsupported, watch
from gradiometer.exploration.temperature import Temperature
from gradiometer.integrations.watch.observers.motion import MotionReader
from gradiometer.integrations.watch.sources.one_backward import OneBackward
from gradiometer.integrations.watch.subject import Batches, Subject
from gradiometer.measurement import Draw, Objective, Sampling
from gradiometer.run import Run
from gradiometer.run.budget import Budget
from gradiometer.verdict.words.say import say
from gradiometer_lab.temperature.thermometer import heat_balance
from own_loop import LOSS, SAMPLING, Loop, assert_closed, balance_of, sgd_of

FORMS = pytest.mark.parametrize(
    "form",
    [
        {},
        {"decay": 0.3},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.8, "nesterov": True, "decay": 0.1},
    ],
    ids=str,
)


@pytest.mark.slow
@FORMS
@pytest.mark.parametrize("clip", [0.0, 0.3])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_balance_of_a_watched_loop_closes_and_training_keeps_its_bits(
    tmp_path: Path, form: dict[str, Any], clip: float, accumulation: int
) -> None:
    loop = {"clip": clip, "accumulation": accumulation, **form}
    model, w = Loop(tmp_path, **loop).go()
    alone, _ = Loop(tmp_path, **loop, watched=None).go()
    assert all(map(torch.equal, model.parameters(), alone.parameters()))
    assert_closed(balance_of(w, form.get("momentum", 0.0)))
    factors = w.run.series("temperature").moments["factor"]
    assert (factors < 0.7).any() if clip else (abs(factors - 1) < 1e-12).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"clip": 0.3, "early": True},
        {"clip": 0.3, "early": True, "accumulation": 3},
        {"clip": 0.3, "closure": True},
        {"case": "frozen_first_layer", "decay": 0.1},
        {"rates": np.linspace(0.1, 0.01, 20).tolist(), "clip": 0.3},
        {"watched": {"loss": None, "gauges": "noise,temperature"}, "accumulation": 3},
        {
            "watched": {
                "loss": lambda model, batch: 2 * LOSS(model, batch),
                "gauges": "temperature",
            },
            "clip": 0.3,
        },
    ],
    ids=[
        "clipped early",
        "and accumulated",
        "a closure",
        "frozen",
        "a schedule",
        "no loss",
        "another loss",
    ],
)
def test_it_closes_in_loops_of_many_kinds(tmp_path: Path, settings: dict[str, Any]) -> None:
    model, w = Loop(tmp_path, **settings).go()
    alone, _ = Loop(tmp_path, **(settings | {"watched": None})).go()
    assert all(map(torch.equal, model.parameters(), alone.parameters()))
    assert w is not None and w.run is not None
    warned = [
        text for text in w.run.warnings if "give `watch` the loss that is trained" not in text
    ]
    assert warned == []
    assert_closed(heat_balance(w.run.series("temperature")))
    if settings.get("clip"):
        assert (w.run.series("temperature").moments["factor"] < 0.9).any()


def test_weight_decay_may_differ_and_a_parameter_without_gradient_stays(tmp_path: Path) -> None:
    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        groups = [{"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.3}]
        groups += [{"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0}]
        return torch.optim.SGD(groups, lr=0.1)

    def unused(model: nn.Module, step: int) -> None:
        if step % 3 == 0:
            model[0].weight.grad = None  # SGD then leaves it where it is, weight decay and all

    _, w = Loop(tmp_path, optimizer=optimizer).go()
    assert_closed(balance_of(w))
    model = CASES["mlp"]().model.double()
    subject = Subject(
        objective=Objective(model, LOSS),
        called=model,
        optimizers=[optimizer(model)],
        batches=Batches(SAMPLING),
        budget=Budget(0.02),
        source=OneBackward(),
        tell=print,
    )
    updates = MotionReader(subject)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    unused(model, 0)
    made = torch.tensor(
        [0.0, *[float(p.numel()) for p in [*model.parameters()][1:]]], dtype=torch.float64
    )
    update = updates.motion(made, index=0, learning_rate=0.1).update
    assert (
        update is not None
        and list(update.weight_decay) == [0.0, 0.0, 0.3, 0.0]
        and update.factor == 1.0
    )
    assert not update.pull([*model.parameters()])[0].any()


@pytest.mark.slow
def test_clipping_reads_as_the_smaller_rate_it_is(tmp_path: Path) -> None:
    """The same path by plain SGD at the rates ηs has the same temperatures, whole and by layer."""
    _, clipped = Loop(tmp_path, clip=0.3, steps=80).go()
    factors = clipped.run.series("temperature").moments["factor"]
    _, plain = Loop(tmp_path, rates=(0.1 * factors).tolist(), steps=80).go()
    found, wanted = (Temperature().estimate(w.run.series("temperature")) for w in (clipped, plain))
    assert factors.min() < 0.3
    assert found.keys() - wanted.keys() == {"temperature_clipping"}
    for name in wanted.keys() - {"temperature_residual"}:
        for end in ("low", "value", "high"):
            assert getattr(found[name], end) == pytest.approx(
                getattr(wanted[name], end), rel=1e-8
            ), name
    assert found["temperature_clipping"].value == pytest.approx(factors.mean())
    assert "Gradients were clipped, to" in say(Temperature().judge(found)).means
    assert "clipped" not in say(Temperature().judge(wanted)).means


def test_a_scaler_changes_no_temperature_and_a_step_it_skips_is_not_measured(
    tmp_path: Path,
) -> None:
    def measured(scaled: bool, fused: bool) -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, fused=fused)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=2.0**10, growth_interval=3)
        torch.manual_seed(3)
        with watch(
            model,
            optimizer,
            loss=LOSS,
            out=tmp_path,
            scaler=scaler,
            every=1,
            parts=2,
            gauges="temperature",
        ) as w:
            for step in range(16):
                optimizer.zero_grad()
                batch = (torch.randn(8, 8), torch.randint(5, (8,)))
                loss = LOSS(model, batch).mean()
                scaler.scale(loss).backward()
                w.step(loss, batch)
                if step == 9 and scaled:
                    model[0].weight.grad[0, 0] = math.inf
                if not fused and step > 9:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                scaler.step(optimizer)
                scaler.update()
        assert [
            text for text in w.run.warnings if "1 of 16 readings are not finite" not in text
        ] == []
        return w.run.series("temperature")

    for fused in (False, True):
        plain, scaled = measured(False, fused), measured(True, fused)
        assert plain.steps.tolist() == [*range(16)]
        # A step that is skipped leaves none to decide on the next; a fused optimizer skips by
        # itself, and is called.
        assert scaled.steps.tolist() == [s for s in range(16) if s != 9 and (fused or s != 10)]
        for name in plain.moments:
            assert scaled.moments[name][:9] == pytest.approx(
                plain.moments[name][:9], rel=1e-4, abs=1e-6
            ), name


def test_a_checkpoint_goes_on_about_an_origin_of_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CASES["mlp"]().model.double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    settings = {
        "loss": LOSS,
        "out": tmp_path,
        "every": 1,
        "gauges": "temperature",
        "sampling": SAMPLING,
    }
    loop = Loop(tmp_path, steps=10)
    with watch(model, optimizer, **settings) as w:
        loop.through(model, optimizer, w)
        kept = json.loads(json.dumps(w.state_dict()))
    again = watch(model, optimizer, **settings)
    again.load_state_dict(kept)
    with again:
        loop.through(model, optimizer, again)
    run = Run.open(w.run.path)
    series = run.series("temperature")
    assert series.steps.tolist() == [*range(20)]
    assert series.moments["origin"].tolist() == [0, 1, 2, 2, 4, 4, 4, 4, 8, 8, *[10] * 6, *[16] * 4]
    assert_closed(heat_balance(series, momentum=0.9), readings=13)


class OfItsOwn(torch.optim.SGD):
    """Another update under the same name."""


def in_two_groups(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.01}], lr=0.1
    )


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (
            lambda model: torch.optim.Adam(model.parameters()),
            "whose heat balance is known for SGD and not for Adam",
        ),
        (
            lambda model: OfItsOwn(model.parameters(), lr=0.1),
            "is a OfItsOwn, and the heat balance is known for torch",
        ),
        (
            lambda model: [sgd_of(model[0]), sgd_of(model[2])],
            "needs one optimizer, and `optimizer` has 2",
        ),
        (
            lambda model: sgd_of(model[0]),
            r"does not train 2\.weight, which then has noise and no motion",
        ),
        (in_two_groups, r"parameter groups with .*lr=0\.1.* and .*lr=0\.01"),
        (
            lambda model: sgd_of(model, maximize=True),
            "has maximize True, for which no heat balance is known",
        ),
        (
            lambda model: sgd_of(model, momentum=0.5, dampening=0.1),
            "has dampening 0.1, for which no heat balance",
        ),
    ],
)
def test_an_update_whose_balance_is_not_known_is_refused_by_name(
    optimizer: Any, words: str
) -> None:
    model = CASES["mlp"]().model
    with pytest.raises((BadArgument, Unsupported), match=words):
        watch(model, optimizer(model), loss=LOSS, gauges="noise,temperature")
    watch(model, optimizer(model), loss=LOSS, gauges="noise,trajectory")


def test_batches_from_a_set_of_unknown_size_are_refused_where_their_noise_would_be_read() -> None:
    model = CASES["mlp"]().model
    with pytest.raises(
        BadArgument, match="over a training set of unknown size: give its `examples`"
    ):
        watch(
            model,
            sgd_of(model),
            loss=LOSS,
            gauges="temperature",
            sampling=Sampling(Draw.RESHUFFLED),
        )


def by_value(model: nn.Module, step: int) -> None:
    if step >= 5:
        nn.utils.clip_grad_value_(model.parameters(), 0.01)


def with_noise(model: nn.Module, step: int) -> None:
    if step >= 5:
        for parameter in model.parameters():
            parameter.grad.add_(torch.ones_like(parameter), alpha=0.01)


def with_momentum(model: nn.Module, step: int) -> None:
    if step >= 5:
        model.optimizer.param_groups[0]["momentum"] = 0.5


def with_another_rate(model: nn.Module, step: int) -> None:
    if step >= 5:
        model.optimizer.param_groups[0]["lr"] *= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(
    ("between", "words"),
    [
        (by_value, "not a multiple of the one `backward` computed (clipped by value or by layer"),
        (with_noise, "not a multiple of the one `backward` computed (clipped by value or by layer"),
        (with_momentum, "started with momentum 0 and now has 0.5"),
        (
            with_another_rate,
            "had the learning rate 0.1 when `step` was called, and 0.05 at the update",
        ),
    ],
)
def test_what_becomes_another_update_on_the_way_is_told_and_training_goes_on(
    tmp_path: Path, between: Any, words: str, accumulation: int
) -> None:
    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        model.optimizer = sgd_of(model)
        return model.optimizer

    asked = {"gauges": "noise,temperature", "parts": 2}
    loop = {"optimizer": optimizer, "between": between, "accumulation": accumulation}
    _, w = Loop(tmp_path, watched=asked, **loop).go()
    assert (
        w.run.series("temperature").steps.tolist() == [*range(5)]
        and len(w.run.series("noise")) == 20
    )
    (warning,) = w.run.warnings
    assert warning.startswith("temperature is no longer measured: `optimizer`") and words in warning
    alone, _ = Loop(tmp_path, watched=None, **loop).go()
    assert all(map(torch.equal, alone.parameters(), w._subject.objective.parameters))


def test_a_gradient_of_nothing_or_not_finite_is_no_reading(tmp_path: Path) -> None:
    def between(model: nn.Module, step: int) -> None:
        if step in (4, 7):
            for parameter in model.parameters():
                parameter.grad.mul_(0.0 if step == 4 else math.nan)

    _, w = Loop(tmp_path, between=between, steps=8).go()
    assert w.run.series("temperature").steps.tolist() == [0, 1, 2, 3, 5, 6]
    assert w.run.warnings == [
        "temperature: 2 of 8 readings are not finite, the first at step 4: skipped."
    ]


def test_of_another_loss_the_update_is_training_s_and_the_spread_is_the_loss_s(
    tmp_path: Path,
) -> None:
    own = Loop(tmp_path).go()[1].run.series("temperature").moments
    twice = {"loss": lambda model, batch: 2 * LOSS(model, batch)}
    other = Loop(tmp_path, watched=twice).go()[1].run.series("temperature").moments
    assert other["noise"] == pytest.approx(4 * own["noise"], rel=1e-9)
    for name in ("kick", "configurational", "distance"):
        assert other[name] == pytest.approx(own[name], rel=1e-12), name
