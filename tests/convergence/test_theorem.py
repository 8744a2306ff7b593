"""The theorem's conditions: formulas with a proof, none decided wrongly, and every schedule of the
library decided."""

import math
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gradiometer import BadArgument
from gradiometer.convergence.formulas.asymptotics import exponential, logarithm
from gradiometer.convergence.schedules import Schedule
from gradiometer.convergence.theorem import theorem
from known_series import BEYOND, FINITE, FROM_THE_ALGEBRA, PROVEN, Truth, conditions


@pytest.mark.parametrize(("text", "truth", "proof"), PROVEN)
def test_a_formula_is_decided_as_proven(text: str, truth: Truth, proof: str) -> None:
    verdict = theorem(text)
    for answer, right in zip(conditions(verdict), truth, strict=True):
        assert answer == right, f"{proof}: {verdict.why}"
    assert verdict.theorem is all(truth)


@pytest.mark.parametrize(("text", "truth", "proof"), FROM_THE_ALGEBRA)
def test_every_schedule_of_the_algebra_is_decided_as_proven(
    text: str, truth: Truth, proof: str
) -> None:
    verdict = theorem(text)
    assert conditions(verdict) == truth, f"{proof}: {verdict.why}"
    assert verdict.theorem is all(truth)


@pytest.mark.parametrize(("text", "truth"), BEYOND)
def test_a_hard_formula_is_decided_correctly_or_left_undecided(text: str, truth: Truth) -> None:
    for answer, right in zip(conditions(theorem(text)), truth, strict=True):
        assert answer in (right, None)


KNOWN = tomllib.loads(Path(__file__).with_name("known_formulas.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KNOWN)
def test_a_formula_with_a_known_answer_is_never_decided_wrongly(kind: str) -> None:
    for text, letters in KNOWN[kind].items():
        verdict = theorem(text)
        answers = (verdict.sum_diverges, verdict.sum_of_squares_converges, verdict.limit_zero)
        for answer, letter in zip(answers, letters, strict=True):
            assert answer in (letter == "y", None), f"{text}: {verdict.why}"


# What no rule decides: means of oscillations, a remainder of a rounded root, powers of two.
UNDECIDED = {
    "10**(-log10(t)/2)",
    "abs(sin(t))/t",
    "(1+sin(t))/t",
    "sin(t)**2/t",
    "1/t+sin(t)/t",
    "t**(-0.75+0.1*sin(t))",
    "t**(-0.3+0.1*cos(t))",
    "(sin(t)**2+cos(t)**2)/t",
    "1/sqrt(t) if int(sqrt(t))**2==t else 0",
    "0.1 if floor(sqrt(t))**2==t else 1/t",
    "1/t if log2(t)%1==0 else 0",
    "1/t if floor(sqrt(t))%2==0 else 0",
}


@pytest.mark.parametrize("kind", KNOWN)
def test_the_other_formulas_are_decided(kind: str) -> None:
    undecided = {text for text in KNOWN[kind] if None in conditions(theorem(text))}
    assert undecided <= UNDECIDED


def test_multiples_of_pi_are_told_from_numbers_near_to_them() -> None:
    # cos(22/7 t) has no period: it comes close to −1 again and again.
    assert theorem("(1 + cos(22/7*t))/t**0.5").sum_diverges is None
    assert theorem("(1 + cos(pi*t/3))/t**0.5").sum_diverges is True
    assert theorem("abs(sin(pi*t))").limit_zero is True
    assert theorem("abs(sin(3.1416*t))").limit_zero is None


def test_a_choice_between_a_positive_and_a_negative_class_has_no_sum() -> None:
    assert theorem("1/t if t % 2 == 0 else -1/t").sum_diverges is None
    assert theorem("1/t if t % 2 == 0 else -1/t**2").sum_diverges is True


def test_a_stretched_exponential_is_named() -> None:
    assert "falls as exp(−1 t^0.5)" in theorem("exp(-sqrt(t))").why
    assert "falls as t^-1 exp(−1 (log t)^0.5)" in theorem("exp(-sqrt(log(t)))/t").why


def test_a_user_defined_schedule_is_decided_by_its_formula() -> None:
    class Mine(Schedule):
        def formula(self, step: Any) -> Any:
            return (
                0.1
                if step < 10
                else 1 / (step + 3) ** 0.75 + exponential(-step) / logarithm(step + 3)
            )

    class Opaque(Schedule):
        def formula(self, step: Any) -> Any:
            return 1 / math.sqrt(step + 1)

    try:
        assert theorem(Mine()).theorem is True
        assert theorem(Opaque()).theorem is None
    finally:
        del Schedule.kinds["Mine"], Schedule.kinds["Opaque"]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("-1/t", 1),
        ("(t-5)/t**2", 1),
        ("sin(t)/t", 4),
        ("1/t - 0.01", 101),
        ("0.1*cos(pi*t)", 1),
        ("t//7 - 1", 1),
    ],
)
def test_a_negative_rate_is_named_and_the_theorem_does_not_apply(text: str, first: int) -> None:
    verdict = theorem(text)
    assert verdict.theorem is False
    assert f"negative at t = {first}," in verdict.why


