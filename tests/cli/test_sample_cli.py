"""`gradiometer learn sample`, and `sample` in Python."""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from command_line import called
from gradiometer import BadArgument, Diverged
from gradiometer.exploration.chains import sample
from gradiometer.exploration.samplers import SGHMC
from gradiometer.measurement import Draw, supervised
from gradiometer.problems import load
from gradiometer.run import Configuration
from gradiometer.train import train
from gradiometer_lab.chains.sampling import Sampled
from gradiometer_lab.closed_forms import linear_regression
from gradiometer_lab.learn.sample import sample as verb


def run_verb(*arguments: str) -> Result:
    return CliRunner().invoke(verb, arguments, catch_exceptions=False)


@cache
def linear() -> Sampled:
    """SGHMC at T = 2 on full batches of the linear posterior."""
    known = linear_regression.known()
    problem = known.problem()
    (found,) = sample(
        problem.model,
        problem.loss,
        problem.train,
        lambda parameters, seed: SGHMC(
            parameters, lr=0.5, examples=500, temperature=2.0, burn_in=100, seed=seed
        ),
        batch_size=500,
        draw=Draw.RESHUFFLED,
        watch={"loss": (problem.loss, problem.train.data)},
        burn_in=300,
        steps=1500,
        known={"loss": known.mean_loss(2.0)},
    )
    return found


def test_the_temperature_and_the_mean_loss_of_a_known_posterior_are_found() -> None:
    found = linear()
    assert found.kept and found.measured.high - found.measured.low < 0.6
    loss = found.moments["loss"]
    assert loss.known is not None and loss.mean.low - 2e-3 < loss.known < loss.mean.high + 2e-3
    spread = 2.0 * math.sqrt(5 / 2) / 500  # U/T is χ² with five degrees of freedom, halved
    assert loss.spread.low < spread < loss.spread.high
    assert len(found.draws["loss"]) == 150


def test_a_wrong_temperature_is_detected() -> None:
    assert not replace(linear(), asked=1.4).kept and not replace(linear(), asked=2.6).kept


def test_the_verb_prints_temperatures_moments_and_the_known_answer() -> None:
    result = run_verb(
        "logistic-regression", "--sampler", "sghmc", "--steps", "600", "--burn-in", "300"
    )
    words = " ".join(result.output.split())
    assert "SGHMC on logistic-regression (weights) from its start, 600 steps after 300" in words
    assert "T asked 1.00" in words and "known: 0.3883" in words and "test_accuracy" in words


@pytest.mark.slow
def test_the_verb_says_that_a_run_was_too_short_for_its_slowest_direction() -> None:
    words = " ".join(
        run_verb("linear-regression", "--steps", "1000", "--burn-in", "100").output.split()
    )
    assert (
        "slope_1 cannot tell: " in words
        and " effective draws, fewer than 30 known: 1.037, 0.0456" in words
    )
    assert "The draws tell nothing about 6 of 6 functions: use about " in words
    words = " ".join(
        run_verb(
            "linear-regression", "--steps", "100", "--every", "60", "--burn-in", "0"
        ).output.split()
    )
    assert "slope_1 cannot tell: fewer than 4 draws known: 1.037, 0.0456" in words
    assert "about 6 of 6 functions: use more steps, or fewer between two draws." in words


def test_the_verb_prints_the_same_json_object_twice() -> None:
    arguments = (
        "linear-regression",
        "--steps",
        "200",
        "--burn-in",
        "20",
        "--temperature",
        "0.5",
        "--json",
    )
    found = json.loads(run_verb(*arguments, "--seed", "2").output)
    assert found["asked"] == 0.5 and found["measured"]["low"] < found["measured"]["high"]
    assert found["moments"]["train_loss"]["known"] == pytest.approx(
        linear_regression.known(2).mean_loss(0.5)
    )
    slopes, posterior = (
        [found["moments"][f"slope_{place}"] for place in range(1, 6)],
        linear_regression.known(2),
    )
    assert [each["known"] for each in slopes] == pytest.approx(posterior.mean.tolist())
    assert [each["known_spread"] for each in slopes] == pytest.approx(
        np.sqrt(np.diag(posterior.covariance(0.5)))
    )
    assert {"hottest direction", "coldest direction", "tail", "tensor slopes"} <= set(
        found["shape"]
    )
    assert json.loads(run_verb(*arguments, "--seed", "2").output) == found


