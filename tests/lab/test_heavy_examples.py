"""The gauge of heavy examples: the share of the top tenth, and the variation of squared norms."""

import math

import numpy as np
import pytest

from gradiometer import BadArgument
from gradiometer.estimation import HeavyExamples
from gradiometer.measurement import Draw, Reading, Sampling, Series, State
from gradiometer.verdict import say
from gradiometer_lab.noise_shape import norm_moments

FRESH = Sampling(Draw.FRESH)


def test_the_top_tenth_of_32_counts_three_and_a_fifth() -> None:
    moments = norm_moments(np.arange(32.0))
    assert moments["top_tenth"] * 32 == pytest.approx(31 + 30 + 29 + 0.2 * 28)
    assert moments["mean"] == pytest.approx(15.5)
    with pytest.raises(BadArgument, match="`norms` must hold at least 2 examples, got 1"):
        norm_moments(np.ones(1))


def test_the_variation_of_squared_gaussians_is_two_and_a_few_large_norms_are_found() -> None:
    generator = np.random.default_rng(0)
    even = _windows(np.square(generator.standard_normal((200, 32))))
    estimate = HeavyExamples().estimate(even)["norm_variation"]
    assert 1.5 < estimate.low < 2 and estimate.value == pytest.approx(2, rel=0.2)
    assert (
        HeavyExamples().judge(HeavyExamples().estimate(_windows(np.ones((200, 32))))).state
        is State.OK
    )
    heavy = _windows(generator.lognormal(0, 3, (200, 32)))
    finding = HeavyExamples().judge(HeavyExamples().estimate(heavy))
    assert finding.state is State.LOOK and "noisiest(objective, batch, 10)" in say(finding).advice


def test_the_variation_of_long_tailed_norms_has_only_a_lower_bound_that_holds() -> None:
    """Of lognormal norms, e^{9/4} − 1 = 8.5: what the longest ones add is rarely seen."""
    generator, held = np.random.default_rng(1), 0
    for _ in range(100):
        windows = _windows(generator.lognormal(0, 1.5, (40, 32)))
        estimate = HeavyExamples().estimate(windows)["norm_variation"]
        held += estimate.low <= math.exp(9 / 4) - 1 <= estimate.high
    assert held >= 90
    assert (
        "their variation is at least"
        in say(HeavyExamples().judge(HeavyExamples().estimate(windows))).seen
    )


def test_few_readings_of_norms_give_no_finding() -> None:
    assert HeavyExamples().judge(HeavyExamples().estimate(_windows(np.ones((2, 32))))) is None


def _windows(norms: np.ndarray) -> Series:
    readings = [
        Reading("heavy_examples", step, 32, 0.1, norm_moments(row))
        for step, row in enumerate(norms)
    ]
    return Series.of(readings, FRESH)
