"""Cosines and remainders of angles for large t: what is known of how they are spread."""

import math
from fractions import Fraction

from gradiometer.convergence.formulas.bounds import UNIT, Bounds, Share, bounded_limit
from gradiometer.convergence.formulas.expansion import CONSTANT, TERMS, TIME, Expansion
from gradiometer.convergence.formulas.number import PI, ROUNDING, Number, Undecided

POLYNOMIAL = [TIME.power(Number(Fraction(power))) for power in range(1, 9)]
"""The monomials of a polynomial in t whose angles are known to be spread evenly."""
LOG = TIME.logarithm().terms[0][1]
"""The monomial log t."""
LARGEST_ANGLE = 1e6
"""Half turns of the largest angle whose rounded cosine is trusted."""
PI_NUMBER = Number(Fraction(1), ((PI, 1),))


def polynomial_of(branch: Bounds) -> list[Fraction] | None:
    """The coefficients, that of t⁰ first, if the branch is exactly a rational polynomial in t, else None."""
    value = branch.precise
    if value is None or value.rest is not None:
        return None
    powers = {monomial: coefficient.rational for coefficient, monomial in value.terms}
    found = [powers.pop(monomial, Fraction(0)) for monomial in (CONSTANT, *POLYNOMIAL)]
    known = [each for each in found if each is not None]
    return known if not powers and len(known) == len(found) else None


def sweeps(value: Expansion) -> bool:
    """True if f modulo 1 is in every interval at a positive share of the steps of every block from t to c·t.

    That holds if f grows slower than t, and at least as fast as log t. Its derivative is monotone and falls to zero
    (Hardy 1910). If f outgrows log t, f is uniformly distributed modulo 1 (Fejér); if not, it passes through all values
    between t and c·t for some c, and the share of the steps at a value is small only if the interval is.

    Source: Kuipers & Niederreiter (1974), Uniform Distribution of Sequences, theorem 2.5.
    """
    if not value.terms or (value.rest is not None and value.rest.direction >= 0):
        return False
    monomial = value.terms[0][1]
    return monomial.compared(TIME) < 0 <= monomial.compared(LOG)


def cosine_of_half_turns(halves: Fraction) -> Number:
    """cos(π x): exact if it is rational, by Niven's theorem only at multiples of π/3 and π/2."""
    x = halves % 2
    x = min(x, 2 - x)
    exact = {0: "1", Fraction(1, 3): "1/2", Fraction(1, 2): "0", Fraction(2, 3): "-1/2", 1: "-1"}
    return Number(Fraction(exact[x])) if x in exact else Number.rounded(math.cos(math.pi * float(x)))


def cosine_of_turns(turns: Bounds) -> Bounds:
    """cos(π u) for a u that is not a rational polynomial in t."""
    anywhere = Bounds(-UNIT, UNIT)
    value = turns.precise
    if value is None or (value.rest is not None and value.rest.direction >= 0):
        return anywhere
    limit = bounded_limit(value)
    if limit is not None:  # Taylor's series around the limit: the n-th derivative of cos x is cos(x + nπ/2)
        vanishing = Expansion(tuple(term for term in value.terms if term[1] != CONSTANT), value.rest)
        coefficients = [
            _cosine_of_constant(limit + Number(Fraction(n, 2))) * Number(Fraction(1, math.factorial(n)))
            for n in range(TERMS)
        ]
        return Bounds.exactly((vanishing * Expansion.constant(PI_NUMBER)).series(coefficients))
    share = Share(CONSTANT)
    spread = Bounds(-UNIT, UNIT, share, share, diffuse=True)
    if sweeps(value):
        return spread
    powers = {monomial: coefficient for coefficient, monomial in value.terms if monomial != CONSTANT}
    polynomial = all(monomial in POLYNOMIAL for monomial in powers) and value.rest is None
    known = all(each.rational is not None or each.atoms == ((PI, -1),) for each in powers.values())
    if not (polynomial and known and any(each.rational is None for each in powers.values())):
        return anywhere
    # A coefficient is rational in radians, and π is irrational, so the angles of the polynomial are spread evenly
    # (Weyl 1916), in every long block (Lawton 1959).
    return spread


def _cosine_of_constant(turns: Number) -> Number:
    if turns.rational is not None:
        return cosine_of_half_turns(turns.rational)
    value = math.cos(math.pi * float(turns))
    if not abs(float(turns)) < LARGEST_ANGLE or not abs(value) > ROUNDING:
        raise Undecided("a cosine is zero up to rounding, or of too large an angle")
    return Number.rounded(value)
