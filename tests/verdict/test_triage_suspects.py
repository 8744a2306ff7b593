"""Suspects: illnesses whose signs are weak. They are named, and are no headline."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finished_forks import kept
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.report.page.cards import further_cards, rows
from gradiometer.report.sections.questions import Answer
from gradiometer.verdict.claims import Claim
from gradiometer.verdict.diagnosis import Diagnosis, leading
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.triage import findings_of, triage_of
from gradiometer.verdict.words.say import say
from made_up_signs import (
    GUESS,
    STEPS,
    certain,
    claims,
    constant,
    evaluations,
    healthy,
    reaching,
)
from report_run import run_in
from triage_cases import CONSTANT, EVALUATED, UP_AND_DOWN

LATE_RISE = [1.0, 0.8, 0.6, 0.4, 0.42, 0.42, 0.42, 0.42, 0.42, 0.42]


def seen(test: float, train: float) -> Signs:
    """A training whose batch losses give a difference of test and training an error of 0.08."""
    losses = {"losses": UP_AND_DOWN, "test": np.full(10, test), "train": np.full(10, train)}
    return healthy(**EVALUATED, **losses)


def going_on(end: float, reach: float = 10, noise: float = 0.0) -> Signs:
    """A training of less than two epochs at a constant rate, whose loss falls to this level."""
    losses = GUESS * np.linspace(1, end, STEPS)
    losses = losses + noise * GUESS * np.random.default_rng(2).standard_normal(STEPS)
    movement = reaching(reach)
    return healthy(rates=CONSTANT, examples=7000, losses=losses, movement=movement)


WEAK = going_on(0.65)


SUSPECTS: dict[str, tuple[Claim, Signs, Signs]] = {
    "stopped early": (Claim.STOPPED_EARLY, going_on(0.65, reach=17.5), going_on(0.65, reach=17.7)),
    "stopped early on a short way": (
        Claim.STOPPED_EARLY,
        going_on(0.85, reach=5, noise=0.2),
        going_on(0.85, reach=5, noise=0.25),
    ),
}
OF_THE_DATA: dict[str, tuple[Claim, Signs, Signs]] = {
    "labels": (Claim.LABELS_NOISY, seen(1.6, 1.795), seen(1.6, 1.78)),
    "labels of what was learnt": (Claim.LABELS_NOISY, seen(0.3, 0.55), seen(0.3, 0.53)),
    "overfit": (
        Claim.OVERFIT,
        healthy(**evaluations(LATE_RISE, 0.139)),
        healthy(**evaluations(LATE_RISE, 0.141)),
    ),
}


@pytest.mark.parametrize("name", SUSPECTS)
def test_weak_signs_name_a_suspect_and_weaker_ones_none(name: str) -> None:
    claim, weak, weaker = SUSPECTS[name]
    found = triage_of(weak)
    assert [each.claim for each in found.claims] == [claim]
    assert found.suspects == found.claims and found.passes
    assert claim not in claims(weaker)


@pytest.mark.parametrize("name", OF_THE_DATA)
def test_signs_of_the_data_are_certain_from_a_limit(name: str) -> None:
    claim, weak, weaker = OF_THE_DATA[name]
    assert certain(weak) == {claim} and claim not in claims(weaker)


def test_suspects_wait_for_the_end() -> None:
    assert not triage_of(replace(WEAK, has_ended=False)).suspects


@pytest.mark.parametrize(
    ("ends", "headline"),
    [
        ((0.3, 0.312, 0.318), Claim.RATE_LOW),
        ((0.49, 0.51, 0.53), Claim.RATE_LOW),
        ((0.7, 0.71, 0.72), Claim.UNDECIDED),
    ],
)
def test_a_fork_decides_about_a_short_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: tuple[float, ...], headline: Claim
) -> None:
    run = run_in(tmp_path, steps=200)
    monkeypatch.setattr(Signs, "of", lambda _: healthy(movement=reaching(5)))
    assert "fork" not in triage_of(run).claims[0].numbers
    kept(run, {"go on": [0.5, 0.51, 0.52], "rate 2x": list(ends)}, step=20)
    found = triage_of(run).claims[0]
    assert found.claim is headline
    assert ("fork" in found.numbers) is (headline is Claim.RATE_LOW)


def test_a_fork_that_ended_better_leads_over_a_suspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_in(tmp_path, steps=200)
    monkeypatch.setattr(Signs, "of", lambda _: WEAK)
    assert [each.claim for each in triage_of(run).claims] == [Claim.STOPPED_EARLY]
    kept(run, {"go on": [0.5, 0.51, 0.52], "rate 2x": [0.3, 0.312, 0.318]}, step=20)
    better, suspect = triage_of(run).claims
    assert better.claim is Claim.FORK_BETTER and better.is_certain
    assert suspect.claim is Claim.STOPPED_EARLY and not suspect.is_certain


def test_what_a_claim_accounts_for_is_no_suspect() -> None:
    tight = replace(WEAK, single={**WEAK.single, "clipped": constant(0.1)})
    found = triage_of(tight)
    assert [each.claim for each in found.claims] == [Claim.CLIP_SMALL]
    assert not found.suspects


def test_beside_a_certain_claim_nothing_is_suspected() -> None:
    sick = replace(WEAK, weight_decay=0.05)
    assert certain(sick) == {Claim.WEIGHT_DECAY} and not triage_of(sick).suspects


def test_a_suspect_is_the_headline_and_a_finding_to_look_at_with_its_cure() -> None:
    (suspect,) = findings_of(triage_of(WEAK))
    assert suspect.state is State.LOOK and suspect.facts["lines"] == ("train for 1,600 steps",)
    assert say(suspect).seen.startswith("Perhaps the training stopped early")
    assert say(suspect).beginning == "Perhaps the training stopped early"


def test_a_suspect_leads_over_the_advice_of_a_gauge(tmp_path: Path) -> None:
    suspect, *_ = findings_of(triage_of(WEAK))
    advice = Finding("gradient_noise", Issue.ESTIMATION, "batch_small", State.ACT)
    run = run_in(tmp_path, steps=200)
    assert leading(run, [advice, suspect]) is suspect
    assert leading(run, [advice]) is advice


def test_the_page_asks_what_else_may_limit_after_the_headline() -> None:
    small = replace(WEAK, batch_size=5, single={**WEAK.single, "product": constant(0.0)})
    both = findings_of(triage_of(small))
    assert [each.claim for each in both] == [Claim.STOPPED_EARLY, Claim.BATCH_SMALL]
    cards = further_cards([Answer(each, {}, None) for each in both])
    shown = rows(Diagnosis(both, {}, {}), (), (), cards)
    assert [card.title for card in shown] == ["What limits this run?", "What may limit it?"]
