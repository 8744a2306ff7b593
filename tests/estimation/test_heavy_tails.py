"""Sentences about the noise scale if few examples carry the gradient: they hold, and they name the
cause."""

import math
from dataclasses import replace

import numpy as np
import pytest
from cases.tail_families import lognormal, outliers, rare_class
from heavy_tails import COUNTS, FAMILIES, Row, row

from gradiometer import Draw, Estimate, Finding, GradientNoise, Sampling, Series, State
from gradiometer.estimation.batch_advice import judge_batch_size
from gradiometer.measurement.uncertainty.now import ratio_now
from gradiometer.verdict import say


def noise(variance: np.ndarray, norm_squared: np.ndarray) -> Series:
    """Readings at B = 32, 10 steps apart."""
    count = len(variance)
    moments = {
        "gradient_variance": variance[:, None],
        "gradient_norm_squared": norm_squared[:, None],
    }
    return Series(
        "noise",
        np.arange(count) * 10,
        np.full(count, 32),
        np.full(count, 0.1),
        moments,
        Sampling(Draw.FRESH),
    )


def holds(found: Row) -> float:
    """The share of the sentences "at least L" that are true."""
    return float(np.mean(found.lows <= found.truth))


def test_at_least_is_true_where_rare_examples_agree() -> None:
    found = row(rare_class(), 20, 20)
    assert len(found.lows) > 10 and holds(found) >= 0.9 and found.covers >= 0.9


def test_without_room_for_unseen_pairs_it_is_false() -> None:
    family = rare_class()
    pairs = zip(*family.readings(30, 20, 32, seed=0), strict=True)
    lows = [ratio_now(*moments, steps=np.arange(20)).low for moments in pairs]
    assert np.mean(np.array(lows) <= family.noise_scale) < 0.75


def test_at_least_is_true_where_it_is_seldom_said() -> None:
    """At ‖g‖² of two standard errors it is said in few windows, and those are the ones with a small
    estimate."""
    random, truth = np.random.default_rng(0), 2.0
    lows = []
    for _ in range(60):
        signal = 1 / truth + random.standard_normal(40) * math.sqrt(40) / (2 * truth)
        estimate = ratio_now(np.ones(40), signal, steps=np.arange(40))
        lows += [estimate.low] if math.isinf(estimate.high) else []
    assert 5 <= len(lows) <= 40 and np.mean(np.array(lows) <= truth) >= 0.9


def test_light_tails_leave_the_interval_nearly_as_it_is() -> None:
    family = outliers(share=0.5)
    variance, norm_squared = (each[0] for each in family.readings(1, 100, 32, seed=1))
    plain, roomy = (
        ratio_now(variance, norm_squared, steps=np.arange(100), rare_noise=rho)
        for rho in (None, 2 / 32)
    )
    assert roomy.value == plain.value and roomy.high == plain.high
    assert 0.8 * plain.low < roomy.low <= plain.low


def test_the_finding_names_heavy_tails() -> None:
    estimates = GradientNoise().estimate(
        noise(*(each[0] for each in lognormal(1.5).readings(1, 100, 32, 0))).at_newest()
    )
    assert estimates["noise_variation"].value > 1
    scale = Estimate.interval(450.0, 364.0, 589.0, level=0.9, method="now", samples=100)
    found = judge_batch_size(
        "noise", Estimate.exact(32.0), scale, variation=estimates["noise_variation"]
    )
    assert found.state is State.LOOK and "a few examples may carry" in say(found).caveat
    even = replace(Estimate.exact(0.3), samples=100)
    assert (
        "few examples"
        not in say(judge_batch_size("noise", Estimate.exact(32.0), scale, variation=even)).caveat
    )


def test_if_few_readings_carry_the_noise_nothing_is_advised() -> None:
    scale = Estimate.interval(450.0, 364.0, 589.0, level=0.9, method="now", samples=20)

    def found(variation: float) -> Finding:
        seen = replace(Estimate.exact(variation), samples=20)
        return judge_batch_size("noise", Estimate.exact(32.0), scale, variation=seen)

    refused = found(4.0)
    assert refused.state is State.CANNOT_TELL and not say(refused).advice
    assert (
        "There is no reliable estimate of the gradient noise scale yet" in say(refused).seen
        and "4.0 of the 20" in say(refused).seen
    )
    assert say(found(2.0)).advice


def test_a_drift_of_the_noise_is_no_heavy_tail() -> None:
    falling = 1000 * 0.9 ** np.arange(60.0)
    assert (
        GradientNoise().estimate(noise(falling, np.ones(60)).at_newest())["noise_variation"].value
        < 0.1
    )


@pytest.mark.nightly
@pytest.mark.parametrize("name", FAMILIES)
def test_at_least_holds_in_every_family(name: str) -> None:
    family = FAMILIES[name]()
    for readings in COUNTS:
        found = row(family, readings, 100, seed=7)
        assert found.covers >= 0.87
        assert len(found.lows) < 10 or holds(found) >= 0.9
