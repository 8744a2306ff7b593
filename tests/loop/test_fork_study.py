"""Forks whose answer is known: the engine ends where the law says, effects cover, and races keep
the best."""

from dataclasses import replace

import numpy as np
import pytest
from cases.fork_quadratics import BATCH, GO_ON, SETTINGS, WARM, Going, HeldOut, Setting, results_of
from forks import effects_study, engine_fork, engine_study, race_study

from gradiometer.loop.branch import Branch

QUIET = [
    replace(setting, noises=tuple(1e-20 * noise for noise in setting.noises))
    for setting in SETTINGS[::2]
]


@pytest.mark.parametrize("setting", QUIET, ids=lambda setting: setting.name)
def test_without_noise_the_branches_of_the_engine_end_at_the_exact_loss(setting: Setting) -> None:
    test, start = (
        HeldOut.drawn(setting, np.random.default_rng(0)),
        (np.linspace(1, 2, 20), np.linspace(-1, 1, 20)),
    )
    if not setting.momentum:
        start = (start[0], np.zeros(20))
    found = engine_fork(setting, start, test, seed=0, replicates=1, horizon=8 * BATCH)
    assert len(found.results) == 7
    for result in found.results:
        alternative = next(
            one for one in (GO_ON, *setting.alternatives) if one.name == result.alternative
        )
        going = Going(setting, alternative, 8 * BATCH)
        assert result.updates == len(going.rates)
        # Losses of single examples are kept in single precision.
        assert result.readouts["test_loss"].mean == pytest.approx(
            going.law(*start).excess_loss, rel=1e-6
        )


def test_simulated_branches_have_the_mean_of_the_law_and_common_data() -> None:
    setting = SETTINGS[2]
    start, test = setting.start(1), HeldOut.drawn(setting, np.random.default_rng(0))
    branches = [
        Branch(one, replicate, 16 * BATCH)
        for one in (GO_ON, setting.alternatives[3])
        for replicate in range(300)
    ]
    ends = np.array(
        [each.readouts["test_loss"].mean for each in results_of(setting, test, branches, start, 0)]
    ).reshape(2, -1)
    floor = test.readout(test.mean).mean
    for one, losses in zip((GO_ON, setting.alternatives[3]), ends, strict=True):
        known = Going(setting, one, 16 * BATCH).law(*start).excess_loss_from(test.mean) + floor
        assert abs(losses.mean() - known) < 4 * losses.std() / np.sqrt(len(losses))
    assert np.corrcoef(ends)[0, 1] > 0.5


@pytest.mark.nightly
@pytest.mark.parametrize(
    "setting", [SETTINGS[0], SETTINGS[3], SETTINGS[4]], ids=lambda setting: setting.name
)
def test_effects_are_unbiased_and_their_intervals_cover(setting: Setting) -> None:
    scores = effects_study(setting, forks=200)
    assert scores.z < 4
    assert 0.84 < np.mean(scores.single) < 0.95
    assert np.mean(scores.together) > 0.84 and np.mean(scores.in_general) > 0.84
    assert scores.width < 0.9


@pytest.mark.nightly
@pytest.mark.parametrize("warm", [5, WARM])
def test_races_keep_the_truly_best(warm: int) -> None:
    for setting in SETTINGS[::3]:
        kept, _, regrets, spent = race_study(setting, 40, warm)
        assert kept >= 36
        assert np.mean(regrets) < 0.05 and max(spent) <= 1


@pytest.mark.nightly
@pytest.mark.parametrize("setting", SETTINGS[::2], ids=lambda setting: setting.name)
def test_with_noise_the_engine_ends_on_average_where_the_law_says(setting: Setting) -> None:
    z, _ = engine_study(setting, forks=4)
    assert len(z) == 7 and max(map(abs, z.values())) < 4
