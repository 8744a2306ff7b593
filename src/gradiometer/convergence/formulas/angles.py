"""Angles that are rational polynomials in t, and their cosines."""

import math
from fractions import Fraction

from gradiometer.convergence.formulas.bounds import UNIT, Bounds
from gradiometer.convergence.formulas.expansion import CONSTANT, TIME, Expansion
from gradiometer.convergence.formulas.number import PI, ROUNDING, Number, Undecided

POLYNOMIAL = [TIME.power(Number(Fraction(power))) for power in range(1, 9)]
"""The monomials of a polynomial in t."""
PI_NUMBER = Number(Fraction(1), ((PI, 1),))


def polynomial_of(branch: Bounds) -> list[Fraction] | None:
    """The coefficients, that of t⁰ first, if the branch is exactly a rational polynomial in t, else
    None."""
    value = branch.precise
    if value is None or value.rest is not None:
        return None
    powers = {monomial: coefficient.rational for coefficient, monomial in value.terms}
    found = [powers.pop(monomial, Fraction(0)) for monomial in (CONSTANT, *POLYNOMIAL)]
    known = [each for each in found if each is not None]
    return known if not powers and len(known) == len(found) else None


def cosine_of_half_turns(halves: Fraction) -> Number:
    """cos(π x): exact if it is rational, by Niven's theorem only at multiples of π/3 and π/2."""
    x = halves % 2
    x = min(x, 2 - x)
    exact = {0: "1", Fraction(1, 3): "1/2", Fraction(1, 2): "0", Fraction(2, 3): "-1/2", 1: "-1"}
    return (
        Number(Fraction(exact[x])) if x in exact else Number.rounded(math.cos(math.pi * float(x)))
    )


def cosine_of_turns(turns: Bounds) -> Bounds:
    """cos(π u) for a u that is not a rational polynomial in t: known for a constant, else between
    −1 and 1."""
    constant = None if turns.precise is None else turns.precise.as_constant
    if constant is None:
        return Bounds(-UNIT, UNIT)
    value = math.cos(math.pi * float(constant))
    # 1e6: half turns of the largest angle whose rounded cosine is trusted.
    if not abs(float(constant)) < 1e6 or not abs(value) > ROUNDING:
        raise Undecided("a cosine is zero up to rounding, or of too large an angle")
    return Bounds.exactly(Expansion.constant(Number.rounded(value)))
