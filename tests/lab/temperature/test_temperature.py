"""The thermometer: the balance closes on any run; units, layers, drift and errors."""

import math
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from conftest import CASES, Case
from gradiometer import BadArgument
from gradiometer.errors import Interrupted
from gradiometer.exploration.temperature import Temperature
from gradiometer.measurement import (
    Draw,
    Origin,
    Reading,
    Sampling,
    Series,
    State,
    TrainingStep,
    velocity_of,
)
from gradiometer.measurement.motion import Motion
from gradiometer.run import Configuration
from gradiometer.train import resume, train
from gradiometer.train.restoring import capture
from gradiometer.train.training import Training
from gradiometer.verdict.words.say import say
from gradiometer_lab.temperature.stationary_law import (
    SGDRule,
    reshuffled_covariance,
    stationary_covariance,
)
from gradiometer_lab.temperature.thermometer import heat_balance
from stopped_training import StopAt
from thermometer import INDEPENDENT, Sgd, double, parts_of, readings_of

NAN = math.nan


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mlp", "cnn_with_batch_norm", "tiny_transformer", "dropout", "frozen_first_layer"]
)
@pytest.mark.parametrize(
    "sgd",
    [Sgd(), Sgd(decay=0.3), Sgd(0.02, 0.9), Sgd(0.02, 0.9, nesterov=True, decay=0.1)],
    ids=["plain", "weight decay", "heavy ball", "nesterov"],
)
def test_the_balance_closes_on_any_run_of_sgd(name: str, sgd: Sgd) -> None:
    torch.manual_seed(0)
    case = CASES[name]()
    case.model.double()
    # plain: any schedule
    rates = [sgd.rate] * 20 if sgd.momentum else np.linspace(sgd.rate, sgd.rate / 9, 20)
    readings = readings_of(case.objective, parts_of(double(case.batch), 6), sgd, rates)
    series = Series.of(readings, INDEPENDENT, case.objective.layers)
    balance = heat_balance(series, momentum=sgd.momentum)
    # 19 steps, less those before the origin was renewed, at 1, 2, 4, 8 and 16
    assert len(balance.drift) == 14
    size = np.abs(balance.configurational) + np.abs(balance.heat) + np.abs(balance.drift)
    whole = np.abs(balance.residual.sum(1)) / size.sum(1)
    assert whole.max() < 1e-10
    assert (np.abs(balance.residual) < 1e-10 * size.sum(1, keepdims=True)).all()
    found = sgd.gauge.estimate(series)
    assert abs(found["temperature_residual"].value) < 1e-12 * size.sum(1).max()
    assert (
        found["temperature_step"].value != 0
        and balance.parameters.sum() == case.objective.dimension
    )


def test_a_balance_without_its_weight_decay_does_not_close() -> None:
    torch.manual_seed(0)
    case = CASES["mlp"]()
    sgd = Sgd(decay=0.3)
    readings = readings_of(case.objective, parts_of(case.batch, 6), sgd, [0.1] * 12)
    forgetful = Temperature()
    case = CASES["mlp"]()
    optimizer, origin, wrong = sgd.optimizer(case.objective.parameters), Origin(), []
    for step, batch in zip(range(12), parts_of(case.batch, 6), strict=False):
        optimizer.zero_grad()
        case.loss(case.model, batch).mean().backward()
        caught = TrainingStep(
            case.objective,
            batch,
            index=step,
            learning_rate=0.1,
            sampling=INDEPENDENT,
            gradient=[parameter.grad for parameter in case.objective.parameters],
            motion=origin.motion(case.objective.parameters, step),
        )
        wrong.append(Reading("temperature", step, 6, 0.1, forgetful.measure(caught)))
        optimizer.step()
    right, off = (heat_balance(Series.of(each, INDEPENDENT)) for each in (readings, wrong))
    assert (
        np.abs(right.residual).max() < 1e-4 * np.abs(right.heat).max() < np.abs(off.residual).max()
    )


@cache
def readings_of_mlp(every: int, steps: int) -> tuple[Reading, ...]:
    torch.manual_seed(0)
    case = CASES["mlp"]()
    return tuple(readings_of(case.objective, parts_of(case.batch, 4), Sgd(), [0.1] * steps, every))


def series_of_mlp(sampling: Sampling, every: int = 1, steps: int = 160) -> Series:
    return Series.of(readings_of_mlp(every, steps), sampling, ("0", "2"))


def test_posterior_units_are_n_times_those_of_the_loss() -> None:
    series = series_of_mlp(INDEPENDENT)
    loss, posterior = (Temperature(units=units).estimate(series) for units in ("loss", "posterior"))
    for name in (
        "temperature",
        "temperature_minibatch",
        "temperature_drift",
        "temperature/0",
        "temperature_configurational/2",
    ):
        assert (
            posterior[name].value == pytest.approx(500 * loss[name].value)
            and posterior[name].unit == ""
        )
    assert loss["temperature_posterior"].value == pytest.approx(500 * loss["temperature"].value)
    assert posterior["temperature_posterior"].value == pytest.approx(
        500 * loss["temperature"].value
    )
    given = Temperature(examples=60_000).estimate(series)["temperature_posterior"]
    assert given.value == pytest.approx(60_000 * loss["temperature"].value)


