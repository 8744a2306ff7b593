"""The rules of triage, on made-up records just below and just above every threshold."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradiometer.loop import alternative_of
from gradiometer.measurement.finding import Evidence
from gradiometer.verdict.claims import Claim
from gradiometer.verdict.triage import thresholds as limits
from gradiometer.verdict.triage.course import late_fall
from gradiometer.verdict.triage.level import Known, level_of
from gradiometer.verdict.triage.signs import Signs, are_one_batch
from gradiometer.verdict.triage.triage import ORDER, changes_of, findings_of, triage_of
from gradiometer.verdict.words.say import say
from gradiometer.verdict.words.triage import WORDS
from made_up_signs import (
    LOOKS,
    STEPS,
    claims,
    constant,
    evaluations,
    falling,
    healthy,
    jumping,
    moved,
    reaching,
    slow_start,
    striding,
    tensors,
)
from triage_cases import CASES, CONSTANT, FLAT


def test_a_healthy_record_is_healthy() -> None:
    found = triage_of(healthy())
    assert [each.claim for each in found.claims] == [Claim.HEALTHY] and found.passes
    assert found.level.known_by is Known.LABELS and found.unseen == {}


@pytest.mark.parametrize(
    ("claim", "sick", "well"),
    [(claim, *pair) for claim, pairs in CASES.items() for pair in pairs],
    ids=[f"{claim}-{place}" for claim, pairs in CASES.items() for place in range(len(pairs))],
)
def test_a_claim_is_made_just_above_its_threshold_and_not_just_below(
    claim: Claim, sick: dict[str, Any], well: dict[str, Any]
) -> None:
    assert claim in claims(healthy(**dict(sick)))
    assert claim not in claims(healthy(**dict(well)))


def test_every_rule_has_a_case() -> None:
    # one rule makes two claims, of the rate and of the rate with momentum, and one claim is made
    # where no rule made any
    assert len(CASES) == len(ORDER) + 2


def test_every_claim_has_words() -> None:
    assert set(WORDS) == set(Claim)


# Their cure is no line of code: there is nothing to paste.
CURED_IN_WORDS = {
    Claim.NO_GRADIENT,
    Claim.SOFTMAX_TWICE,
    Claim.RATE_BURST,
    Claim.SCHEDULE_UNIT,
    Claim.STOPPED_EARLY,
    Claim.LEAK,
    Claim.NOTHING_LEARNT,
    Claim.LABELS_RANDOM,
    Claim.LABELS_NOISY,
}


@pytest.mark.parametrize("claim", CASES)
def test_every_claim_can_be_said(claim: Claim) -> None:
    found = triage_of(healthy(**dict(CASES[claim][0][0])))
    said = {finding.claim: finding for finding in findings_of(found)}
    sentences = say(said[claim.value])
    assert (
        "{" not in sentences.seen
        and "unknown" not in sentences.seen
        and sentences.seen.endswith(".")
    )
    assert sentences.advice
    assert sentences.advice.startswith("`") == (claim not in CURED_IN_WORDS)


def test_nothing_is_said_about_the_end_before_it() -> None:
    found = triage_of(healthy(movement=reaching(5), has_ended=False))
    assert [each.claim for each in found.claims] == [Claim.UNDECIDED]
    assert Claim.RATE_LOW in found.unseen["end"]


def test_a_flat_loss_of_a_training_that_goes_on_may_stop() -> None:
    flat = np.concatenate([falling()[:100], falling(steps=700)[-300:]])
    # its test loss still falls
    assert claims(healthy(losses=flat, has_ended=False)) == {Claim.UNDECIDED}
    assert claims(healthy(losses=flat, has_ended=False, **evaluations([0.25] * 10, 0.23))) == {
        Claim.MAY_STOP
    }
    assert claims(healthy(losses=falling(0.95), has_ended=False, test=np.full(10, np.nan))) == {
        Claim.UNDECIDED
    }


def test_a_loss_far_above_its_start_says_nothing_of_what_was_learnt() -> None:
    """As that of a generator, whose opponent learns: it is neither healthy nor at a guess."""
    player = healthy(
        losses=np.linspace(0.66, 3.7, STEPS),
        single={},
        test=np.full(10, np.nan),
    )
    found = triage_of(player)
    assert found.level.known_by is Known.START
    assert [each.claim for each in found.claims] == [Claim.UNDECIDED]


def test_a_loss_at_a_guess_that_still_falls_is_not_said_to_learn_nothing() -> None:
    """As that of a language model, which first comes down to the entropy of the words."""
    labels = {"test": np.full(10, np.nan), "train": np.full(10, np.nan)}
    falls = np.linspace(1.6, 1.0, STEPS) * healthy().losses[0]
    assert Claim.NOTHING_LEARNT not in claims(healthy(losses=falls, **labels))
    stays = np.full(STEPS, healthy().losses[0])
    assert Claim.NOTHING_LEARNT in claims(healthy(losses=stays, **labels))


def test_nothing_is_healthy_where_no_movement_was_seen() -> None:
    """As under LBFGS, whose closure makes several backwards in one update."""
    found = triage_of(healthy(movement=moved(float("nan"))))
    assert [each.claim for each in found.claims] == [Claim.UNDECIDED]
    assert Claim.RATE_LOW in found.unseen["looks"]


def test_zeros_in_a_recurrent_layer_are_no_dead_units() -> None:
    dead = dict(CASES[Claim.DEAD_RELU][0][0])
    assert Claim.DEAD_RELU in claims(healthy(**dead))
    layers = {"layers": ["LSTM", "Linear", "LSTM"]}
    assert Claim.DEAD_RELU not in claims(healthy(**dict(dead) | {"facts": layers}))


def test_two_illnesses_are_two_claims() -> None:
    both = healthy(input_std=constant(50.0), facts={"dropout": 0.9})
    assert claims(both) == {Claim.UNSCALED, Claim.DROPOUT}


def test_a_symptom_is_no_second_claim() -> None:
    assert claims(healthy(clipped=constant(0.001), movement=moved(0.1 / STEPS))) == {
        Claim.CLIP_SMALL
    }


@pytest.mark.parametrize("backwards", [1, 4])
def test_without_labels_the_verdict_says_that_undivided_micro_batches_are_unseen(
    backwards: int,
) -> None:
    found = triage_of(
        Signs(losses=falling(), looks=LOOKS, single={"backwards": constant(backwards)})
    )
    assert (Claim.ACCUMULATION in found.unseen["labels"]) is (backwards > 1)


def test_what_is_easily_confused_names_the_other() -> None:
    signs = healthy(rates=CONSTANT, losses=FLAT, movement=striding(0.2))
    (claimed,) = triage_of(signs).claims
    assert claimed.claim is Claim.NO_DECAY and claimed.doubts == ("stopped_early",)


def test_a_scaler_that_was_not_given_is_no_clipping() -> None:
    assert claims(healthy(clipped=constant(2.0**-16))) == {Claim.HEALTHY}


def test_a_record_of_losses_alone_says_what_it_cannot_see() -> None:
    found = triage_of(Signs(losses=falling()))
    assert found.claims[0].claim is Claim.UNDECIDED
    assert set(found.unseen) == {"labels", "batch", "evaluations", "examples", "rate", "looks"}
    sentence = say(findings_of(found)[0]).means
    assert (
        "Could not be seen without the outputs and labels of a batch: outputs start too large, "
        "softmax applied twice, unshuffled data; without"
    ) in sentence
    assert (
        "without `w.evaluated(test=..., train=...)`: the model overfits, random labels, "
        "noisy labels, test data in training"
    ) in sentence


def test_thresholds_have_the_measurement_that_chose_them() -> None:
    """A comment above each named amount says why."""
    lines = Path(limits.__file__).read_text(encoding="utf-8").splitlines()
    named = [place for place, line in enumerate(lines) if line[:1].isupper() and " = " in line]
    assert named and all(lines[place - 1].startswith("# ") for place in named)


@pytest.mark.parametrize("claim", CASES)
def test_cures_that_are_changes_can_be_pasted(claim: Claim) -> None:
    for claimed in triage_of(healthy(**dict(CASES[claim][0][0]))).claims:
        for change in changes_of(claimed):
            assert alternative_of(change)


# What is counted or seen. All other claims of readings are inferred.
COUNTED = {
    Claim.NO_GRADIENT,
    Claim.SOFTMAX_TWICE,
    Claim.EVAL_MODE,
    Claim.ZERO_GRAD,
    Claim.ACCUMULATION,
    Claim.DROPOUT,
    Claim.NAN_EXAMPLE,
    Claim.CLIP_SMALL,
    Claim.SCHEDULE_UNIT,
    Claim.DECAY_EARLY,
    Claim.RATE_BURST,
    Claim.LEAK,
}


@pytest.mark.parametrize("claim", CASES)
def test_what_is_counted_is_exact_and_what_is_inferred_is_a_reading(claim: Claim) -> None:
    for claimed in triage_of(healthy(**dict(CASES[claim][0][0]))).claims:
        is_exact = claimed.evidence is Evidence.EXACT
        assert is_exact == (claimed.claim in COUNTED)


def test_a_rate_has_a_cure_that_a_fork_can_try() -> None:
    claims_with_changes = {
        Claim.RATE_LOW,
        Claim.RATE_HIGH,
        Claim.MOMENTUM_RATE,
        Claim.NO_DECAY,
    }
    for claim in claims_with_changes:
        found = triage_of(healthy(**dict(CASES[claim][0][0]))).claims
        assert changes_of(next(each for each in found if each.claim is claim))


@pytest.mark.parametrize(
    ("variances", "is_sorted"),
    [
        ([0.6], True),
        ([0.73], False),
        # of targets with a heavy tail most batches vary less than all of them, and some far more
        ([0.4, 0.4, 0.4, 1.6], False),
    ],
)
def test_batches_of_numbers_vary_less_than_all_of_them_if_they_are_sorted(
    variances: list[float], is_sorted: bool
) -> None:
    made = healthy()
    single = {name: made.single[name] for name in made.single if not name.startswith("classes")}
    varied = np.resize(variances, len(LOOKS))
    numbers = single | {"batch_variance": varied, "target_variance": constant(1.0)}
    found = claims(replace(made, single=numbers))
    assert (Claim.UNSHUFFLED in found) is is_sorted


def test_what_is_learnt_once_the_rate_falls_does_not_show_that_it_was_too_high() -> None:
    """A network of dense convolutions was called so at its best rate, and lost 8 % at a quarter."""
    late = healthy(losses=slow_start(0.7, 220), movement=striding(0.21))
    assert Claim.RATE_HIGH not in claims(late)


def test_gradients_of_plain_sgd_that_oppose_each_other_do_not_show_that_a_decay_is_missing() -> (
    None
):
    """Of 29 such trainings at a good rate 12 gained less than 2 % by a decay, and lost up to 69 %."""
    plain = {"momentum": 0.0, "rates": CONSTANT, "movement": striding(130 / STEPS)}
    assert Claim.NO_DECAY not in claims(healthy(**plain, product=constant(-0.3)))


def test_a_way_that_is_short_alone_advises_twice_the_rate() -> None:
    """Twice the rate of a network of products gained 11 %, and eight times of it lost 14 %."""
    (claim,) = triage_of(healthy(movement=striding(4.8 / STEPS), losses=FLAT)).claims
    assert claim.claim is Claim.RATE_LOW and claim.cure == ("rate 2x",)


def test_zeros_at_the_end_of_a_schedule_are_no_burst() -> None:
    rates = np.linspace(0.1, 0, STEPS)
    assert rates[-1] == 0 and Claim.RATE_BURST not in claims(healthy(rates=rates))


def test_a_loss_that_crosses_zero_has_no_level_and_is_not_healthy() -> None:
    """The critic of a game was healthy, since its loss "came down to −70 % of a guess", and its
    generator stopped early, since the loss "still fell by 130 %"."""
    of_a_game = {"as_cross_entropy": constant(0.0), "label_entropy": constant(np.nan)}
    sinking = np.linspace(2.0, -1.5, STEPS)
    for losses in (sinking, -sinking, sinking - 3):
        signs = healthy(losses=losses, **of_a_game)
        (claim,) = triage_of(signs).claims
        assert claim.claim is Claim.UNDECIDED and claim.doubts == ("no_floor",)
        assert np.isnan(level_of(signs).value) and np.isnan(late_fall(signs)[0])
    noise = {"batch_size": 4, "product": constant(0.0)}
    assert claims(healthy(losses=sinking, **of_a_game, **noise)) == {Claim.BATCH_SMALL}


def test_a_loss_of_unknown_kind_that_jumps_has_no_level_and_is_not_unstable() -> None:
    """As that of a policy, which makes its own data: it was called unstable while it learnt, and a
    quarter of its rate halved its return."""
    labels = {"as_cross_entropy": constant(0.0), "label_entropy": constant(np.nan)}
    jumps = {"losses": jumping(0.6), "movement": striding(0.09), "rates": CONSTANT}
    assert claims(healthy(**jumps)) == {Claim.UNSTABLE}
    found = triage_of(healthy(**jumps, **labels))
    (claim,) = found.claims
    assert claim.claim is Claim.UNDECIDED and claim.doubts == ("no_level",)
    assert np.isnan(found.level.value)
    few = {**jumps, "movement": striding(4 / STEPS), **labels}
    assert Claim.RATE_LOW not in claims(healthy(**few))
    assert Claim.RATE_LOW in claims(healthy(**few | {"losses": falling(0.3)}))


def test_nothing_is_healthy_whose_examples_were_seen_again_and_no_others() -> None:
    unseen = {"test": np.full(10, np.nan), "train": np.full(10, np.nan)}
    (claim,) = triage_of(healthy(examples=3200, **unseen)).claims
    assert claim.claim is Claim.UNDECIDED and claim.doubts == ("not_evaluated",)
    assert claims(healthy(examples=3200)) == {Claim.HEALTHY}
    assert claims(healthy(examples=32 * STEPS, **unseen)) == {Claim.HEALTHY}


def test_a_small_batch_leads_over_a_rate_that_its_cure_raises() -> None:
    small = {"batch_size": 4, "product": constant(0.0)}
    assert claims(healthy(**small, movement=reaching(2.1))) == {Claim.BATCH_SMALL}
    far = claims(healthy(**small, movement=reaching(1.9)))
    assert far == {Claim.RATE_LOW, Claim.BATCH_SMALL}


@pytest.mark.parametrize(
    ("batch_size", "ends", "is_certain"), [(4, 0.3, True), (5, 0.3, False), (4, 0.04, False)]
)
def test_a_batch_that_is_rather_small_or_has_little_left_to_gain_is_a_suspect(
    batch_size: int, ends: float, is_certain: bool
) -> None:
    noise = {"batch_size": batch_size, "product": constant(0.0)}
    (claimed,) = triage_of(healthy(**noise, losses=falling(ends))).claims
    assert claimed.claim is Claim.BATCH_SMALL and claimed.is_certain is is_certain


@pytest.mark.parametrize(
    ("batch_size", "ends", "is_suspect"), [(4, 0.009, True), (4, 0.004, False), (5, 0.009, False)]
)
def test_of_a_tiny_batch_noise_leaves_something_to_gain_until_next_to_nothing_is_left(
    batch_size: int, ends: float, is_suspect: bool
) -> None:
    noise = {"batch_size": batch_size, "product": constant(0.0)}
    suspects = triage_of(healthy(**noise, losses=falling(ends))).suspects
    assert [each.claim for each in suspects] == [Claim.BATCH_SMALL] * is_suspect


@pytest.mark.parametrize(
    ("batch_size", "leads"), [(4, Claim.BATCH_SMALL), (5, Claim.RATE_LOW), (9, Claim.RATE_LOW)]
)
def test_a_rate_that_is_certainly_too_low_leads_over_a_batch_that_may_be_too_small(
    batch_size: int, leads: Claim
) -> None:
    noise = {"batch_size": batch_size, "product": constant(0.0)}
    low = healthy(**noise, losses=falling(0.6), movement=reaching(5))
    assert claims(low) == {leads}


@pytest.mark.parametrize(("weights", "vanishes"), [((0.5, 0.5), True), ((0.05, 6.5), False)])
def test_one_small_layer_among_others_is_no_vanishing_signal(
    weights: tuple[float, float], vanishes: bool
) -> None:
    """As in convolutions that ended higher with the usual start of that layer."""
    facts = {"rows": [64, 64, 64], "axes": [2, 2, 2]}
    signs = healthy(facts=facts, weights_at_start=tensors(*weights, 4.6))
    assert (Claim.VANISHING in claims(signs)) is vanishes


def test_steps_that_share_an_update_share_its_movement() -> None:
    alone, of_four = healthy(updates=LOOKS.astype(float)), healthy(updates=LOOKS // 4)
    assert alone.steps_an_update == healthy().steps_an_update == 1
    assert of_four.steps_an_update == 4
    assert of_four.reach == pytest.approx(alone.reach / 4)


def test_one_batch_is_known_from_four_looks_and_nan_is_none_of_them() -> None:
    unknown = float("nan")
    assert are_one_batch(np.array([1.0, 1.0, unknown, 1.0, 1.0]))
    assert not are_one_batch(np.array([1.0, 1.0, 1.0, unknown]))
    assert not are_one_batch(np.array([1.0, 1.0, 1.0, 1.0, 0.0]))


def test_dropout_of_one_half_leads_nothing_that_is_certain() -> None:
    half: dict[str, Any] = {"facts": {"dropout": 0.5}, **evaluations([0.35] * 10, 0.3)}
    assert triage_of(healthy(**half)).suspects[0].claim is Claim.DROPOUT
    beside = triage_of(healthy(**half, classes=constant(1), classes_expected=constant(9)))
    assert [each.claim for each in beside.claims] == [Claim.UNSHUFFLED]


def test_a_spike_that_undid_what_was_learnt_is_not_hidden_by_nothing_learnt() -> None:
    losses = np.concatenate([falling()[: STEPS // 2], np.full(STEPS - STEPS // 2, 9.0)])
    assert Claim.NOTHING_LEARNT not in claims(healthy(losses=losses))
    assert Claim.NOTHING_LEARNT in claims(healthy(losses=np.full(STEPS, 2.3)))


def test_a_test_loss_above_a_guess_is_not_healthy() -> None:
    level = triage_of(healthy()).level.value
    found = triage_of(healthy(**evaluations([1.2 * level] * 10, 0.2)))
    (claim,) = found.claims
    assert claim.claim is Claim.UNDECIDED
    assert claim.doubts == ("test_above_guess",)
    well = triage_of(healthy(**evaluations([0.4] * 10, 0.3)))
    assert well.claims[0].claim is Claim.HEALTHY


@pytest.mark.parametrize("sign", ["judge", "judged"])
def test_the_loss_of_a_game_is_not_judged(sign: str) -> None:
    at_a_guess = np.full(STEPS, 2.3)
    found = triage_of(healthy(losses=at_a_guess, **{sign: constant(1)}))
    assert found.claims[0].claim is Claim.UNDECIDED
    assert found.claims[0].doubts == (sign,)
