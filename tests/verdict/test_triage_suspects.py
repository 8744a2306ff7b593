"""Suspects: illnesses whose signs are weak. They are named, and are no headline."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_triage_rate import on

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
    cosine_rates,
    evaluations,
    falling,
    healthy,
    nearest,
    striding,
)
from report_run import run_in
from triage_cases import CONSTANT, EVALUATED, UP_AND_DOWN

LATE_RISE = [1.0, 0.8, 0.6, 0.4, 0.42, 0.42, 0.42, 0.42, 0.42, 0.42]
STEEP = GUESS * np.linspace(0.8, 0.1, STEPS)
ADAM: dict[str, Any] = {"optimizer": "Adam", "family": "adaptive"}


def seen(test: float, train: float) -> Signs:
    """A training whose batch losses give a difference of test and training an error of 0.08."""
    losses = {"losses": UP_AND_DOWN, "test": np.full(10, test), "train": np.full(10, train)}
    return healthy(**EVALUATED, **losses)


def turning(reach: float, **changes: Any) -> Signs:
    """A training that kept some of its direction on a way of this reach, and whose loss fell."""
    made = {"losses": STEEP, "rates": cosine_rates(), "movement": striding(reach / STEPS)}
    return on(0.2, **(made | changes))


def going_on(end: float, reach: float = 40, noise: float = 0.0) -> Signs:
    """A training of less than two epochs at a constant rate, whose loss falls to this level."""
    losses = GUESS * np.linspace(1, end, STEPS)
    losses = losses + noise * GUESS * np.random.default_rng(2).standard_normal(STEPS)
    movement = striding(reach / STEPS)
    return healthy(rates=CONSTANT, examples=7000, losses=losses, movement=movement)


SUSPECTS: dict[str, tuple[Claim, Signs, Signs]] = {
    "low rate": (Claim.RATE_LOW, turning(19), turning(21)),
    "low rate by the direction": (
        Claim.RATE_LOW,
        turning(19),
        on(0.1, losses=STEEP, rates=cosine_rates(), movement=striding(19 / STEPS)),
    ),
    "low rate below half of the edge": (
        Claim.RATE_LOW,
        turning(19, edges=nearest(0.45)),
        turning(19, edges=nearest(0.55)),
    ),
    "low rate of Adam": (Claim.RATE_LOW, turning(26, **ADAM), turning(28, **ADAM)),
    "low rate that falls": (Claim.RATE_LOW, turning(19), turning(19, rates=CONSTANT)),
    "stopped early": (Claim.STOPPED_EARLY, going_on(0.65, reach=59), going_on(0.65, reach=61)),
    "stopped early on a short way": (
        Claim.STOPPED_EARLY,
        going_on(0.85, reach=29, noise=0.2),
        going_on(0.85, reach=29, noise=0.25),
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


@pytest.mark.parametrize(("product", "is_certain"), [(-0.07, True), (-0.09, False)])
def test_a_low_rate_of_plain_sgd_near_its_edge_is_never_certain(
    product: float, is_certain: bool
) -> None:
    short = {"movement": striding(60 / STEPS), "momentum": 0.0, "losses": falling(0.55)}
    found = certain(healthy(**short, product=constant(product)))
    assert (Claim.RATE_LOW in found) is is_certain


def test_suspects_wait_for_the_end() -> None:
    for name in ("low rate", "stopped early"):
        assert not triage_of(replace(SUSPECTS[name][1], has_ended=False)).suspects


@pytest.mark.parametrize(
    ("ends", "headline", "suspects"),
    [
        ((0.3, 0.312, 0.318), Claim.RATE_LOW, 0),
        ((0.49, 0.51, 0.53), Claim.RATE_LOW, 1),
        ((0.7, 0.71, 0.72), Claim.UNDECIDED, 0),
    ],
)
def test_a_fork_decides_about_a_suspect(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: tuple[float, ...],
    headline: Claim,
    suspects: int,
) -> None:
    run = run_in(tmp_path, steps=200)
    monkeypatch.setattr(Signs, "of", lambda _: SUSPECTS["low rate"][1])
    assert len(triage_of(run).suspects) == 1
    kept(run, {"go on": [0.5, 0.51, 0.52], "rate 2x": list(ends)}, step=20)
    found = triage_of(run)
    assert found.claims[0].claim is headline and len(found.suspects) == suspects
    assert ("fork" in found.claims[0].numbers) is (headline is Claim.RATE_LOW)


def test_what_a_claim_accounts_for_is_no_suspect() -> None:
    weak = SUSPECTS["low rate"][1]
    tight = replace(weak, single={**weak.single, "clipped": constant(0.1)})
    found = triage_of(tight)
    assert [each.claim for each in found.claims] == [Claim.CLIP_SMALL]
    assert not found.suspects


def test_beside_a_certain_claim_nothing_is_suspected() -> None:
    """Of a training whose rate fell far too early, the way is short."""
    weak = SUSPECTS["low rate"][1]
    sick = replace(weak, weight_decay=0.05)
    assert certain(sick) == {Claim.WEIGHT_DECAY} and not triage_of(sick).suspects


def test_a_suspect_is_the_headline_and_a_finding_to_look_at_with_its_cure() -> None:
    found = triage_of(SUSPECTS["low rate"][1])
    (suspect,) = findings_of(found)
    assert suspect.state is State.LOOK and suspect.cure == ("rate 2x",)
    assert say(suspect).seen.startswith("Perhaps the learning rate is too low: in 400 steps")
    assert say(suspect).beginning == "Perhaps the learning rate is too low"


def test_a_suspect_leads_over_the_advice_of_a_gauge(tmp_path: Path) -> None:
    suspect, *_ = findings_of(triage_of(SUSPECTS["low rate"][1]))
    advice = Finding("gradient_noise", Issue.ESTIMATION, "batch_small", State.ACT)
    run = run_in(tmp_path, steps=200)
    assert leading(run, [advice, suspect]) is suspect
    assert leading(run, [advice]) is advice


def test_the_page_asks_what_else_may_limit_after_the_headline() -> None:
    weak = SUSPECTS["low rate"][1]
    both = findings_of(triage_of(replace(weak, rates=np.linspace(0.1, 0.03, STEPS), examples=7000)))
    assert [each.claim for each in both] == [Claim.RATE_LOW, Claim.STOPPED_EARLY]
    cards = further_cards([Answer(each, {}, None) for each in both])
    shown = rows(Diagnosis(both, {}, {}), (), (), cards)
    assert [card.title for card in shown] == ["What limits this run?", "What may limit it?"]
