"""What a claim of triage pastes: a change of the rate is the rate itself, if one rate is known."""

import math
from dataclasses import replace

import pytest

from gradiometer.measurement.finding import State
from gradiometer.measurement.optimizer.groups import Group
from gradiometer.measurement.optimizer.hyperparameters import Hyperparameters
from gradiometer.verdict import say
from gradiometer.verdict.claims import Claim, Claimed, Code, InWords, Sign
from gradiometer.verdict.triage.level import Known, Level
from gradiometer.verdict.triage.triage import Triage, findings_of
from gradiometer.verdict.words.say import in_brief
from gradiometer.verdict.words.triage import BY_SIGN, WORDS

LOW = Claimed(Claim.RATE_LOW, {"share": 0.04, "steps": 500.0}, ("rate 16x",))


def advice(*groups: tuple[Group, ...]) -> str:
    settings = (
        Hyperparameters(tuple(range(0, 10 * len(groups), 10)), groups, reached=500)
        if groups
        else None
    )
    (finding,) = findings_of(Triage((LOW,), Level(2.3, Known.LABELS), unseen={}), settings)
    assert finding.cure == ("rate 16x",)
    return say(finding).advice


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ((), "`rate 16x`"),
        (((Group("SGD", "sgd", 0.01),),), "`lr = 0.16`, 16 times the present rate"),
        (((Group("SGD", "sgd", 0.01), Group("SGD", "sgd", 0.1)),), "`rate 16x`"),
        (
            ((Group("SGD", "sgd", 0.01),), (Group("SGD", "sgd", 0.001),)),
            "`lr = 0.16` as the peak of the schedule, 16 times the present rate",
        ),
    ],
    ids=["unknown", "constant", "two groups", "scheduled"],
)
def test_a_change_of_the_rate_is_pasted_as_the_rate(
    groups: tuple[tuple[Group, ...], ...], expected: str
) -> None:
    assert advice(*groups) == expected


def test_the_second_sentence_has_its_numbers_too() -> None:
    claimed = Claimed(Claim.ACCUMULATION, {"backwards": 4.0}, (Code("(loss / 4).backward()"),))
    (finding,) = findings_of(Triage((claimed,), Level(2.3, Known.LABELS), unseen={}))
    assert (
        say(finding).means
        == "The gradient, and under SGD the learning rate, is 4 times larger than for the mean loss."
    )


def test_a_training_that_may_end_lower_is_not_said_to_be_checked_for_what_is_in_doubt() -> None:
    claimed = Claimed(Claim.UNDECIDED, {"steps": 500.0}, doubts=("decay_not_tried",))
    (finding,) = findings_of(Triage((claimed,), Level(2.3, Known.LABELS), unseen={}))
    said = say(finding)
    assert said.seen == "No clear problem in 500 steps, but a learning-rate decay may do better."
    assert said.means == "Checked: the loop and the data." and "`cool now`" in said.caveat
    assert finding.state is State.LOOK and said.paste == ("cool now",)
    assert in_brief(finding) == "may end lower"
    assert in_brief(replace(finding, doubts=())) == "cannot tell yet"


def test_a_sentence_whose_numbers_are_unknown_ends_after_its_first_clause() -> None:
    claimed = Claimed(Claim.RATE_HIGH, {"movement": math.nan, "growth": math.nan}, ("rate 0.25x",))
    (finding,) = findings_of(Triage((claimed,), Level(2.3, Known.LABELS), unseen={}))
    assert say(finding).seen == "The learning rate is too high."


def test_at_the_keyboard_the_rate_is_a_flag() -> None:
    settings = Hyperparameters((0,), ((Group("SGD", "sgd", 0.01),),), reached=500)
    triage = Triage((LOW,), Level(2.3, Known.LABELS), unseen={})
    (finding,) = findings_of(triage, settings, at_keyboard=True)
    assert say(finding).advice == "`--lr 0.16`, 16 times the present rate"


@pytest.mark.parametrize(
    ("at_keyboard", "paste"),
    [(True, "--batch-size 32 --lr 0.0283"), (False, "batch_size = 32; lr = 2.8 * lr")],
)
def test_a_larger_batch_is_pasted_with_the_updates_that_it_needs(
    at_keyboard: bool, paste: str
) -> None:
    settings = Hyperparameters((0,), ((Group("SGD", "sgd", 0.01),),), reached=500)
    claimed = Claimed(
        Claim.BATCH_SMALL,
        {"batch": 4.0, "shared": -0.1},
        (Code("batch_size = 32; lr = 2.8 * lr"),),
        sign=Sign.NOTHING_SHARED,
    )
    triage = Triage((claimed,), Level(2.3, Known.LABELS), unseen={})
    (finding,) = findings_of(triage, settings, at_keyboard=at_keyboard)
    assert say(finding).advice == f"`{paste}`, with as many updates as now"


@pytest.mark.parametrize(
    ("cure", "expected"),
    [
        (
            (InWords("check the labels of the training set"),),
            "check the labels of the training set",
        ),
        (
            (InWords("remove `detach()`"), Code("optimizer.zero_grad()")),
            "remove `detach()` or `optimizer.zero_grad()`",
        ),
        (("skip 340:341",), "`skip 340:341`"),
        ((Code("(loss / 4).backward()"),), "`(loss / 4).backward()`"),
        ((Code("inputs = inputs / 255"),), "`inputs = inputs / 255`"),
    ],
)
def test_only_code_is_to_be_pasted(cure: tuple[str, ...], expected: str) -> None:
    claimed = Claimed(Claim.NAN_EXAMPLE, {}, cure)
    (finding,) = findings_of(Triage((claimed,), Level(2.3, Known.LABELS), unseen={}))
    assert say(finding).advice == expected


@pytest.mark.parametrize(("size", "words"), [(1.0, "1 example share"), (4.0, "4 examples share")])
def test_one_example_is_no_plural(size: float, words: str) -> None:
    small = Claimed(Claim.BATCH_SMALL, {"batch": size, "shared": 0.016}, (Code("batch_size = 8"),))
    (finding,) = findings_of(Triage((small,), Level(2.3, Known.LABELS), unseen={}), None)
    assert words in say(finding).seen


def test_a_healthy_training_says_how_large_a_fault_it_could_miss() -> None:
    claimed = Claimed(Claim.HEALTHY, {"travel": 0.5, "loss": 0.1})
    (finding,) = findings_of(Triage((claimed,), Level(2.3, Known.LABELS), unseen={}))
    assert finding.state is State.OK and "19 % [11, 30]" in say(finding).means


def test_what_is_wrong_is_said_in_eight_words() -> None:
    quiet = (Claim.HEALTHY, Claim.UNDECIDED)
    every = {**{claim: words for claim, words in WORDS.items() if claim not in quiet}, **BY_SIGN}
    leads = [words.seen.partition(": ")[0].removesuffix(".") for words in every.values()]
    assert [lead for lead in leads if len(lead.split()) > 8] == []