def test_a_rate_below_zero_that_the_algebra_does_not_decide_leaves_the_theorem_open() -> None:
    verdict = theorem("1/(t - 2 + (log(t + 1) - log(t + 1)))")  # -1 at t = 1
    assert verdict.theorem is None
    assert "it is undecided whether it is negative at t = 1" in verdict.why


def test_rounding_below_zero_is_not_called_negative() -> None:
    for text in (
        "1/t - 1/(t+1) - 1/(2*t*(t+1))",
        "(1+1e-9/t)**3 - 1",
        "3*(t/3) - t",
        "sqrt(t)**2 - t",
    ):
        assert "negative" not in theorem(text).why


def test_the_cosine_of_a_huge_angle_decides_nothing() -> None:
    """cos(10³⁰) has a sign, but not one that doubles can compute."""
    assert theorem("cos(1e30)/t").sum_diverges is None


def test_a_failed_condition_is_never_called_divergence() -> None:
    for text, truth, _ in PROVEN:
        if not all(truth):
            why = theorem(text).why if "exp(-exp" not in text else ""
            assert "diverge" not in why
            assert not why or "sufficient, not necessary" in why


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("...", "is not a number"),
        ("cos(t//7)*0.5 + ...", "is not a number"),
        ("(1/t)**0.5j", "is not a number"),
        (" * ".join(["Constant(0.1)"] * 400), "nested more than 60 deep"),
        ("Constant(0.1)" + ".warmed_up(1)" * 80, "nested more than 60 deep"),
        ("Constant(0.1)" + " " * 20_000, "at most 20,000 characters"),
    ],
)
def test_a_text_that_is_no_schedule_or_too_deep_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadArgument, match=re.escape(words)):
        theorem(text)


def test_a_whole_factor_is_not_raised_to_a_number_of_many_digits() -> None:
    assert theorem("StepDecay(10, every=1, factor=0)").limit_zero
    with pytest.raises(BadArgument, match="must be finite"):
        Schedule.parse("StepDecay(10, every=1, factor=1000)")(10**9)


def test_an_undefined_first_step_is_named_and_later_steps_are_judged() -> None:
    verdict = theorem("1/(t*log(t)**2)")
    assert conditions(verdict) == FINITE
    assert "undefined at t = 1 (division by zero): the verdict is about later steps" in verdict.why


def test_a_constant_whose_square_leaves_the_range_of_doubles_is_compared_by_its_order() -> None:
    verdict = theorem("max(7, 1e300) - pi")
    assert verdict.limit_zero is False and verdict.sum_of_squares_converges is False
    assert verdict.theorem is False
