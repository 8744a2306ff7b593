"""One watch: `gradiometer train` and a plain loop of a person have the same losses, readings and
verdict."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradiometer import Configuration, Run, Sampling, diagnose, watch
from gradiometer.measurement import Draw
from gradiometer.measurement.batch import Batch, Order
from gradiometer.problems import Problem, load
from gradiometer.problems.evaluation import evaluate
from gradiometer.run.planned import planned
from gradiometer.train import train

KINDS: dict[str, dict[str, Any]] = {
    "SGD": {},
    "momentum, cosine": {"momentum": 0.9, "schedule": "cosine"},
    "AdamW": {"optimizer": "adamw"},
    "every 3rd step": {"every": 3},
    "every 3rd step, AdamW": {"every": 3, "optimizer": "adamw"},
    "every 3rd step, gauges that look back": {
        "every": 3,
        "gauges": "noise,temperature,trajectory",
        "momentum": 0.9,
    },
    "a rate that is too high": {"learning_rate": 3.0},
}


@pytest.fixture(scope="module")
def digits() -> Problem:
    return load("digits", model="mlp")


Pair = tuple[Run, Run]


@pytest.fixture(scope="module")
def pair(digits: Problem, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """A training of ours and the same loop of a person, trained once for all tests."""

    @cache
    def runs(kind: str) -> Pair:
        folder = tmp_path_factory.mktemp("pair")
        return ours(digits, folder, KINDS[kind]), of_a_person(digits, folder, KINDS[kind])

    return runs


def ours(problem: Problem, out: Path, settings: dict[str, Any]) -> Run:
    return train(
        problem,
        Configuration(model="mlp", epochs=3, check_edge=False, check_endpoint=False, **settings),
        out,
    )


def batches_of(problem: Problem, order: Order, steps: int) -> Iterator[Batch]:
    return (problem.train.batch(order.batch(step)) for step in range(steps))


def of_a_person(problem: Problem, out: Path, settings: dict[str, Any]) -> Run:
    """The same training as a person writes it, with the lines of `watch`."""
    configuration = Configuration(model="mlp", epochs=3, **settings)
    torch.manual_seed(configuration.seed)
    model, rate, momentum = problem.model(), configuration.rate, configuration.momentum
    sgd = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    optimizer = (
        sgd
        if configuration.optimizer == "sgd"
        else torch.optim.AdamW(model.parameters(), rate, weight_decay=0)
    )
    order = Order(
        Draw.RESHUFFLED, len(problem.train), configuration.batch_size, seed=configuration.seed
    )
    steps = 3 * order.steps_per_epoch
    scheduler = planned(configuration, steps).scheduler(optimizer)
    with watch(
        model,
        optimizer,
        loss=problem.loss,
        out=out,
        sampling=Sampling(Draw.RESHUFFLED, len(problem.train)),
        steps=steps,
        every=configuration.every,
        gauges=configuration.measured,
        page=False,
        quiet=True,
    ) as w:
        for step, batch in enumerate(batches_of(problem, order, steps), 1):
            optimizer.zero_grad()
            loss = problem.loss(model, batch).mean()
            loss.backward()
            w.step(loss, batch)
            optimizer.step()
            scheduler.step()
            if step % order.steps_per_epoch == 0:
                w.record_evaluation(evaluate(problem, model, torch.device("cpu")))
    assert w.run is not None
    return w.run


QUICK = ("SGD", "AdamW", "every 3rd step, gauges that look back", "a rate that is too high")


@pytest.mark.parametrize(
    "kind",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS],
)
def test_a_training_of_ours_and_a_loop_of_a_person_have_the_same_record(
    pair: Callable[[str], Pair], kind: str
) -> None:
    settings = KINDS[kind]
    run, other = pair(kind)
    assert run.losses[1].tolist() == other.losses[1].tolist()
    evaluations = [
        [event["estimates"] for event in one.events if event["event"] == "evaluation"]
        for one in (run, other)
    ]
    assert evaluations[0] == evaluations[1] and len(evaluations[0]) == 3
    assert run.gauges == other.gauges and "noise" in run.gauges
    if "every" in settings:
        for gauge in run.gauges:
            first, second = run.series(gauge), other.series(gauge)
            assert first is not None and second is not None
            assert first.steps.tolist() == second.steps.tolist()
            for name, moments in first.moments.items():
                assert np.array_equal(moments, second.moments[name], equal_nan=True), name


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "a rate that is too high"])
def test_both_have_the_same_verdict(pair: Callable[[str], Pair], kind: str) -> None:
    run, other = pair(kind)
    first, second = diagnose(run), diagnose(other)
    assert first.headline is not None and second.headline is not None
    assert first.headline.claim == second.headline.claim
    claims = [
        {finding.claim for finding in one.findings if finding.gauge == "triage"}
        for one in (first, second)
    ]
    assert claims[0] == claims[1] and claims[0]


def test_products_of_successive_gradients_are_the_default_of_both(
    pair: Callable[[str], Pair],
) -> None:
    for run in pair("SGD"):
        series = run.series("noise")
        assert series is not None and "product" in series.moments