def test_the_verb_starts_from_the_checkpoint_of_a_run(tmp_path: Path) -> None:
    configuration = Configuration(
        problem="digits", model="mlp", epochs=1, learning_rate=0.2, budget=0.0
    )
    run = train(load("digits", model="mlp"), configuration, tmp_path)
    given = ("--lr", "0.001", "--steps", "100", "--burn-in", "0", "--json")
    found = json.loads(run_verb(str(run.path), *given).output)
    assert set(found["moments"]) == {"train_loss", "test_loss", "test_accuracy"}
    with pytest.raises(BadArgument, match="`--set` model is the run's own"):
        run_verb(str(run.path), "--set", "model=mlp")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonesuch",), "`problem` 'nonesuch' is unknown"),
        (("linear-regression", "--steps", "10"), "`steps` must be at least 96, got 10"),
        (("linear-regression", "--burn-in", "-1"), "`burn_in` must be at least 0, got -1"),
        (
            ("linear-regression", "--temperature", "nan"),
            "`temperature` must be at least 0 and finite",
        ),
        (("linear-regression", "--set", "momentum=0.9"), "`momentum` must be 0 for SGLD, got 0.9"),
        (("linear-regression", "--set", "level=1"), "`level` must lie between 0 and 1, got 1.0"),
        (
            ("linear-regression", "--set", "every=1"),
            "`--set` every does not change a sample: it takes model",
        ),
        (
            ("linear-regression", "-b", "501"),
            "`batch_size` must lie between 1 and the 500 training examples",
        ),
        (
            ("linear-regression", "--lr", "0.5", "-b", "4", "--burn-in", "1500", "--steps", "3000"),
            "`temperature` 1 is too low for `lr` 0.5: mini-batch noise alone heats to",
        ),
    ],
)
def test_invalid_arguments_are_named(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        run_verb(*arguments)


def settings(**changes: Any) -> dict[str, Any]:
    """Arguments of `sample` for a linear model of ones."""
    return {
        "model": lambda: nn.Linear(2, 1),
        "loss": supervised(lambda output, target: (output - target).square().mean(1)),
        "data": (torch.ones(40, 2), torch.zeros(40, 1)),
        "sampler": lambda parameters, seed: SGHMC(parameters, lr=0.01, examples=40, seed=seed),
        "batch_size": 4,
        "burn_in": 0,
        "steps": 100,
    } | changes


def test_more_chains_than_fit_are_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = called(capsys, "learn", "sample", "quadratic", "--chains", "1000000000")
    assert code == 2 and "1000000000 is not in the range 1<=x<=10000" in error


def test_chains_sampled_together_are_the_chains_sampled_alone() -> None:
    watch = {"weight": (lambda model, _: model.weight.sum(), torch.ones(1))}
    together = sample(**settings(seeds=[3, 4, 5], watch=watch, steps=600))
    (alone,) = sample(**settings(seeds=[4], watch=watch, steps=600))
    np.testing.assert_allclose(together[1].draws["weight"], alone.draws["weight"], rtol=1e-4)
    assert together[1].measured.value == pytest.approx(alone.measured.value, rel=1e-3)
    assert together[1].minibatch.value == pytest.approx(alone.minibatch.value, rel=1e-3)
    assert abs(together[0].draws["weight"] - alone.draws["weight"]).min() > 0


@pytest.mark.slow
def test_chains_in_two_processes_are_two_parts_of_them_here() -> None:
    watch = {"weight": (lambda model, _: model.weight.sum(), torch.ones(1))}
    apart = sample(**settings(seeds=[3, 4, 5], watch=watch), pool="processes:2")
    here = [
        *sample(**settings(seeds=[3, 4], watch=watch)),
        *sample(**settings(seeds=[5], watch=watch)),
    ]
    assert repr([each.to_dict() for each in apart]) == repr([each.to_dict() for each in here])
    assert all(
        np.array_equal(a.draws["weight"], b.draws["weight"])
        for a, b in zip(apart, here, strict=True)
    )


@pytest.mark.slow
def test_the_verb_samples_in_processes() -> None:
    arguments = (
        "linear-regression",
        "--steps",
        "200",
        "--burn-in",
        "20",
        "--chains",
        "2",
        "--json",
    )
    apart, here = (
        json.loads(run_verb(*arguments, "--pool", pool).output) for pool in ("processes:2", "here")
    )
    assert apart["mixing"] and apart["measured"]["value"] == pytest.approx(
        here["measured"]["value"], rel=1e-3
    )


def test_a_loss_that_is_not_finite_raises_diverged() -> None:
    loss = supervised(lambda output, target: (output - target).square().mean(1) / 0)
    with pytest.raises(Diverged, match="gradients are not finite at its step 0"):
        sample(**settings(loss=loss))


def test_a_sampler_with_two_groups_cannot_be_measured() -> None:
    def two_groups(parameters: list[nn.Parameter], seed: int) -> SGHMC:
        return SGHMC(
            [{"params": [parameter]} for parameter in parameters], lr=0.01, examples=40, seed=seed
        )

    with pytest.raises(BadArgument, match="`sampler` must have 1 parameter group, got 2"):
        sample(**settings(sampler=two_groups))
