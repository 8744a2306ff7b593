"""Suspects: illnesses whose signs are weak. They are named, and are no headline."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_triage_rate import on

from finished_forks import kept
from gradiometer.measurement.finding import State
from gradiometer.report.page.cards import further_cards, rows
from gradiometer.report.sections.questions import Answer
from gradiometer.verdict.claims import Claim
from gradiometer.verdict.diagnosis import Diagnosis
from gradiometer.verdict.triage.signs import Signs
from gradiometer.verdict.triage.triage import findings_of, triage_of
from gradiometer.verdict.words.say import say
from made_up_signs import (
    GUESS,
    STEPS,
    constant,
    cosine_rates,
    evaluations,
    falling,
    healthy,
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


def in_few_updates(updates: int) -> Signs:
    """A training of 399 updates, so many of them in an epoch."""
    made = {"losses": falling(steps=399), "rates": cosine_rates(steps=399)}
    return healthy(batch_size=64, examples=64 * updates, product=constant(0.1), **made)


PLAIN: dict[str, Any] = {"momentum": 0.0, "losses": falling(0.6), "rates": CONSTANT}
CASES: dict[str, tuple[Claim, Signs, Signs]] = {
    "labels, by errors": (Claim.LABELS_NOISY, seen(1.6, 1.77), seen(1.6, 1.75)),
    "labels, by share": (Claim.LABELS_NOISY, seen(1.4, 1.59), seen(1.3, 1.49)),
    "overfit": (
        Claim.OVERFIT,
        healthy(**evaluations(LATE_RISE, 0.139)),
        healthy(**evaluations(LATE_RISE, 0.141)),
    ),
    "small batch": (
        Claim.BATCH_SMALL,
        healthy(batch_size=4, product=constant(0.29)),
        healthy(batch_size=4, product=constant(0.31)),
    ),
    "large batch": (
        Claim.BATCH_LARGE,
        in_few_updates(29),
        in_few_updates(31),
    ),
    "low rate": (Claim.RATE_LOW, turning(29), turning(31)),
    "low rate by the fall of the loss": (
        Claim.RATE_LOW,
        turning(20, losses=GUESS * np.linspace(0.8, 0.37, STEPS)),
        turning(20, losses=GUESS * np.linspace(0.8, 0.4, STEPS)),
    ),
    "low rate of plain SGD": (
        Claim.RATE_LOW,
        turning(29, momentum=0.0, product=constant(-0.24)),
        turning(29, momentum=0.0, product=constant(-0.26)),
    ),
    "low rate by agreement": (
        Claim.RATE_LOW,
        turning(100, product=constant(0.31), **ADAM),
        turning(100, product=constant(0.29), **ADAM),
    ),
    "stopped early": (Claim.STOPPED_EARLY, going_on(0.5), going_on(0.65)),
    "stopped early on a short way": (
        Claim.STOPPED_EARLY,
        going_on(0.85, reach=29, noise=0.2),
        going_on(0.85, reach=29, noise=0.25),
    ),
    "no decay": (
        Claim.NO_DECAY,
        healthy(product=constant(-0.04), **PLAIN),
        healthy(product=constant(-0.02), **PLAIN),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_weak_signs_name_a_suspect_and_weaker_ones_none(name: str) -> None:
    claim, weak, weaker = CASES[name]
    found = triage_of(weak)
    assert [each.claim for each in found.suspects] == [claim]
    assert found.claims[0].claim is Claim.UNDECIDED and found.passes
    assert claim not in {each.claim for each in triage_of(weaker).suspects}


def test_a_training_with_a_suspect_is_not_called_healthy() -> None:
    found = triage_of(CASES["overfit"][1])
    assert found.claims[0].doubts == ("suspected",)
    assert triage_of(CASES["overfit"][2]).claims[0].claim is Claim.HEALTHY


def test_suspects_wait_for_the_end() -> None:
    for name in ("overfit", "small batch"):
        assert not triage_of(replace(CASES[name][1], has_ended=False)).suspects


def test_a_large_batch_of_a_long_training_is_no_suspect() -> None:
    """As that of 500 updates on the 1,437 digits."""
    long = healthy(batch_size=64, examples=64 * 29, product=constant(0.1))
    assert long.steps == STEPS and not triage_of(long).suspects


@pytest.mark.parametrize(
    ("ends", "headline", "suspects"),
    [
        ((0.3, 0.312, 0.318), Claim.RATE_LOW, 0),
        ((0.49, 0.51, 0.53), Claim.UNDECIDED, 1),
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
    monkeypatch.setattr(Signs, "of", lambda _: CASES["low rate"][1])
    assert len(triage_of(run).suspects) == 1
    kept(run, {"go on": [0.5, 0.51, 0.52], "rate 2x": list(ends)}, step=20)
    found = triage_of(run)
    assert found.claims[0].claim is headline and len(found.suspects) == suspects
    assert ("fork" in found.claims[0].numbers) is (headline is Claim.RATE_LOW)


def test_what_a_claim_accounts_for_is_no_suspect() -> None:
    weak = CASES["low rate"][1]
    tight = replace(weak, single={**weak.single, "clipped": constant(0.1)})
    found = triage_of(tight)
    assert [each.claim for each in found.claims] == [Claim.CLIP_SMALL]
    assert not found.suspects


def test_a_claim_about_the_length_is_enough_about_the_way() -> None:
    """Of a training that was stopped early, the way is short."""
    weak = CASES["low rate"][1]
    assert [each.claim for each in triage_of(weak).suspects] == [Claim.RATE_LOW]
    stopped = replace(weak, rates=CONSTANT, examples=7000)
    found = triage_of(stopped)
    assert Claim.STOPPED_EARLY in {each.claim for each in found.claims}
    assert not found.suspects


def test_a_suspect_is_a_finding_to_look_at_with_its_cure() -> None:
    headline, suspect = findings_of(triage_of(CASES["low rate"][1]))
    assert headline.state is State.OK and suspect.state is State.LOOK
    assert suspect.cure == ("rate 2x",)
    assert say(suspect).seen.startswith("This may be: the learning rate is too low: in 400 steps")
    assert say(suspect).beginning == "This may be: the learning rate is too low"


def test_the_page_asks_for_a_suspect_after_the_headline() -> None:
    findings = findings_of(triage_of(CASES["low rate"][1]))
    cards = further_cards([Answer(each, {}, None) for each in findings])
    shown = rows(Diagnosis(findings, {}, {}), (), (), cards)
    assert [card.title for card in shown] == ["What limits this run?", "What may limit it?"]
