"""A fork of a run outranks what triage reads: it takes a claim back, or shows its cure."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finished_forks import kept
from gradiometer.loop import CoolNow, Rate
from gradiometer.loop.recorded.record import ForkRecord
from gradiometer.loop.recorded.trials import with_trials
from gradiometer.measurement.finding import Evidence
from gradiometer.measurement.optimizer.groups import Group
from gradiometer.measurement.optimizer.hyperparameters import Hyperparameters
from gradiometer.run import Run
from gradiometer.verdict import say
from gradiometer.verdict.claims import Claim, Claimed, Code, InWords
from gradiometer.verdict.triage import triage
from gradiometer.verdict.triage.level import Known, Level
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.triage import Triage, findings_of, triage_of
from gradiometer.verdict.triage.tried import (
    after_trials,
    as_tried,
    better_change,
    says_the_same,
    tell_apart,
    was_followed,
)
from gradiometer.verdict.words.say import as_dict
from report_run import run_in

LOW = Claimed(Claim.RATE_LOW, {"travel": 0.1}, ("rate 4x",))
NO_DECAY = Claimed(Claim.NO_DECAY, {"movement": 0.01}, ("cool now",), ("stopped_early",))
STOPPED = Claimed(
    Claim.STOPPED_EARLY, {"fell": 0.2}, (InWords("train for 800 steps"),), ("no_decay",)
)
LEVEL = Level(2.3, Known.LABELS)
FAULT = Claimed(Claim.DROPOUT, {"dropped": 0.9}, (Code("nn.Dropout(0.1)"),))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_in(tmp_path, steps=200)


def fork(run: Run, change: str, *ends: float, **settings: Any) -> ForkRecord:
    """A finished fork: the baseline ended at about 0.5."""
    return kept(run, {"go on": [0.5, 0.51, 0.52], change: list(ends)}, **settings)


def test_without_forks_claims_stay(run: Run) -> None:
    assert as_tried((FAULT, LOW), run) == (FAULT, LOW)


def test_a_cure_that_ended_worse_takes_its_claim_back(run: Run) -> None:
    fork(run, "rate 4x", 0.7, 0.71, 0.72)
    assert as_tried((FAULT, LOW), run) == (FAULT,)


def test_a_cure_that_ended_better_is_shown(run: Run) -> None:
    fork(run, "rate 4x", 0.3, 0.312, 0.318)
    (claimed,) = as_tried((LOW,), run)
    effect = claimed.numbers["fork"]
    assert claimed.claim is Claim.RATE_LOW and not isinstance(effect, float)
    assert effect.high < 0 and np.isclose(effect.value, -0.2)


def test_the_newest_fork_counts(run: Run) -> None:
    fork(run, "rate 4x", 0.7, 0.71, 0.72)
    fork(run, "rate 4x", 0.3, 0.312, 0.318, seed=1)
    assert [each.claim for each in as_tried((LOW,), run)] == [Claim.RATE_LOW]


def test_a_short_fork_takes_nothing_back(run: Run) -> None:
    fork(run, "rate 4x", 0.7, 0.71, 0.72, tail="none")
    assert as_tried((LOW,), run) == (LOW,)


def test_a_fork_tells_confused_claims_apart(run: Run) -> None:
    assert len(as_tried((NO_DECAY, STOPPED), run)) == 2
    fork(run, "cool now", 0.3, 0.312, 0.318)
    assert [each.claim for each in as_tried((NO_DECAY, STOPPED), run)] == [Claim.NO_DECAY]


def test_without_a_gain_of_cooling_the_other_of_two_confused_claims_stays(run: Run) -> None:
    fork(run, "cool now", 0.7, 0.71, 0.72)
    assert [each.claim for each in as_tried((NO_DECAY, STOPPED), run)] == [Claim.STOPPED_EARLY]


def test_a_cut_that_ended_worse_takes_a_missing_decay_back_as_short_branches_prefer_it(
    run: Run,
) -> None:
    fork(run, "cool now", 0.505, 0.512, 0.518, tail="none")
    assert as_tried((NO_DECAY,), run) == (NO_DECAY,)
    fork(run, "cool now", 0.7, 0.71, 0.72, tail="none", seed=1)
    assert as_tried((NO_DECAY,), run) == ()


def test_a_suspect_whose_cure_a_trial_shows_to_gain_becomes_the_claim(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    suspect = replace(LOW, cure=("rate 2x",), is_certain=False)
    monkeypatch.setattr(triage, "ORDER", (lambda *_: suspect,))
    assert triage_of(run).suspects == (suspect,)
    fork(run, "rate 2x", 0.3, 0.312, 0.318, step=16, left=8_000)
    found = triage_of(run)
    assert [each.claim for each in found.claims] == [Claim.RATE_LOW] and found.suspects == ()


def test_a_trial_settles_both_of_two_confused_suspects_and_no_other() -> None:
    assert says_the_same(STOPPED, NO_DECAY) and says_the_same(NO_DECAY, STOPPED)
    assert says_the_same(LOW, LOW) and not says_the_same(LOW, NO_DECAY)
    assert not says_the_same(STOPPED, DOUBTED)


DOUBTED = Claimed(Claim.UNDECIDED, {"steps": 200.0}, doubts=("still_falls",))


def test_a_doubt_is_settled_when_all_that_it_names_was_tried(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Signs, "of", lambda _: Signs(losses=np.ones(run.steps)))
    assert after_trials(DOUBTED, run) == DOUBTED
    fork(run, "rate 2x", 0.7, 0.71, 0.72)
    assert after_trials(DOUBTED, run) == DOUBTED
    fork(run, "cool now", 0.7, 0.71, 0.72, seed=1)
    settled = after_trials(DOUBTED, run)
    assert settled.claim is Claim.HEALTHY and not settled.doubts


@pytest.mark.parametrize(
    ("ends", "claim"),
    [
        ((0.02, 0.021, 0.022), Claim.NO_DECAY),
        # its loss falls so fast that twice the steps gain more
        ((0.3, 0.312, 0.318), Claim.STOPPED_EARLY),
    ],
)
def test_a_cut_or_more_steps_settle_a_doubt_by_what_gains_more(
    run: Run, ends: tuple[float, ...], claim: Claim
) -> None:
    fork(run, "cool now", *ends)
    assert after_trials(DOUBTED, run).claim is claim


def test_a_higher_rate_that_ends_better_from_an_early_state_is_a_rate_too_low(run: Run) -> None:
    fork(run, "rate 4x", 0.3, 0.312, 0.318, step=16, left=8_000)
    settled = after_trials(DOUBTED, run)
    assert settled.claim is Claim.RATE_LOW and settled.cure == ("rate 4x",)
    (finding,) = findings_of(Triage((settled,), LEVEL, {}))
    assert say(finding).seen == (
        "The learning rate is too low: a fork at a higher one changed the result by −0.200 [−0.203, "
        "−0.197]."
    )


def test_a_higher_rate_that_gains_little_says_nothing(run: Run) -> None:
    fork(run, "rate 4x", 0.495, 0.5052, 0.5148, step=16, left=8_000)
    assert after_trials(DOUBTED, run) == DOUBTED


def test_a_higher_rate_that_is_better_right_after_the_start_says_nothing(run: Run) -> None:
    fork(run, "rate 4x", 0.3, 0.312, 0.318, step=15, left=8_000)
    assert after_trials(DOUBTED, run) == DOUBTED


@pytest.mark.parametrize(
    ("ends", "is_certain"), [((0.3, 0.312, 0.318), True), ((0.3, 0.47, 0.51), False)]
)
def test_a_lower_rate_that_ends_better_from_the_beginning_is_a_rate_too_high(
    run: Run, ends: tuple[float, ...], is_certain: bool
) -> None:
    fork(run, "rate 0.5x", *ends, step=4, left=8_000)
    settled = after_trials(DOUBTED, run)
    assert settled.claim is Claim.RATE_HIGH and settled.is_certain is is_certain
    assert settled.cure == ("rate 0.25x",)
    (finding,) = findings_of(Triage((settled,), LEVEL, {}))
    assert "rate is too high: a fork from the first steps at a lower one" in say(finding).seen


@pytest.mark.parametrize(
    ("change", "ends", "step"),
    [
        ("rate 0.5x", (0.3, 0.312, 0.318), 16),  # later branches prefer small rates
        ("rate 0.5x", (0.3, 0.47), 4),  # two orders may agree by chance
        ("rate 0.5x", (0.495, 0.504, 0.515), 4),  # it gains next to nothing
    ],
)
def test_a_rate_is_no_suspect_after_a_trial_that_shows_nothing(
    run: Run, change: str, ends: tuple[float, ...], step: int
) -> None:
    fork(run, change, *ends, step=step, left=8_000)
    settled = after_trials(DOUBTED, run)
    assert settled.claim is DOUBTED.claim


def from_start(run: Run, change: str, factor: float) -> ForkRecord:
    """One branch from the first weights whose losses are `factor` times those of the training."""
    own = (np.linspace(2, 1, 24) + 0.01 * np.sin(np.arange(24))).tolist()
    curves = {"go on": tuple(own), change: (*own[:12], *(factor * one for one in own[12:]))}
    settings: dict[str, Any] = {"step": 4, "left": 8_000, "tail": "none"}
    return kept(run, {"go on": [1.0], change: [1.0]}, curves=curves, **settings)


@pytest.mark.parametrize(
    ("change", "factor", "claim"),
    [
        ("rate 0.25x", 0.9, Claim.RATE_HIGH),
        ("rate 0.25x", 0.99, None),  # next to nothing
        ("rate 0.25x", 1.3, None),
        ("rate 4x", 0.6, Claim.RATE_LOW),
        ("rate 4x", 0.7, None),  # branches from there prefer large rates
        ("rate 4x", 1.3, None),
    ],
)
def test_a_branch_from_the_first_weights_against_the_training_itself_makes_a_suspect(
    run: Run, change: str, factor: float, claim: Claim | None
) -> None:
    from_start(run, change, factor)
    settled = after_trials(DOUBTED, run)
    assert settled.claim is (claim or DOUBTED.claim)
    if claim is not None:
        # one order of the data
        assert not settled.is_certain and settled.cure == (change,)
        (finding,) = findings_of(Triage((settled,), LEVEL, {}))
        change_in_words = {"rate 4x": "4× the rate", "rate 0.25x": "a quarter"}[change]
        assert f"from the initial weights with {change_in_words}" in say(finding).seen
        # what came of the cure is told of the same fork, with the lean that it has
        (told,) = with_trials(run, [finding])
        tried = say(told).tried
        assert f"updates from step 4, {change} is" in tried and "small" not in tried
        assert ("lean to large rates" in tried) is (change == "rate 4x")


@pytest.mark.parametrize(
    ("family", "factor", "claim"),
    [
        ("adaptive", 0.8, Claim.RATE_LOW),
        ("adaptive", 0.93, DOUBTED.claim),
        ("other", 0.2, DOUBTED.claim),
    ],
)
def test_under_adam_four_times_the_rate_need_not_gain_as_much_from_the_first_weights(
    run: Run, monkeypatch: pytest.MonkeyPatch, family: str, factor: float, claim: Claim
) -> None:
    monkeypatch.setattr(Hyperparameters, "family", family)
    from_start(run, "rate 4x", factor)
    assert after_trials(DOUBTED, run).claim is claim


APART = {"test": np.array([1.0, 1.1, 1.2, 1.3]), "train": np.ones(4)}


@pytest.mark.parametrize(
    ("factor", "edge", "more", "claim"),
    [
        (0.85, 0.7, {}, Claim.RATE_LOW),
        (0.95, 0.7, {}, None),
        (0.85, 1.2, {}, None),
        (0.85, 0.7, {"momentum": 0.9}, None),
        (0.6, 0.7, APART, None),
    ],
)
def test_below_the_edge_of_plain_sgd_a_higher_rate_need_not_gain_as_much_from_the_first_weights(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    factor: float,
    edge: float,
    more: dict[str, Any],
    claim: Claim | None,
) -> None:
    edges = np.array([[step, edge] for step in range(1, 40)])
    signs = replace(Signs.of(run), family="sgd", edges=edges, **more)
    monkeypatch.setattr(Signs, "of", lambda _: signs)
    from_start(run, "rate 4x", factor)
    settled = after_trials(DOUBTED, run)
    assert settled.claim is (claim or DOUBTED.claim) and settled.is_certain is (claim is None)


@pytest.mark.parametrize(("factor", "stays"), [(1.3, False), (0.8, True)])
def test_a_rate_is_not_too_low_if_a_higher_one_is_worse_even_from_the_first_weights(
    run: Run, factor: float, stays: bool
) -> None:
    from_start(run, "rate 4x", factor)
    assert bool(as_tried((LOW,), run)) is stays


@pytest.mark.parametrize(
    ("ends", "claim"),
    [((0.4, 0.45, 0.52), Claim.NO_DECAY), ((0.495, 0.505, 0.52), None), ((0.4, 0.45), None)],
)
def test_a_cut_that_gains_in_the_mean_of_several_orders_makes_a_suspect(
    run: Run, monkeypatch: pytest.MonkeyPatch, ends: tuple[float, ...], claim: Claim | None
) -> None:
    rates = np.full(run.steps, 0.1)
    monkeypatch.setattr(Signs, "of", lambda _: Signs(losses=np.ones(run.steps), rates=rates))
    fork(run, "cool now", *ends, step=200, left=8_000, tail="none")
    settled = after_trials(DOUBTED, run)
    assert (settled.claim, settled.is_certain) == (
        (claim, False) if claim else (DOUBTED.claim, True)
    )


def falling(steps: int, fell: float, **more: Any) -> Signs:
    """A training at a constant rate whose loss falls by so much in its second half, and varies."""
    level = np.where(np.arange(steps) < 0.75 * steps, 1.0, 1 - fell)
    losses = level * (1 + 0.05 * np.sin(np.arange(steps)))
    seen = {"test": np.full(4, 0.9), "train": np.full(4, 0.9), **more}
    return Signs(losses=losses, rates=np.full(steps, 0.1), **seen)


@pytest.mark.parametrize(
    ("ends", "fell", "claim", "is_certain"),
    [
        # twice the steps gain 26 %, and the cut in the mean 9, 0 and −40 %
        ((0.4, 0.45, 0.54), 0.2, Claim.STOPPED_EARLY, False),
        ((0.49, 0.51, 0.53), 0.2, Claim.STOPPED_EARLY, False),
        ((0.7, 0.71, 0.72), 0.2, Claim.STOPPED_EARLY, False),
        # a whole decay gains more than the 23 % of a short cut
        ((0.38, 0.391, 0.404), 0.2, Claim.NO_DECAY, True),
        # 8 %: that may be nothing on fresh rows, and is more than the cut
        ((0.45, 0.49, 0.57), 0.06, None, True),
        ((0.48, 0.494, 0.503), 0.06, None, True),
        ((0.4, 0.45, 0.54), 0.06, Claim.NO_DECAY, False),
        # two orders of the data
        ((0.49, 0.51), 0.2, None, True),
    ],
)
def test_at_a_constant_rate_more_steps_are_missing_if_they_gain_more_than_a_cut(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    ends: tuple[float, ...],
    fell: float,
    claim: Claim | None,
    is_certain: bool,
) -> None:
    monkeypatch.setattr(Signs, "of", lambda _: falling(run.steps, fell))
    fork(run, "cool now", *ends, step=200, left=8_000, tail="none")
    settled = after_trials(DOUBTED, run)
    assert (settled.claim, settled.is_certain) == (claim or DOUBTED.claim, is_certain)


VARIES = np.array([1.0, 1.3, 1.0, 1.3])


@pytest.mark.parametrize(
    ("evaluated", "claim"),
    [
        (APART, Claim.NO_DECAY),
        ({"test": APART["test"], "train": np.full(4, np.nan)}, Claim.NO_DECAY),
        # it still falls on fresh rows
        ({"test": 2 - APART["test"], "train": 1.5 - APART["test"]}, Claim.STOPPED_EARLY),
        # as at a constant rate
        ({"test": VARIES, "train": VARIES}, Claim.STOPPED_EARLY),
        # fresh rows were harder from the start
        ({"test": 1.3 * VARIES, "train": VARIES}, Claim.STOPPED_EARLY),
    ],
)
def test_what_a_training_learns_by_heart_is_not_worth_more_steps(
    run: Run, monkeypatch: pytest.MonkeyPatch, evaluated: dict[str, Any], claim: Claim
) -> None:
    monkeypatch.setattr(Signs, "of", lambda _: falling(run.steps, 0.2, **evaluated))
    fork(run, "cool now", 0.4, 0.45, 0.54, step=200, left=8_000, tail="none")
    assert after_trials(DOUBTED, run).claim is claim


def test_a_suspect_stays_alone_if_the_cut_of_a_trial_gains_less_in_the_mean(run: Run) -> None:
    fork(run, "cool now", 0.4, 0.45, 0.54, step=200, left=8_000, tail="none")  # gains 9 %
    for fell, kept_ones in ((0.2, (STOPPED,)), (0.05, (NO_DECAY, STOPPED))):
        stopped = replace(STOPPED, numbers={"fell": fell})
        left = tell_apart((NO_DECAY, stopped), run)
        assert [each.claim for each in left] == [each.claim for each in kept_ones]


def test_a_training_without_a_claim_says_what_its_forks_could_have_shown(run: Run) -> None:
    fork(run, "rate 4x", 0.4, 0.5, 0.6, step=16, left=8_000)
    settled = after_trials(DOUBTED, run)
    shows = settled.numbers["shows"]
    assert settled.claim is Claim.UNDECIDED and isinstance(shows, float) and 0.2 < shows < 0.5
    (finding,) = findings_of(Triage((settled,), LEVEL, {}))
    assert f"Its forks can show effects above {shows:.0%}".replace("%", " %") in say(finding).means


@pytest.mark.parametrize(("fell", "claim"), [(0.2, Claim.NO_DECAY), (0.4, Claim.STOPPED_EARLY)])
def test_of_two_confused_claims_the_one_whose_cure_gains_more_stays(
    run: Run, fell: float, claim: Claim
) -> None:
    fork(run, "cool now", 0.3, 0.312, 0.318)  # gains 39 %
    stopped = replace(STOPPED, numbers={"fell": fell})
    for claims in ((stopped,), (FAULT, stopped), (NO_DECAY, stopped)):
        left = as_tried(claims, run)
        assert [each.claim for each in left] == [*([FAULT.claim] * (FAULT in claims)), claim]
        assert left[-1].doubts == ()


@pytest.mark.parametrize(("end", "claim"), [(0.1, Claim.NO_DECAY), (0.01, Claim.HEALTHY)])
def test_a_healthy_training_at_a_constant_rate_that_a_fork_cooled_with_a_gain_says_so(
    run: Run, monkeypatch: pytest.MonkeyPatch, end: float, claim: Claim
) -> None:
    rates = np.linspace(0.1, end, run.steps)
    monkeypatch.setattr(Signs, "of", lambda _: Signs(losses=np.ones(run.steps), rates=rates))
    healthy = Claimed(Claim.HEALTHY, {"steps": 200.0})
    assert after_trials(healthy, run) == healthy
    fork(run, "cool now", 0.3, 0.312, 0.318, tail="none")
    settled = after_trials(healthy, run)
    assert settled.claim is claim


def test_a_doubt_about_the_end_is_not_settled_by_a_fork_of_the_first_half(run: Run) -> None:
    for seed, change in enumerate(("rate 2x", "cool now")):
        fork(run, change, 0.7, 0.71, 0.72, seed=seed, step=90)
    assert after_trials(DOUBTED, run) == DOUBTED


HIGH = Claimed(Claim.RATE_HIGH, {"movement": 0.1}, ("rate 0.25x",))


@pytest.mark.parametrize(
    ("claimed", "change", "ends", "stays"),
    [
        (LOW, "rate 2x", (0.7, 0.71, 0.72), False),
        (LOW, "rate 2x", (0.3, 0.312, 0.318), True),
        (LOW, "rate 16x", (0.7, 0.71, 0.72), True),
        (LOW, "rate 0.5x", (0.3, 0.312, 0.318), False),
        (LOW, "rate 0.5x", (0.7, 0.71, 0.72), True),
        (HIGH, "rate 0.5x", (0.7, 0.71, 0.72), False),
        (HIGH, "rate 2x", (0.3, 0.312, 0.318), False),
        (FAULT, "rate 2x", (0.7, 0.71, 0.72), True),
    ],
)
def test_other_changes_of_the_rate_count_as_far_as_they_tell(
    run: Run, claimed: Claimed, change: str, ends: tuple[float, ...], stays: bool
) -> None:
    fork(run, change, *ends)
    assert as_tried((claimed,), run) == ((claimed,) if stays else ())


def test_a_run_is_not_called_healthy_if_a_fork_with_another_rate_ended_better(run: Run) -> None:
    assert triage_of(run).passes
    fork(run, "rate 4x", 0.3, 0.312, 0.318)
    found = triage_of(run)
    (claimed,) = found.claims
    assert claimed.claim is Claim.FORK_BETTER and claimed.cure == ("rate 4x",) and not found.passes
    (finding,) = findings_of(found)
    assert say(finding).seen.startswith("Another learning rate did better when tested: on copies")
    fork(run, "rate 4x", 0.7, 0.71, 0.72, seed=1)
    assert triage_of(run).passes


def test_forks_by_which_a_run_decides_itself_are_no_claim(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork(run, "rate 4x", 0.3, 0.312, 0.318)
    assert better_change(run) is not None
    events = [*run.events, {"event": "rate fork", "step": 100}]
    monkeypatch.setattr(Run, "events", property(lambda _: events))
    assert better_change(run) is None


@pytest.mark.parametrize(
    ("rate_at_end", "change", "followed"),
    [
        (0.1, Rate(4.0), False),
        (0.4, Rate(4.0), True),
        (0.025, Rate(4.0), False),
        (0.0, CoolNow(0.5), True),
    ],
)
def test_a_change_that_a_loop_has_followed_since_is_no_claim(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    rate_at_end: float,
    change: Rate | CoolNow,
    followed: bool,
) -> None:
    groups = ((Group("SGD", "sgd", 0.1),), (Group("SGD", "sgd", rate_at_end),))
    settings = Hyperparameters((0, 120), groups, reached=200)
    monkeypatch.setattr(Run, "configuration", property(lambda _: None))
    monkeypatch.setattr(Run, "hyperparameters", property(lambda _: settings))
    assert was_followed(run, 100, change) == followed


@pytest.mark.parametrize(
    ("ends", "evidence"),
    [((0.3, 0.312, 0.318), Evidence.FORK), ((0.3, 0.512, 0.718), Evidence.READING)],
    ids=["better", "open"],
)
def test_a_fork_is_the_evidence_of_a_claim_if_its_change_ended_better(
    run: Run, ends: tuple[float, ...], evidence: Evidence
) -> None:
    fork(run, "rate 4x", *ends)
    low = replace(LOW, numbers={"share": 0.1, "steps": 200.0})
    (claimed,) = as_tried((low,), run)
    assert claimed.evidence is evidence
    (finding,) = findings_of(Triage((claimed,), LEVEL, unseen={}))
    assert as_dict(finding)["evidence"] == evidence
