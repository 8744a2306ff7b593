"""Asymptotic expansions: a formula in t for large t, term by term, with a bound on the rest.

A monomial is exp(at) t^p (log t)^q (log log t)^r … The first power in which two of them differ
decides which one is larger (Bertrand's rule). So the scale is totally ordered and closed under
product, quotient and power.

Powers, exponentials and logarithms keep the leading term alone: a rate is a product of such terms,
and only a difference of two nearly equal ones, which nobody trains with, would need more.

Source: Hardy (1910), Orders of Infinity; Bertrand (1842), for the criterion of
`Monomial.sum_converges`.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key

from gradiometer.convergence.formulas.number import (
    Amount,
    Constant,
    Undecided,
    exact,
    logarithm,
    plus,
    power,
    sign,
    times,
)

ZERO = Fraction(0)

# Factors of a monomial: eᵗ, t and its iterated logarithms.
DEPTH = 6

# Terms of an expansion; the first dropped one bounds the rest.
TERMS = 4


@dataclass(frozen=True)
class Monomial:
    """exp(at) t^p (log t)^q …, by its powers (a, p, q, …)."""

    powers: tuple[Constant, ...] = (ZERO,) * DEPTH

    def __mul__(self, other: "Monomial") -> "Monomial":
        return Monomial(tuple(map(plus, self.powers, other.powers)))

    def power(self, exponent: Constant) -> "Monomial":
        """The monomial to a real power other than zero."""
        return Monomial(tuple(times(power, exponent) if power else ZERO for power in self.powers))

    @property
    def direction(self) -> int:
        """1 if it grows without bound, −1 if it goes to zero, 0 for the constant 1."""
        return self.compare(CONSTANT)

    def compare(self, other: "Monomial") -> int:
        """1 if it outgrows the other, −1 if the other outgrows it, 0 if they are equal."""
        for one, two in zip(self.powers, other.powers, strict=True):
            if one != two:
                return sign(plus(one, -two))
        return 0

    @property
    def sum_converges(self) -> bool:
        """True if Σ over t is finite: its powers are lexicographically below those of 1/(t log t
        log log t …)."""
        return self.compare(Monomial((ZERO,) + (Fraction(-1),) * (DEPTH - 1))) < 0

    def logarithm(self) -> "Expansion":
        """log of the monomial: at + p log t + q log log t …"""
        if self.powers[-1]:
            raise Undecided("a logarithm is nested too deeply")
        return Expansion.of(list(zip(self.powers, FACTORS[1:], strict=False)))


by_size = cmp_to_key(Monomial.compare)
CONSTANT = Monomial()

# eᵗ, t, log t, …
FACTORS = [
    Monomial(tuple(Fraction(int(level == place)) for place in range(DEPTH)))
    for level in range(DEPTH)
]
Term = tuple[Constant, Monomial]


@dataclass(frozen=True)
class Expansion:
    """Σ c_i m_i + O(rest) for large t, the largest term first.

    Args:
        terms: Coefficients other than zero, and their monomials in falling order.
        rest: The error is O(rest); None if the terms are exact.
    """

    terms: tuple[Term, ...] = ()
    rest: Monomial | None = None

    @classmethod
    def of(cls, terms: list[Term], *rests: Monomial | None) -> "Expansion":
        """From terms in any order: adds up equal monomials and drops those at or below the rest."""
        summed: dict[Monomial, Constant] = {}
        errors = [rest for rest in rests if rest is not None]
        for coefficient, monomial in terms:
            try:
                summed[monomial] = plus(summed.get(monomial, ZERO), coefficient)
            except Undecided:
                # The coefficients cancel to rounding, so the sum is known to be O(monomial) only.
                errors.append(monomial)
        kept = sorted((m for m, c in summed.items() if c), key=by_size, reverse=True)
        # The first dropped term bounds all that follow.
        errors += kept[TERMS : TERMS + 1]
        rest = max(errors, key=by_size, default=None)
        shown = [m for m in kept[:TERMS] if rest is None or m.compare(rest) > 0]
        return cls(tuple((summed[m], m) for m in shown), rest)

    @classmethod
    def constant(cls, value: Fraction | Amount) -> "Expansion":
        """A constant, exactly."""
        return cls.of([(exact(value), CONSTANT)])

    @property
    def leading(self) -> Term:
        """The largest term; raises Undecided if all terms have cancelled."""
        if not self.terms:
            raise Undecided("the leading terms cancel")
        return self.terms[0]

    @property
    def sign(self) -> int:
        """Its sign for all large t; 0 if it is exactly zero from some t on."""
        return 0 if self == Expansion() else sign(self.leading[0])

    @property
    def limit(self) -> Constant | None:
        """Its limit if it is finite, else None."""
        if self.rest is not None and self.rest.direction >= 0:
            return None
        if not self.terms or self.terms[0][1].direction < 0:
            return ZERO
        return self.terms[0][0] if self.terms[0][1] == CONSTANT else None

    @property
    def as_constant(self) -> Constant | None:
        """Its value if it is exactly a constant, else None."""
        alone = self.rest is None and all(m == CONSTANT for _, m in self.terms)
        return self.limit if alone else None

    def __neg__(self) -> "Expansion":
        return Expansion(tuple((-c, m) for c, m in self.terms), self.rest)

    def __add__(self, other: "Expansion") -> "Expansion":
        return Expansion.of([*self.terms, *other.terms], self.rest, other.rest)

    def __sub__(self, other: "Expansion") -> "Expansion":
        return self + -other

    def __mul__(self, other: "Expansion") -> "Expansion":
        products = [(times(c, d), m * n) for c, m in self.terms for d, n in other.terms]
        mine, theirs = self._size, other._size
        if mine is None or theirs is None:
            return Expansion()
        return Expansion.of(
            products,
            *(rest * size for rest, size in ((self.rest, theirs), (other.rest, mine)) if rest),
        )

    def power(self, exponent: Constant) -> "Expansion":
        """f^p, to leading order."""
        if not exponent:
            return Expansion.constant(1)
        if self == Expansion():
            if exponent < 0:
                raise ZeroDivisionError("division by zero")
            return self
        c, m = self.leading
        return _leading(power(c, exponent), m.power(exponent), self._relative_rest)

    def exp(self) -> "Expansion":
        """e^f, to leading order: growing terms become a monomial."""
        if self.rest is not None and self.rest.direction >= 0:
            raise Undecided("an exponent is known too coarsely")
        growing = {m: c for c, m in self.terms if m.direction > 0}
        if not set(growing) <= set(FACTORS[1:]):
            raise Undecided("an exponential is beyond the scale")
        powers = tuple(growing.get(factor, ZERO) for factor in (*FACTORS[1:], CONSTANT))
        factors = [math.exp(c) for c, m in self.terms if m.direction == 0]
        # e^x = 1 + O(x) for the vanishing terms, of which the first is the largest.
        vanishing = [m for _, m in self.terms if m.direction < 0]
        small = vanishing[0] if vanishing else self.rest
        factor = times(factors[0], Fraction(1)) if factors else Fraction(1)
        return _leading(factor, Monomial(powers), small)

    def log(self) -> "Expansion":
        """log f, to leading order, for an f that is positive for all large t."""
        if self.sign <= 0:
            raise ValueError("the logarithm of a number that is not positive")
        c, m = self.leading
        coefficient = Expansion.of([(logarithm(c), CONSTANT)])
        return coefficient + m.logarithm() + Expansion((), self._relative_rest)

    @property
    def _size(self) -> Monomial | None:
        """f is O(this); None if it is 0."""
        return self.terms[0][1] if self.terms else self.rest

    @property
    def _relative_rest(self) -> Monomial | None:
        """f/(c m) − 1 is O(this), with c m the leading term; None if it is 0."""
        following = self.terms[1][1] if len(self.terms) > 1 else self.rest
        return None if following is None else following * self.leading[1].power(Fraction(-1))


def _leading(c: Constant, m: Monomial, rest: Monomial | None) -> Expansion:
    """c m (1 + O(rest))."""
    return Expansion(((c, m),), None if rest is None else m * rest)
