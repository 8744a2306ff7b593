"""Spikes of the loss: found where they are planted, not in noise, and explained by what is around
them."""

import re
from dataclasses import replace

import numpy as np
import pytest

from gradiometer import BadArgument
from gradiometer.drift.spikes import find_spikes
from gradiometer.drift.spikes.cause import Cause, explain
from gradiometer.drift.spikes.detection import Spike
from noisy_losses import NOISES, RECORDED, Losses, Noise, falling, without_variance

STEPS = 1000


def alarms(noise: Noise, steps: int, runs: int) -> int:
    random, rates = np.random.default_rng(11), np.full(steps, 0.1)
    return sum(bool(find_spikes(noise(random, steps), rates=rates)) for _ in range(runs))


def gaussian(steps: int = STEPS, seed: int = 0) -> Losses:
    return falling(steps) * (1 + 0.05 * np.random.default_rng(seed).standard_normal(steps))


def planted(at: int, length: int, factor: float, steps: int = STEPS, seed: int = 0) -> Losses:
    """A spike that rises over a tenth of its length, and decays."""
    after = np.arange(steps - at)
    shape = np.zeros(steps)
    shape[at:] = np.minimum(1, (after + 1) / max(length / 10, 1)) * np.exp(-1.5 * after / length)
    if length <= 3:
        shape[at:] = after < length
    return gaussian(steps, seed) * factor**shape


def test_the_same_examples_in_every_batch_leave_an_instability() -> None:
    spike = find_spikes(planted(500, 1, 6.0))[0]
    assert explain(spike).cause is Cause.THIS_BATCH
    found = explain(spike, same_examples=True)
    assert found.cause is Cause.INSTABILITY and [each.kind for each in found.evidence] == [
        "same_examples"
    ]


def test_ordinary_noise_alarms_in_at_most_one_of_fifty_runs() -> None:
    found = {name: alarms(noise, 600, 12) for name, noise in NOISES.items()}
    assert sum(found.values()) <= 12 * len(NOISES) / 50, found


@pytest.mark.nightly
@pytest.mark.parametrize("steps", [100, 300, 1000, 4000])
@pytest.mark.parametrize("noise", NOISES)
def test_every_kind_of_noise_alarms_in_about_one_of_fifty_runs(noise: str, steps: int) -> None:
    runs = 400
    allowed = runs / 50
    assert alarms(NOISES[noise], steps, runs) <= allowed + 2 * np.sqrt(allowed)


@pytest.mark.nightly
@pytest.mark.parametrize("steps", [100, 300, 1000])
def test_noise_without_a_variance_alarms_in_about_one_of_fifteen_runs(steps: int) -> None:
    assert 0 < alarms(without_variance, steps, 400) <= 400 / 15 + 2 * np.sqrt(400 / 15)


def test_no_loss_that_training_recorded_has_a_spike() -> None:
    """Six networks, with momentum and AdamW, warm-up, warm restarts, label noise, and small last
    batches."""
    with np.load(RECORDED) as recorded:
        names = sorted(
            name.removesuffix("/losses") for name in recorded if name.endswith("/losses")
        )
        found = {
            name: find_spikes(recorded[f"{name}/losses"], rates=recorded[f"{name}/rates"])
            for name in names
        }
        without_rates = {name: find_spikes(recorded[f"{name}/losses"]) for name in names}
    assert (
        len(names) == 12 and {name for name in names if found[name] or without_rates[name]} == set()
    )


@pytest.mark.parametrize(("length", "factor"), [(1, 2.5), (3, 2.0), (20, 1.8), (100, 2.5)])
def test_a_planted_spike_is_found_where_it_is(length: int, factor: float) -> None:
    rates = np.full(STEPS, 0.1)
    hits = 0
    for seed in range(20):
        at = 400 + 15 * seed
        found = find_spikes(planted(at, length, factor, seed=seed), rates=rates)
        hits += any(abs(spike.first - at) <= max(5, length / 5) for spike in found)
    assert hits >= 17


