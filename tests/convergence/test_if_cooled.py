"""Without a length: the loss if the rate went to zero now is forecast at doublings of the steps,
and forks score it."""

import math
from pathlib import Path
from typing import Any

import pytest

from gradiometer import Interrupted, diagnose
from gradiometer.convergence.plateau.noise_floor import if_cooled
from gradiometer.loop import forks_of
from gradiometer.problems import load
from gradiometer.run import Configuration, Run
from gradiometer.train import resume, train
from gradiometer.verdict import say
from stopped_training import StopAt, weights

pytest.importorskip("schedulefree")


@pytest.mark.parametrize(
    ("averaged", "before"), [(1.0, 2.0), (1.0, 0.5), (0.01, 10.0), (-2.0, -1.0), (0.0, 1.0)]
)
def test_the_forecast_lies_between_the_average_and_half_of_its_latest_change(
    averaged: float, before: float
) -> None:
    found = if_cooled(averaged, before)
    assert found.low <= averaged <= found.high and found.low < found.value < found.high
    assert (found.value < averaged) == (before > averaged)
    if averaged > 0:
        assert found.value == pytest.approx(averaged * (averaged / before) ** 0.25)
        widest = max(math.log(averaged / found.low), math.log(found.high / averaged))
        assert widest == pytest.approx(abs(math.log(averaged / before)) / 2 + 0.1)


def settings(**changes: Any) -> Configuration:
    given = {
        "problem": "digits",
        "model": "mlp",
        "optimizer": "schedulefree",
        "steps": 330,
        "fork_budget": 3.0,
    }
    return Configuration(
        **(given | {"budget": 0.0, "clip": 5.0, "check_endpoint": False} | changes)
    )


def forecasts(run: Run) -> dict[int, dict[str, Any]]:
    return {event["step"]: event for event in run.events if event["event"] == "cooled forecast"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(load("digits", model="mlp"), settings(), tmp_path_factory.mktemp("whole"))


def test_forecasts_are_made_at_doublings_and_hold_in_the_forks_that_score_them(whole: Run) -> None:
    found = forecasts(whole)
    assert list(found) == [64, 128, 256] and found[64]["forecast"] is None
    for step in (128, 256):
        one = found[step]
        assert (
            one["forecast"]["low"] <= one["seen"] <= one["forecast"]["high"] and one["going_on"] > 0
        )
        assert (
            one["forecast"]["value"]
            == if_cooled(one["averaged"], found[step // 2]["averaged"]).value
        )
    assert [(record.plan.step, record.fork.names) for record in forks_of(whole)] == [
        (128, ("go on", "hold 0%")),
        (256, ("go on", "hold 0%")),
    ]
    (said,) = [one for one in diagnose(whole).findings if one.gauge == "if_cooled"]
    assert "2 of 2 such forecasts" in say(said).tried and any(
        "if the rate went to zero" in text for text in say(said).paragraphs
    )


@pytest.mark.slow
def test_a_forecast_moves_no_weight_and_does_not_depend_on_the_length(
    whole: Run, tmp_path: Path
) -> None:
    plain = train(load("digits", model="mlp"), settings(fork_budget=0.0), tmp_path)
    assert weights(plain) == weights(whole) and not forks_of(plain)
    assert [one["averaged"] for one in forecasts(plain).values()] == [
        one["averaged"] for one in forecasts(whole).values()
    ]
    longer = train(load("digits", model="mlp"), settings(fork_budget=0.0, steps=900), tmp_path)
    assert longer.losses[1][:330].tolist() == whole.losses[1].tolist()
    assert forecasts(longer)[256]["forecast"] == forecasts(whole)[256]["forecast"]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [100, 128, 129, 300])
def test_a_run_that_was_stopped_resumes_to_the_same_bits_and_forecasts(
    whole: Run, tmp_path: Path, stop: int
) -> None:
    with pytest.raises(Interrupted):
        train(load("digits", model="mlp"), settings(), tmp_path, StopAt(stop))
    (folder,) = tmp_path.iterdir()
    resumed = resume(folder)
    assert weights(resumed) == weights(whole)
    untimed = [
        {step: {**one, "time": 0} for step, one in forecasts(run).items()}
        for run in (resumed, whole)
    ]
    assert untimed[0] == untimed[1]


@pytest.mark.slow
def test_a_small_budget_pays_for_some_forks_only(tmp_path: Path) -> None:
    found = forecasts(train(load("digits", model="mlp"), settings(fork_budget=0.5), tmp_path))
    assert [one["fork"] is None for one in found.values()] == [True, True, True]
    found = forecasts(train(load("digits", model="mlp"), settings(fork_budget=0.9), tmp_path))
    assert found[128]["fork"] is not None and found[256]["fork"] is None
    assert all(one["spent"] <= 0.9 * step for step, one in found.items())
