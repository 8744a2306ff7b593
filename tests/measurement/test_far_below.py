"""A rate far below the edge is a finding with a fork, unless it warms up or falls; the fork shows
that it holds."""

import numpy as np
import pytest

from forked_run import fork_of
from gradiometer import Draw, Run, Sampling, Series, diagnose
from gradiometer.drift import BatchSharpness
from gradiometer.loop.recorded.trials import alternatives_of
from gradiometer.measurement import Reading
from gradiometer.measurement.finding import Finding, State
from gradiometer.problems import load
from gradiometer.run import Configuration
from gradiometer.train import train
from gradiometer.verdict.claims import Claim
from gradiometer.verdict.words.say import say

EDGE = 2.0
"""Of plain SGD, in units of 1/η."""


def finding(share: float, rates: np.ndarray, momentum: float = 0.0) -> Finding:
    """The finding of readings whose batch sharpness is this share of the edge at the
    highest rate."""
    generator = np.random.default_rng(0)
    limit = EDGE * (1 - momentum)
    readings = [
        Reading(
            "batch_sharpness",
            16 * place,
            32,
            float(rate),
            {
                "curvature": share * limit / rates.max() * (1 + 0.05 * generator.standard_normal()),
                "norm_squared": 1.0,
            },
        )
        for place, rate in enumerate(rates)
    ]
    gauge = BatchSharpness(momentum=momentum)
    found = gauge.judge(gauge.estimate(Series.of(readings, Sampling(Draw.FRESH)).at_newest()))
    assert found is not None
    return found


CONSTANT = np.full(40, 0.1)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_rate_far_below_its_edge_is_told_with_larger_rates_to_try(momentum: float) -> None:
    found = finding(0.1, CONSTANT, momentum)
    assert (
        found.state is State.LOOK and "far below its edge" in say(found).means and say(found).advice
    )
    assert [one.name for one in alternatives_of([found])] == ["rate 2x", "rate 4x"]
    near = finding(0.5, CONSTANT, momentum)
    assert near.state is State.OK and "far" not in say(near).means and not near.cure


@pytest.mark.parametrize(
    "rates", [np.linspace(0.1, 1e-4, 40), np.linspace(1e-4, 0.1, 40), np.repeat([0.1, 0.01], 20)]
)
def test_a_rate_that_falls_or_warms_up_is_below_its_edge_on_purpose(rates: np.ndarray) -> None:
    found = finding(0.1, rates)
    assert found.state is not State.LOOK and not found.cure


def test_a_rate_that_is_too_high_still_offers_half_of_it() -> None:
    found = finding(2.0, CONSTANT)
    assert found.state is State.ACT and list(found.cure) == ["rate 0.5x"]


@pytest.fixture(scope="module")
def slow_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run at about a hundredth of its best rate."""
    settings = Configuration(
        problem="digits",
        model="mlp",
        learning_rate=0.004,
        steps=640,
        every=1,
        gauges="batch_sharpness",
    )
    return train(load("digits", model="mlp"), settings, tmp_path_factory.mktemp("runs"))


@pytest.mark.slow
def test_a_run_far_below_its_edge_is_told_its_rate_and_the_fork_shows_that_it_holds(
    slow_run: Run,
) -> None:
    """The verdict leads, and what the gauge would advise is left to it."""
    first, gauge = diagnose(slow_run).findings
    assert first.claim == Claim.RATE_LOW and "--advice" in say(first).tried
    assert gauge.gauge == "batch_sharpness" and gauge.state is State.OK and not gauge.cure
    made = fork_of(slow_run, alternatives_of([first]), horizon="60 updates", replicates=2)
    (effect,) = made.fork.effects("train_loss")
    assert (effect.alternative, effect.verdict) == ("rate 8x", "better")
    assert say(diagnose(Run.open(slow_run.path)).findings[0]).tried.startswith("Tested:")