def test_height_length_and_recovery_are_those_of_the_spike() -> None:
    losses = gaussian()
    losses[700:704] = 3.0, 6.0, 5.0, 4.0
    (spike,) = find_spikes(losses)
    assert (spike.first, spike.peak, spike.last, spike.length, spike.height) == (
        700,
        701,
        703,
        4,
        6.0,
    )
    assert (
        spike.level == pytest.approx(0.51, rel=0.05) and spike.ended and spike.score > spike.limit
    )


def test_a_spike_at_the_end_has_not_come_back() -> None:
    losses = gaussian()
    losses[-12:] = np.linspace(2, 6, 12)
    (spike,) = find_spikes(losses)
    assert not spike.ended and spike.first == STEPS - 12 and spike.last == STEPS - 1


def test_several_spikes_do_not_hide_each_other() -> None:
    losses = gaussian(4000)
    places = [900, 1500, 1540, 2600, 3300]
    losses[places] *= 5
    assert [spike.first for spike in find_spikes(losses)] == places


def test_a_rise_that_stays_and_a_steep_start_are_no_spikes() -> None:
    step = gaussian() + np.where(np.arange(STEPS) < 500, 0, 1.5)
    steep = 10 * np.exp(-np.arange(STEPS) / 5) + gaussian()
    assert find_spikes(step) == [] and find_spikes(steep) == [] and find_spikes(-gaussian()) == []


def test_a_warm_restart_is_no_spike_if_the_rate_is_known() -> None:
    place = np.arange(4000) % 1000
    rates = 0.1 * (1 - place / 1000) + 1e-4
    losses = (0.1 + 5 * rates * (1 - np.exp(-place / 5))) * (
        1 + 0.1 * np.random.default_rng(0).standard_normal(4000)
    )
    assert find_spikes(losses, rates=rates) == [] and find_spikes(losses) == []
    losses[2500:2540] *= 4
    assert [spike.first for spike in find_spikes(losses, rates=rates)] == [2500]


def test_the_noise_of_a_small_last_batch_is_no_spike() -> None:
    random = np.random.default_rng(2)
    last = np.arange(3000) % 97 == 96
    sizes = np.where(last, 2.0, 64.0)
    alarms = 0
    for _ in range(20):
        losses = random.gamma(2 * sizes, 1 / (2 * sizes))
        alarms += bool(find_spikes(losses, sizes=sizes))
    assert alarms == 0


def test_nan_constant_and_short_records_have_no_spike() -> None:
    losses = gaussian()
    losses[[300, 301, 500]] = np.nan, np.inf, 6.0
    assert [spike.first for spike in find_spikes(losses)] == [500]
    for quiet in ([], [1.0], [2.0] * 500, [np.nan] * 500, list(gaussian(20))):
        assert find_spikes(quiet) == []


def test_wrong_arguments_are_refused_by_name() -> None:
    with pytest.raises(
        BadArgument, match=re.escape("`false_alarms` must be between 0 and 1, got 0.0")
    ):
        find_spikes([1.0], false_alarms=0.0)
    with pytest.raises(BadArgument, match="`rates` must have one number per loss, 3, got 2"):
        find_spikes([1.0, 2.0, 3.0], rates=[0.1, 0.1])
    with pytest.raises(BadArgument, match="`sizes` must have one number per loss, 1, got 0"):
        find_spikes([1.0], sizes=[])


def test_places_count_the_losses_that_were_given() -> None:
    losses = gaussian()
    losses[:100] = np.nan
    losses[600] = 5.0
    (spike,) = find_spikes(losses)
    assert spike == replace(spike, first=600, peak=600, last=600) and isinstance(spike, Spike)


def test_a_loss_of_exactly_zero_does_not_make_noise_a_spike() -> None:
    """As the loss falls over decades, its noise is even in logarithms and heavy in the losses
    themselves."""
    losses = 10.0 ** -np.linspace(0, 6, 4000) * np.random.default_rng(0).lognormal(0, 1.6, 4000)
    assert find_spikes(losses, rates=np.full(4000, 0.1)) == []
    losses[3990] = 0.0  # below the smallest float
    assert find_spikes(losses, rates=np.full(4000, 0.1)) == []
