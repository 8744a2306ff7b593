"""Effects of alternatives: paired, with a sign that follows the metric, and answers where a branch
diverged."""

import json
import math

import numpy as np
import pytest

from gradiometer import BadArgument
from gradiometer.loop import CoolNow, Effect, Fork, Rate
from gradiometer.loop.branch import BranchResult
from gradiometer.loop.comparison.effects import effects_of
from gradiometer.loop.readout import Readout
from gradiometer.measurement.uncertainty.differences import mean_of_few, simultaneous_means

HORIZON = 640


def branch(
    alternative: str,
    replicate: int,
    readout: Readout | None,
    *,
    name: str = "test_loss",
    horizon: int = HORIZON,
) -> BranchResult:
    readouts = {} if readout is None else {name: readout}
    return BranchResult(
        alternative,
        replicate,
        horizon,
        10,
        horizon,
        1.0,
        (),
        readouts,
        None if readout else "the loss is nan",
    )


def branches(ends: dict[str, list[float | None]], **settings: bool) -> list[BranchResult]:
    return [
        branch(alternative, replicate, None if end is None else Readout(end, **settings))
        for alternative, found in ends.items()
        for replicate, end in enumerate(found)
    ]


ENDS: dict[str, list[float | None]] = {
    "go on": [0.52, 0.55, 0.51, 0.53],
    "rate 2x": [0.49, 0.53, 0.475, 0.50],
    "rate 0.5x": [0.60, 0.63, 0.59, 0.62],
    "cool now": [0.53, 0.55, 0.505, 0.53],
}


def test_effects_are_means_over_pairs_that_cover_together() -> None:
    effects = effects_of(branches(ENDS), "go on")
    assert [(effect.alternative, effect.verdict) for effect in effects] == [
        ("rate 2x", "better"),
        ("rate 0.5x", "worse"),
        ("cool now", "open"),
    ]
    differences = np.array(
        [np.subtract(ENDS[effect.alternative], ENDS["go on"]) for effect in effects]
    ).T
    expected = simultaneous_means(differences)
    for effect, mean, column in zip(effects, expected, differences.T, strict=True):
        assert effect.estimate.low == pytest.approx(mean.low) and effect.estimate.level == 0.9
        assert effect.single.high == pytest.approx(mean_of_few(column.tolist()).high)
        assert (
            effect.replicates == 4 and effect.readout == "test_loss" and effect.in_general is None
        )


def test_pairs_are_replicates_in_any_order() -> None:
    results = branches(ENDS)
    shuffled = [results[each] for each in np.random.default_rng(0).permutation(len(results))]
    found = {effect.alternative: effect for effect in effects_of(shuffled, "go on")}
    for effect in effects_of(results, "go on"):
        assert found[effect.alternative].single == effect.single


def test_for_an_accuracy_higher_is_better() -> None:
    verdicts = [
        effect.verdict for effect in effects_of(branches(ENDS, lower_is_better=False), "go on")
    ]
    assert verdicts == ["worse", "better", "open"]


def test_only_what_is_open_says_how_many_replicates_would_decide() -> None:
    better, worse, undecided = effects_of(branches(ENDS), "go on")
    assert better.replicates_needed is None and worse.replicates_needed is None
    assert undecided.replicates_needed is not None and undecided.replicates_needed.about > 4


def test_a_branch_that_diverged_is_an_answer_and_widens_no_other_effect() -> None:
    effects = effects_of(branches({**ENDS, "rate 8x": [0.9, None, None, 0.8]}), "go on")
    assert effects[-1].verdict == "diverged" and effects[-1].diverged == 2
    assert not effects[-1].estimate.tells and effects[-1].estimate.method == "2 diverged"
    assert effects[:3] == effects_of(branches(ENDS), "go on")


def test_if_the_baseline_diverged_no_effect_is_claimed() -> None:
    effects = effects_of(branches({**ENDS, "go on": [0.5, None, 0.5, 0.5]}), "go on")
    assert {effect.verdict for effect in effects} == {"baseline diverged"}
    assert {effect.baseline_diverged for effect in effects} == {1}


def test_an_alternative_with_fewer_replicates_keeps_its_own_pairs() -> None:
    ends = {**ENDS, "rate 0.5x": [0.60, 0.63, 0.59]}
    first, fewer, _ = effects_of(branches(ends), "go on")
    assert (first.replicates, fewer.replicates) == (4, 3)
    assert fewer.estimate.value == pytest.approx(0.08)
    alone = mean_of_few([0.08, 0.08, 0.08 + 1e-9], 1 - 0.1 / 3)
    assert fewer.estimate.high == pytest.approx(alone.high, abs=1e-8)


def test_one_replicate_gives_no_interval_and_the_longest_horizon_is_read() -> None:
    results = [
        *branches(ENDS),
        branch("go on", 0, Readout(0.4), horizon=1280),
        branch("rate 2x", 0, Readout(0.3), horizon=1280),
    ]
    (effect,) = effects_of(results, "go on")
    assert (effect.replicates, effect.verdict, effect.estimate.method) == (
        1,
        "open",
        "fewer than two pairs",
    )
    assert len(effects_of(results, "go on", horizon=HORIZON)) == 3


def of_examples(values: np.ndarray) -> Readout:
    return Readout.of(values)


def test_values_of_examples_widen_the_interval_in_general() -> None:
    generator = np.random.default_rng(1)
    results = []
    hard = generator.standard_normal(200) * 0.1
    for replicate in range(4):
        losses = generator.random(200)
        results.append(branch("go on", replicate, of_examples(losses)))
        results.append(
            branch("rate 2x", replicate, of_examples(losses + 0.05 + hard + 0.01 * replicate))
        )
    (effect,) = effects_of(results, "go on")
    assert effect.in_general is not None and effect.in_general.value == pytest.approx(
        effect.estimate.value
    )
    added = 1.65 * hard.std() / math.sqrt(200)
    here = effect.estimate.high - effect.estimate.value
    assert effect.in_general.high - effect.estimate.value == pytest.approx(
        math.hypot(here, added), rel=0.02
    )


def test_a_fork_has_effects_and_a_best_alternative() -> None:
    alternatives = (Rate(2), Rate(0.5), CoolNow())
    fork = Fork(10, alternatives, 4, HORIZON, tuple(branches(ENDS)))
    assert fork.effects() == effects_of(branches(ENDS), "go on")
    assert fork.effects(level=0.5)[0].estimate.level == 0.5
    assert fork.best() == "rate 2x"
    accuracy = Fork(10, alternatives, 4, HORIZON, tuple(branches(ENDS, lower_is_better=False)))
    assert accuracy.best() == "rate 0.5x"
    diverged = {**ENDS, "rate 2x": [0.1, None, 0.1, 0.1]}
    assert Fork(10, alternatives, 4, HORIZON, tuple(branches(diverged))).best() == "go on"


def test_effects_are_stored_as_json() -> None:
    (effect, *_) = effects_of(branches(ENDS), "go on")
    stored = json.loads(json.dumps(effect.to_dict()))
    assert stored["verdict"] == "better" and stored["estimate"]["value"] == effect.estimate.value
    assert isinstance(effect, Effect)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"baseline": "go on", "readout": "test_los"},
            "`readout` must be one of test_loss, got 'test_los'",
        ),
        ({"baseline": "go on", "level": 90.0}, "`level` must lie between 0 and 1, got 90"),
    ],
)
def test_questions_without_an_answer_are_refused(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(BadArgument, match=message):
        effects_of(branches(ENDS), **arguments)