def test_the_temperature_is_the_mean_over_layers_weighted_by_their_parameters() -> None:
    found = Temperature().estimate(series_of_mlp(INDEPENDENT))
    together = (144 * found["temperature/0"].value + 85 * found["temperature/2"].value) / 229
    assert found["temperature"].value == pytest.approx(together)


def test_readings_many_steps_apart_include_the_drift_of_all_steps_between() -> None:
    each, sparse = (series_of_mlp(INDEPENDENT, every) for every in (1, 8))
    late, few = each[128:], sparse[16:]  # about one origin: the one of step 128
    wanted = heat_balance(late[:25]).drift.sum(1).mean()
    assert heat_balance(few).drift.sum(1).mean() == pytest.approx(wanted, rel=1e-4)


def test_reshuffled_epochs_put_in_less_heat_and_name_the_colder_directions() -> None:
    reshuffled, apart = (
        Temperature().estimate(series_of_mlp(Sampling(draw, 20)))
        for draw in (Draw.RESHUFFLED, Draw.REPLACEMENT)
    )
    assert reshuffled["temperature_minibatch"].value == pytest.approx(
        0.8 * apart["temperature_minibatch"].value
    )
    assert reshuffled["temperature"].value == pytest.approx(apart["temperature"].value)
    assert reshuffled["forgotten_curvature"].value == pytest.approx(4 / (20 * 0.1))
    assert "a direction of curvature 2.0 runs at a quarter of this" in str(
        say(Temperature().judge(reshuffled))
    )
    assert "a quarter of this" not in str(say(Temperature().judge(apart)))


def test_the_colder_directions_are_colder_by_the_exact_law() -> None:
    rate, examples = 0.1, 200
    found = Temperature().estimate(series_of_mlp(Sampling(Draw.RESHUFFLED, examples)))
    # that of B = 1, not of 4
    curvatures = found["forgotten_curvature"].value / 4 * np.array([0.05, 0.1, 1.0, 20.0])
    reshuffled = reshuffled_covariance(np.diag(curvatures), np.eye(4), SGDRule(rate, 1), examples)
    apart = stationary_covariance(np.diag(curvatures), np.eye(4), SGDRule(rate, 1))
    flattest, flatter, quarter, steep = np.diag(reshuffled) / np.diag(apart)
    assert quarter == pytest.approx(0.26, abs=0.01) and steep > 0.9
    assert flatter == pytest.approx(0.033, abs=0.002) and flatter / flattest == pytest.approx(
        2, rel=0.05
    )


