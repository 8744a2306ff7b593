"""The noise scale along training: the value of now, the early one beside it, and no advice while it
drifts towards B."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gradiometer import Draw, Estimate, GradientNoise, Sampling, Series, State
from gradiometer.estimation.batch_advice import judge_batch_size
from gradiometer.estimation.preconditioned_noise import PreconditionedNoise
from gradiometer.measurement import Reading, RunFacts
from gradiometer.measurement.estimate import significant
from gradiometer.measurement.optimizer.groups import Group
from gradiometer.measurement.optimizer.hyperparameters import Hyperparameters
from gradiometer.measurement.uncertainty.now import NOISE_PRIOR, ratio_now
from gradiometer.verdict import say


def estimate(value: float, low: float, high: float, earlier: float) -> Estimate:
    """The noise scale at step 999, and at step 99."""
    made = Estimate.interval(value, low, high, level=0.9, method="now", samples=40, unit="examples")
    return replace(made, step=999, earlier=(99, earlier))


def drifting(power: float, batch_size: int = 32, readings: int = 200) -> Series:
    """Readings whose noise scale is 400·((step + 1)/1000)^power; tr Σ is 8."""
    random = np.random.default_rng(1)
    steps = np.linspace(9, 999, readings).round().astype(int)
    norm_squared = (
        8 / (400 * ((steps + 1) / 1000) ** power) * (1 + 0.5 * random.standard_normal(readings))
    )
    variance = 8 * (1 + 0.2 * random.standard_normal(readings))
    return Series.of(
        [
            Reading(
                "noise",
                int(step),
                batch_size,
                0.1,
                {"gradient_variance": [noise], "gradient_norm_squared": [signal]},
            )
            for step, noise, signal in zip(steps, variance, norm_squared, strict=True)
        ],
        Sampling(Draw.FRESH),
    )


@pytest.mark.parametrize(("power", "change"), [(1.5, 1), (-1.0, -1)])
def test_the_estimate_is_the_one_of_now_and_has_the_early_value_beside_it(
    power: float, change: int
) -> None:
    series = drifting(power)
    now, pooled = (
        GradientNoise().estimate(each)["noise_scale"] for each in (series.at_newest(), series)
    )
    assert now.low <= 400 <= now.high and not pooled.low <= 400 <= pooled.high
    assert now.step == 999 and now.earlier is not None and pooled.step is pooled.earlier is None
    assert (now.value - now.earlier[1]) * change > 0
    moments = (
        series.moments[name].sum(axis=1) for name in ("gradient_variance", "gradient_norm_squared")
    )
    alone = ratio_now(
        *moments,
        steps=series.steps,
        learning_rate=series.learning_rate,
        prior=NOISE_PRIOR,
        rare_noise=2 / 32,
    )
    assert (now.value, now.low, now.high) == (alone.value, alone.low, alone.high)
    seen = GradientNoise().judge(GradientNoise().estimate(series.at_newest()))
    assert (
        seen is not None
        and f"now (step 999; it was {significant(now.earlier[1], 2)} at step {now.earlier[0]})"
        in say(seen).seen
    )


def test_without_drift_there_is_no_early_value() -> None:
    now = GradientNoise().estimate(drifting(0.0).at_newest())["noise_scale"]
    assert now.earlier is None and now.low <= 400 <= now.high


@pytest.mark.parametrize(
    ("early", "now", "batch", "withheld"),
    [
        (20.0, 100.0, 120.0, True),  # rises past B
        (20.0, 100.0, 1000.0, False),  # rises, but not so far
        (20.0, 100.0, 50.0, False),  # has passed B and leaves it behind
        (500.0, 100.0, 90.0, True),  # falls past B
        (500.0, 100.0, 20.0, False),
        (500.0, 100.0, 200.0, False),
    ],
)
def test_no_batch_is_advised_while_the_noise_scale_drifts_past_b(
    early: float, now: float, batch: float, withheld: bool
) -> None:
    scale = estimate(now, 95.0, 105.0, early)
    found = judge_batch_size("noise", Estimate.exact(batch), scale)
    assert ("is expected to pass B" in say(found).means) == withheld
    assert (found.state is State.CANNOT_TELL and say(found).advice == "") == withheld


def test_an_unknown_end_withholds_nothing() -> None:
    scale = estimate(np.inf, 300.0, np.inf, 12.0)
    assert judge_batch_size("noise", Estimate.exact(32.0), scale).state is State.LOOK


def test_a_value_of_long_ago_is_not_called_that_of_now_and_advises_no_batch() -> None:
    scale = estimate(100.0, 95.0, 105.0, 95.0)
    batch = Estimate.exact(10.0)
    assert (
        "now (step 999; it was 95 at step 99)" in say(judge_batch_size("noise", batch, scale)).seen
    )
    recent = judge_batch_size("noise", batch, replace(scale, reached=1200))
    assert recent.state is State.LOOK and "now (step 999;" in say(recent).seen
    outdated = judge_batch_size("noise", batch, replace(scale, reached=2500))
    assert "at the newest reading (step 999 of 2,500; it was 95 at step 99)" in say(outdated).seen
    assert outdated.state is State.CANNOT_TELL and "2.5 times as long since" in say(outdated).means
    assert "budget" in say(outdated).advice and "`B =" not in say(outdated).advice


def test_the_drift_is_followed_to_the_last_step_of_training() -> None:
    # rises by 2 in a factor of ten: 123.2 after twice the steps, then 131
    scale = estimate(100.0, 95.0, 105.0, 50.0)
    batch = Estimate.exact(125.0)
    assert "is expected to pass B" not in say(judge_batch_size("noise", batch, scale)).means
    assert (
        "is expected to pass B"
        in say(judge_batch_size("noise", batch, replace(scale, reached=1240))).means
    )


def test_a_lower_bound_of_long_ago_is_dated() -> None:
    scale = replace(estimate(100.0, 50.0, math.inf, 95.0), earlier=None)
    assert "at least 50.0;" in say(judge_batch_size("noise", Estimate.exact(60.0), scale)).seen
    found = judge_batch_size("noise", Estimate.exact(60.0), replace(scale, reached=1500))
    assert "was at least 50.0 at the newest reading (step 999 of 1,500)" in say(found).seen
    unknown = replace(scale, value=math.nan, low=-math.inf, reached=1500)
    assert "∞" not in say(judge_batch_size("noise", Estimate.exact(60.0), unknown)).seen


@pytest.mark.parametrize(("examples", "possible"), [(None, True), (64, True), (63, False)])
def test_no_batch_above_the_training_set_is_advised(examples: int | None, possible: bool) -> None:
    gauge, scale = GradientNoise(), replace(estimate(100.0, 95.0, 105.0, 95.0), earlier=None)
    latest = {"noise_scale": scale, "batch_size": Estimate.exact(32.0)}
    found = gauge.judge(latest)
    assert found is not None and say(found).advice
    limited = gauge.judge(latest, RunFacts(examples=examples))
    assert limited is not None
    assert (limited == found) == possible
    assert possible or (
        not say(limited).advice and "63 training examples, so twice the batch" in say(limited).means
    )


def test_an_outdated_preconditioned_scale_advises_no_rates() -> None:
    gauge = PreconditionedNoise()
    scale = replace(estimate(100.0, 95.0, 105.0, 95.0), earlier=None, reached=5000)
    latest = {
        "preconditioned_noise_scale": scale,
        "preconditioned_batch_size": Estimate.exact(32.0),
    }
    found = gauge.judge(latest)
    settings = Hyperparameters((0,), ((Group("AdamW", "adaptive", 0.001),),), reached=5000)
    assert gauge.judge(latest, RunFacts(settings)) == found and found.state is State.CANNOT_TELL


def test_readings_that_ended_early_give_an_outdated_finding() -> None:
    series = replace(drifting(0.0), reached=3000)
    found = GradientNoise().judge(GradientNoise().estimate(series.at_newest()))
    assert found is not None and found.state is State.CANNOT_TELL
    assert (
        "at the newest reading (step 999 of 3,000" in say(found).seen
        and "no batch is advised" in say(found).means
    )


def test_no_half_of_one_example_is_advised() -> None:
    """ "Half the batch would save 40 % of the examples", where the batch was one sentence."""
    scale = Estimate.interval(0.26, 0.08, 0.83, level=0.9, method="Fieller", samples=200)
    settings = Hyperparameters((0,), ((Group("SGD", "sgd", 0.1),),), reached=300)
    for size, claim in ((1.0, "batch_near"), (2.0, "batch_large")):
        run = RunFacts(settings=settings)
        finding = judge_batch_size("noise", Estimate.exact(size), scale, run=run)
        assert finding.claim == claim
        assert ("No batch is smaller." in str(say(finding))) == (size == 1)
