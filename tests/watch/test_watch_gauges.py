"""The thermometer and the trajectory see in a watched loop what they see in `train`, and keep the
budget."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import CASES
from gradiometer import diagnose, watch
from gradiometer.convergence.trajectory import Trajectory
from gradiometer.convergence.trajectory.trajectory import sketch
from gradiometer.exploration.temperature import Temperature
from gradiometer.problems import load
from gradiometer.report.page import write_page
from gradiometer.run import Configuration
from gradiometer.run.budget import Budget
from gradiometer.train import train
from gradiometer.train.training import Training
from gradiometer.verdict import say
from known_steps import kept_steps
from own_loop import LOSS, SAMPLING, Loop
from watched_loop import Clock


@pytest.mark.parametrize(
    "form",
    [
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        *(pytest.param(form, marks=pytest.mark.slow) for form in ({}, {"accumulation": 4})),
    ],
    ids=str,
)
def test_they_see_in_a_watched_loop_what_they_see_in_train(
    tmp_path: Path, form: dict[str, Any]
) -> None:
    problem, gauges = load("digits", model="mlp"), "noise,temperature,trajectory"
    rate = 0.01 if "momentum" in form else 0.1
    configuration = Configuration(
        problem="digits",
        model="mlp",
        learning_rate=rate,
        batch_size=32,
        epochs=2,
        every=3,
        gauges=gauges,
        sampling="replacement",
        threads=1,
        seed=3,
        **form,
    )
    of_train = train(problem, configuration, tmp_path)
    mine = Training(problem, configuration, Budget(0.0))  # its parts, in a loop of our own
    accumulation = form.get("accumulation", 1)
    with watch(
        mine.model,
        mine.optimizer,
        loss=problem.loss,
        out=tmp_path,
        sampling=mine.sampling,
        gauges=gauges,
        every=3,
        seed=3,
        accumulation=accumulation,
    ) as w:
        while mine.step < mine.steps:
            mine.optimizer.zero_grad()
            inputs, labels = mine.batch()
            for batch in zip(inputs.chunk(accumulation), labels.chunk(accumulation), strict=True):
                loss = problem.loss(mine.model, batch).mean()
                (loss / accumulation).backward()
                w.step(loss, batch)
            mine.update()
    run = w.run
    assert run is not None and run.warnings == [] and mine.steps == 2 * 45
    # sums in another order, in singles
    close = {"rel": 2e-4, "abs": 1e-6} if accumulation > 1 else {"rel": 1e-12, "abs": 0.0}
    for gauge in ("temperature", "trajectory"):
        found, wanted = run.series(gauge), of_train.series(gauge)
        assert found.steps.tolist() == wanted.steps.tolist() and len(wanted) >= 30
        assert (found.batch_size == wanted.batch_size).all() and (
            found.learning_rate == wanted.learning_rate
        ).all()
        # before the first update, `watch` does not hook into the backward
        for (
            name,
            values,
        ) in wanted.moments.items():
            first = 1 if name == "noise" and accumulation == 1 else 0
            assert found.moments[name][first:] == pytest.approx(values[first:], **close), (
                gauge,
                name,
            )
    found, wanted = diagnose(run), diagnose(of_train)
    names = [
        name
        for name in wanted.estimates
        if name.startswith("temperature") and "residual" not in name
    ]
    assert len(names) > 8
    for name in names:
        for end in ("low", "value", "high"):
            assert getattr(found.estimates[name], end) == pytest.approx(
                getattr(wanted.estimates[name], end), rel=max(close["rel"], 1e-9) * 10
            ), name
    told = [
        {f.gauge: say(f).seen for f in each.findings if f.gauge in ("temperature", "trajectory")}
        for each in (found, wanted)
    ]
    assert told[0].keys() == {"temperature", "trajectory"} and (
        accumulation > 1 or told[0] == told[1]
    )
    assert write_page(run, found).stat().st_size > 10_000


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_trajectory_is_seen_of_any_optimizer_without_a_loss_at_steps_of_its_own_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulation: int
) -> None:
    points: dict[int, Tensor] = {}
    measure, asked = Trajectory.measure, []

    def counted(gauge: Trajectory, step: Any) -> Any:
        asked.append(step.index)
        return measure(gauge, step)

    def between(model: nn.Module, step: int) -> None:
        points[step] = torch.cat([p.detach().flatten() for p in model.parameters()])
        assert not any(parameter._backward_hooks for parameter in model.parameters())

    monkeypatch.setattr(Trajectory, "measure", counted)
    alone = {"loss": None, "gauges": "trajectory", "every": None}
    loop = Loop(tmp_path, steps=64, between=between, watched=alone, accumulation=accumulation)
    loop.optimizer = lambda model: torch.optim.Adam(model.parameters(), lr=0.01)
    _, w = loop.go()
    series = w.run.series("trajectory")
    assert series.steps.tolist() == asked == kept_steps(64) and len(asked) == 32
    assert w.overhead["measured_steps"] == 0 and (series.batch_size == 6 * accumulation).all()
    for step, point in zip(series.steps, series.moments["point"], strict=True):
        model = CASES["mlp"]().model.double()
        nn.utils.vector_to_parameters(points[int(step)], model.parameters())
        assert point.tolist() == sketch([*model.parameters()]).tolist()


def test_without_a_budget_neither_looks(tmp_path: Path) -> None:
    _, w = Loop(
        tmp_path,
        watched={"budget": 0.0, "every": None, "gauges": "temperature,trajectory"},
        steps=40,
    ).go()
    assert w.run.series("temperature") is None and w.run.series("trajectory") is None


def test_the_budget_is_kept_where_a_step_waits_for_its_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, measure = Clock(), Temperature.measure

    def slow(gauge: Temperature, step: Any) -> Any:
        clock.seconds += 3
        return measure(gauge, step)

    def a_second(model: nn.Module, step: int) -> None:
        clock.seconds += 1

    monkeypatch.setattr(Temperature, "measure", slow)
    loop = Loop(tmp_path, steps=1000, between=a_second)
    torch.manual_seed(0)
    model = CASES["mlp"]().model.double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=LOSS, out=tmp_path, gauges="temperature", sampling=SAMPLING)
    w.budget.clock = clock
    with w:
        loop.through(model, optimizer, w)
    assert 20 <= w.overhead["measured_steps"] <= 25  # a reading costs three steps: 20 are promised
    assert w.overhead["budget"] == 0.02 and 0.05 < w.overhead["used"] < 0.1
