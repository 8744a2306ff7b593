"""The noise scale along training: the value of now, the early one beside it, and no advice while it drifts towards B."""

from dataclasses import replace

import numpy as np
import pytest

from gradiometer import Draw, Estimate, GradientNoise, Reading, Sampling, Series, State
from gradiometer.estimation.batch_advice import interpret_batch_size
from gradiometer.measurement.estimate import significant
from gradiometer.measurement.uncertainty import NOISE_PRIOR, ratio_now


def estimate(value: float, low: float, high: float, earlier: float) -> Estimate:
    """The noise scale at step 999, and at step 99."""
    made = Estimate.interval(value, low, high, level=0.9, method="now", samples=40, unit="examples")
    return replace(made, step=999, earlier=(99, earlier))


def drifting(power: float, batch_size: int = 32, readings: int = 200) -> Series:
    """Readings whose noise scale is 400·((step + 1)/1000)^power; tr Σ is 8."""
    random = np.random.default_rng(1)
    steps = np.linspace(9, 999, readings).round().astype(int)
    norm_squared = 8 / (400 * ((steps + 1) / 1000) ** power) * (1 + 0.5 * random.standard_normal(readings))
    variance = 8 * (1 + 0.2 * random.standard_normal(readings))
    return Series.of(
        [
            Reading(
                "noise", int(step), batch_size, 0.1, {"gradient_variance": [noise], "gradient_norm_squared": [signal]}
            )
            for step, noise, signal in zip(steps, variance, norm_squared, strict=True)
        ],
        Sampling(Draw.FRESH),
    )


@pytest.mark.parametrize(("power", "change"), [(1.5, 1), (-1.0, -1)])
def test_the_estimate_is_the_one_of_now_and_has_the_early_value_beside_it(power: float, change: int) -> None:
    series = drifting(power)
    now, pooled = (GradientNoise().estimate(each)["noise_scale"] for each in (series.at_newest(), series))
    assert now.low <= 400 <= now.high and not pooled.low <= 400 <= pooled.high
    assert now.step == 999 and now.earlier is not None and pooled.step is pooled.earlier is None
    assert (now.value - now.earlier[1]) * change > 0
    moments = (series.moments[name].sum(axis=1) for name in ("gradient_variance", "gradient_norm_squared"))
    alone = ratio_now(
        *moments, steps=series.steps, learning_rate=series.learning_rate, prior=NOISE_PRIOR, rare_noise=2 / 32
    )
    assert (now.value, now.low, now.high) == (alone.value, alone.low, alone.high)
    seen = GradientNoise().interpret(GradientNoise().estimate(series.at_newest()))
    assert (
        seen is not None
        and f"now (step 999; it was {significant(now.earlier[1], 2)} at step {now.earlier[0]})" in seen.seen
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
    found = interpret_batch_size("noise", Estimate.exact(batch), scale)
    assert ("is expected to pass B" in found.means) == withheld
    assert (found.state is State.CANNOT_TELL and found.advice == "") == withheld


def test_an_unknown_end_withholds_nothing() -> None:
    scale = estimate(np.inf, 300.0, np.inf, 12.0)
    assert interpret_batch_size("noise", Estimate.exact(32.0), scale).state is State.LOOK
