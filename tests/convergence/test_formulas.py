"""Formulas in t: their grammar, and their values in doubles."""

from fractions import Fraction

import pytest

from gradiometer import BadArgument
from gradiometer.convergence.formulas.expression import formula_in
from gradiometer.convergence.formulas.number import Undecided, plus
from gradiometer.convergence.theorem import theorem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1/x", "unknown name x. The grammar"),
        ("sine(t)", "unknown name sine. Did you mean sin? The grammar is"),
        ("sqrt(t", "is not a formula"),
        ("", "is not a formula"),
        ("t.real", "t.real is not part of a formula"),
        ("__import__('os').system('true')", "is not part of a formula"),
        ("(lambda: 1)()", "is not part of a formula"),
        ("t[0]", "is not part of a formula"),
        ("[t for t in (1,)]", "is not part of a formula"),
        ("'t'", "is not a number"),
        ("True", "is not a number"),
        ("1j*t", "is not a number"),
        ("1/t^2", "a power is written **"),
        ("log(t, 2)", "log takes one number"),
        ("max(t)", "max takes two numbers or more"),
        ("9**9**9", "9 ** 9 ** 9 is too large for a double"),
        ("9**9**9/t", "9 ** 9 ** 9 is too large for a double"),
        ("1e999/t", "too large for a double"),
        ("1/0", "has no value"),
        ("1/(t%2)", "undefined at t = 2 (division by zero)"),
        ("sqrt(-t)", "undefined at t = 1"),
        ("(-2)**(t/2)", "undefined at t = 1"),
        ("-" * 100 + "t", "nested more than"),
        ("1/t+" * 400 + "1/t", "at most 1000 characters"),
    ],
)
def test_an_invalid_formula_raises_and_names_the_problem(text: str, message: str) -> None:
    with pytest.raises(BadArgument) as refusal:
        theorem(text)
    assert message in str(refusal.value)


def test_a_formula_is_evaluated_in_doubles_with_whole_steps() -> None:
    assert formula_in("1/t**2")(2**1000) == 0.0
    assert formula_in("t % 7")(2**1000) == (2**1000) % 7
    assert formula_in("3 if t > 2 else log2(t)")(2) == 1.0


def test_constants_that_cancel_to_rounding_decide_nothing() -> None:
    assert plus(Fraction(1, 10), Fraction(2, 10)) == Fraction(3, 10)
    with pytest.raises(Undecided, match="cancel to rounding"):
        plus(2.0**0.5 * 2.0**0.5, Fraction(-2))
    # Two bases so close to 1 that a double of one of them is 1.
    assert theorem("(1 + 1e-18)**t * (1 - 1e-18)**t").theorem is None
    assert theorem("(1 + 1e-18)**-t").sum_diverges is False


def test_a_maximum_of_nearly_equal_terms_is_decided_by_their_difference() -> None:
    """√(t+1) − √t falls as 1/(2√t), though both terms have the same leading term."""
    verdict = theorem("max(sqrt(t+1), sqrt(t)) - sqrt(t)")
    assert verdict.limit_zero and verdict.sum_diverges
    assert verdict.sum_of_squares_converges is False