def test_the_origin_is_renewed_at_powers_of_two_and_restored_from_its_state() -> None:
    point, origin = [nn.Parameter(torch.zeros(1))], Origin()
    since = []
    for step in range(20):
        motion = origin.motion(point, step)
        since.append(motion.since)
        assert motion.away(point)[0].item() == step - motion.since
        with torch.no_grad():
            point[0] += 1
    assert since == [0, 1, 2, 2, 4, 4, 4, 4] + [8] * 8 + [16] * 4
    again = Origin()
    again.load_state_dict(*origin.state_dict())
    assert again.motion(point, 20) == Motion(again.point, 16) and again.point[0].item() == 16
    assert Origin().motion(point, 37).since == 37


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_a_resumed_training_reads_the_same_temperatures(tmp_path, momentum: float) -> None:
    from gradiometer.problems import load
    from gradiometer.run.budget import Budget

    settings = {
        "gauges": "temperature",
        "every": 1,
        "epochs": 1,
        "batch_size": 100,
        "momentum": momentum,
    }
    configuration = Configuration(**settings, weight_decay=0.01, check_edge=False)
    whole = train(load("digits"), configuration, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(load("digits"), configuration, tmp_path / "stopped", StopAt(5))
    (folder,) = (tmp_path / "stopped").iterdir()
    one, other = (run.series("temperature") for run in (whole, resume(folder)))
    assert one is not None and other is not None and one.steps.tolist() == other.steps.tolist()
    for name, moments in one.moments.items():
        assert np.array_equal(moments, other.moments[name], equal_nan=True)
    assert (
        "origin"
        not in capture(Training(load("digits"), Configuration(gauges="noise"), Budget(0.5)))[1]
    )


@pytest.mark.slow
def test_a_run_reports_its_temperature(tmp_path) -> None:
    from gradiometer import diagnose
    from gradiometer.problems import load

    configuration = Configuration(
        gauges="noise,temperature", every=1, epochs=2, check_edge=False, momentum=0.5
    )
    run = train(load("digits"), configuration, tmp_path)
    found = diagnose(run)
    (finding,) = (each for each in found.findings if each.gauge == "temperature")
    assert finding.state is State.OK and "in posterior units (N = 1,437)" in say(finding).seen
    assert (
        abs(found.estimates["temperature_residual"].value)
        < 1e-3 * found.estimates["temperature"].value
    )
    assert found.history["temperature"] and found.history["temperature_configurational"]


@pytest.mark.parametrize(
    "gauge", [Temperature(), Temperature(0.9, weight_decay=0.1)], ids=["plain", "momentum"]
)
def test_measuring_the_temperature_leaves_training_as_it_was(
    gauge: Temperature, case: Case
) -> None:
    from gradiometer.testing import training_state

    optimizer = torch.optim.SGD(case.model.parameters(), 0.1, momentum=gauge.momentum)
    case.loss(case.model, case.batch).mean().backward()
    before, state = training_state(case.model), str(optimizer.state_dict())
    parameters = case.objective.parameters
    step = TrainingStep(
        case.objective,
        case.batch,
        index=3,
        learning_rate=0.1,
        sampling=INDEPENDENT,
        motion=Origin().motion(parameters, 3, velocity_of(optimizer, parameters)),
    )
    moments = gauge.measure(step)
    assert np.isfinite(np.concatenate([np.atleast_1d(values) for values in moments.values()])).all()
    assert training_state(case.model) == before and str(optimizer.state_dict()) == state
    assert eval(repr(gauge)) == gauge


def test_every_finding_is_a_sentence_with_its_numbers() -> None:
    for steps in (2, 160):
        found = Temperature().estimate(series_of_mlp(INDEPENDENT, steps=steps))
        finding = Temperature().judge(found)
        assert (
            finding is not None
            and say(finding).seen.endswith(".")
            and "nan" not in str(say(finding))
        )
        assert finding.state is (State.OK if steps == 160 else State.CANNOT_TELL)
    assert (
        "The parameters still move away" in say(finding).means
        or "The parameters still move back" in say(finding).means
    )


@pytest.mark.slow
def test_the_example_shows_that_the_learning_rate_is_a_temperature() -> None:
    example = Path(__file__).parents[3] / "examples" / "temperature.py"
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(example), "--images", "3200"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert (
        "η = 0.01, B = 32, μ = 0.9" in ended.stdout
        and "power of η/(B(1 − μ)), all heat with" in ended.stdout
    )


def caught(**changes) -> TrainingStep:
    case = CASES["mlp"]()
    settings = {"index": 0, "learning_rate": 0.1, "sampling": INDEPENDENT} | changes
    return TrainingStep(case.objective, case.batch, **settings)


def in_kelvin() -> None:
    """A unit there is not, behind the back of the shape checker."""
    gauge = Temperature()
    object.__setattr__(gauge, "units", "kelvin")
    gauge.__post_init__()


def still(velocity=None) -> Motion:
    return Motion([torch.zeros_like(p) for p in CASES["mlp"]().objective.parameters], 0, velocity)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Temperature(momentum=NAN), "`momentum` must be at least 0 and below 1, got nan"),
        (
            lambda: Temperature(weight_decay=-1.0),
            "`weight_decay` must be at least 0 and finite, got -1.0",
        ),
        (lambda: Temperature(injected=NAN), "`injected` must be at least 0 and finite, got nan"),
        (in_kelvin, "`units` must be 'loss' or 'posterior', got 'kelvin'"),
        (lambda: Temperature(examples=0), "`examples` must be at least 1, got 0"),
        (lambda: Temperature(parts=1), "`parts` must be at least 2, got 1"),
        (lambda: Temperature().measure(caught()), "`motion` is missing, and this gauge looks back"),
        (lambda: Temperature(0.9).measure(caught(motion=still())), "`motion` has no velocity"),
        (
            lambda: Temperature().measure(caught(motion=still(), learning_rate=-0.1)),
            "`learning_rate` must be at least 0 and finite, got -0.1",
        ),
        (
            lambda: Temperature().measure(caught(motion=still(), learning_rate=NAN)),
            "`learning_rate` must be at least 0",
        ),
        (lambda: Origin().motion([], -1), "`step` must be at least 0, got -1"),
        (
            lambda: Temperature(units="posterior").estimate(
                series_of_mlp(Sampling(Draw.FRESH), steps=5)
            ),
            "`examples` is missing: posterior units are N times",
        ),
        (
            lambda: Temperature().estimate(series_of_mlp(Sampling(Draw.RESHUFFLED), steps=5)),
            "`sampling` is reshuffled, over a training set of unknown size: give its `examples`",
        ),
    ],
)
def test_invalid_arguments_are_named(build, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        build()
