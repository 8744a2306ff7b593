"""Asymptotic expansions: a formula in t for large t, term by term, with a bound on the rest.

The scale is made of t = L₀ and its iterated logarithms L₁ = log t, L₂ = log log t, … A monomial is
exp(Σ w_k K_k), and each K_k is a product of powers of the L's: t^-p is exp(−p L₁), (log t)^-q is
exp(−q L₂), exp(−a t^β) has K = L₀^β. The first weight in which two monomials differ decides which
one is larger (Bertrand's rule). So the scale is totally ordered and closed under product, quotient
and power.

Powers, exponentials and logarithms keep the leading term alone: a rate is a product of such terms,
and only a difference of two nearly equal ones, which nobody trains with, would need more.

Source: Hardy (1910), Orders of Infinity; Bertrand (1842), for the criterion of
`Monomial.sum_converges`.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key

from gradiometer.convergence.formulas.number import MINUS_ONE, ONE, ZERO, Amount, Number, Undecided

DEPTH = 6
"""Iterated logarithms in the scale, including t itself."""
TERMS = 4
"""Terms of an expansion; the first dropped one bounds the rest."""

Key = tuple[Fraction, ...]
"""Powers of L₀ … L₅ in one product K."""


def unit(level: int) -> Key:
    """The key of L_level."""
    return tuple(Fraction(int(level == place)) for place in range(DEPTH))


@dataclass(frozen=True)
class Monomial:
    """exp(Σ w_k K_k), exactly. The weights are sorted from the fastest K to the slowest; no weight
    is 0."""

    weights: tuple[tuple[Key, Number], ...] = ()

    @classmethod
    def of(cls, weights: dict[Key, Number]) -> "Monomial":
        """A monomial from its weights, in any order."""
        return cls(
            tuple((key, weights[key]) for key in sorted(weights, reverse=True) if weights[key].sign)
        )

    def __mul__(self, other: "Monomial") -> "Monomial":
        if not self.weights or not other.weights:
            return self if self.weights else other
        weights: dict[Key, Number] = dict(self.weights)
        for key, weight in other.weights:
            weights[key] = weights[key] + weight if key in weights else weight
        return Monomial.of(weights)

    def power(self, exponent: Number) -> "Monomial":
        """The monomial to a real power."""
        return Monomial.of({key: weight * exponent for key, weight in self.weights})

    @property
    def direction(self) -> int:
        """1 if it grows without bound, −1 if it goes to zero, 0 for the constant 1."""
        return self.weights[0][1].sign if self.weights else 0

    def compare(self, other: "Monomial") -> int:
        """1 if it outgrows the other, −1 if the other outgrows it, 0 if they are equal."""
        if self == other:
            return 0
        mine, theirs = dict(self.weights), dict(other.weights)
        for key in sorted({*mine, *theirs}, reverse=True):
            one, two = mine.get(key, ZERO), theirs.get(key, ZERO)
            if one != two:
                return (one - two).sign
        return 0

    @property
    def sum_converges(self) -> bool:
        """True if Σ over t is finite: its weights are lexicographically below those of 1/(t log t
        log log t …)."""
        critical = Monomial.of({unit(level): -ONE for level in range(1, DEPTH)})
        return self.compare(critical) < 0

    def logarithm(self) -> "Expansion":
        """log of the monomial: Σ w_k K_k, each K written as a monomial."""
        return Expansion.of([(weight, _product(key)) for key, weight in self.weights])

    def as_key(self) -> Key:
        """The powers of L₀ … L₅ if it is a product of them; raises Undecided if it is an
        exponential."""
        powers = dict(self.weights)
        found = [powers.pop(unit(level), ZERO).rational for level in range(1, DEPTH)]
        if powers or None in found:
            raise Undecided("an exponential of an exponential is beyond the scale")
        return (*(power for power in found if power is not None), Fraction(0))


def _product(key: Key) -> Monomial:
    if key[-1]:
        raise Undecided("a logarithm is nested too deeply")
    return Monomial.of({unit(level + 1): Number(power) for level, power in enumerate(key[:-1])})


by_size = cmp_to_key(Monomial.compare)
"""The key that sorts monomials by how fast they grow."""
CONSTANT = Monomial()
TIME = Monomial(((unit(1), ONE),))
Term = tuple[Number, Monomial]


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
    def of(cls, terms: list[Term], rest: Monomial | None = None) -> "Expansion":
        """From terms in any order: adds up equal monomials and drops those at or below the rest."""
        summed: dict[Monomial, Number] = {}
        for coefficient, monomial in terms:
            try:
                summed[monomial] = summed.get(monomial, ZERO) + coefficient
            except Undecided:
                # the coefficients cancel to rounding, so the sum is known to be O(monomial) only
                rest = _larger(rest, monomial)
        kept = [
            (c, m) for m, c in summed.items() if c.sign and (rest is None or m.compare(rest) > 0)
        ]
        kept.sort(key=lambda term: by_size(term[1]), reverse=True)
        # The first dropped term bounds all that follow.
        if len(kept) > TERMS:
            rest = kept[TERMS][1]
        return cls(tuple(kept[:TERMS]), rest)

    @classmethod
    def constant(cls, value: Number | Fraction | Amount) -> "Expansion":
        """A constant, exactly."""
        return cls.of([(Number.of(value), CONSTANT)])

    @property
    def is_zero(self) -> bool:
        """True if it is exactly zero from some t on."""
        return not self.terms and self.rest is None

    @property
    def leading(self) -> Term:
        """The largest term; raises Undecided if all terms have cancelled."""
        if not self.terms:
            raise Undecided("the leading terms cancel")
        return self.terms[0]

    @property
    def sign(self) -> int:
        """Its sign for all large t."""
        return 0 if self.is_zero else self.leading[0].sign

    @property
    def as_constant(self) -> Number | None:
        """Its value if it is exactly a constant, else None."""
        if self.is_zero:
            return ZERO
        alone = self.rest is None and len(self.terms) == 1 and self.terms[0][1] == CONSTANT
        return self.terms[0][0] if alone else None

    def __neg__(self) -> "Expansion":
        return Expansion(tuple((-c, m) for c, m in self.terms), self.rest)

    def __add__(self, other: "Expansion") -> "Expansion":
        return Expansion.of([*self.terms, *other.terms], _larger(self.rest, other.rest))

    def __sub__(self, other: "Expansion") -> "Expansion":
        return self + -other

    def __mul__(self, other: "Expansion") -> "Expansion":
        if self.is_zero or other.is_zero:
            return Expansion()
        products = [(c * d, m * n) for c, m in self.terms for d, n in other.terms]
        rest: Monomial | None = None
        for one, two in ((self, other), (other, self)):
            if one.rest is not None:
                rest = _larger(
                    rest, one.rest * (two.terms[0][1] if two.terms else two.rest or CONSTANT)
                )
        return Expansion.of(products, rest)

    def power(self, exponent: Number) -> "Expansion":
        """f^p, to leading order."""
        if self.is_zero:
            return Expansion.constant(ZERO.power(exponent))
        c, m = self.leading
        return _leading(c.power(exponent), m.power(exponent), self._relative_rest)

    def exp(self) -> "Expansion":
        """e^f, to leading order: growing terms become a monomial."""
        if self.rest is not None and self.rest.direction >= 0:
            raise Undecided("an exponent is known too coarsely")
        weights: dict[Key, Number] = {}
        factor, small = ONE, self.rest
        for c, m in self.terms:
            if m.direction > 0:
                weights[m.as_key()] = c
            elif m.direction == 0:
                factor = factor * c.exp()
            else:
                # e^x = 1 + O(x) for the vanishing terms, of which the first is the largest.
                small = m
                break
        return _leading(factor, Monomial.of(weights), small)

    def log(self) -> "Expansion":
        """log f, to leading order, for an f that is positive for all large t."""
        if self.sign <= 0:
            raise ValueError("the logarithm of a number that is not positive")
        c, m = self.leading
        return Expansion.constant(c.log()) + m.logarithm() + Expansion((), self._relative_rest)

    @property
    def _relative_rest(self) -> Monomial | None:
        """f/(c m) − 1 is O(this), with c m the leading term; None if it is 0."""
        following = self.terms[1][1] if len(self.terms) > 1 else self.rest
        return None if following is None else following * self.leading[1].power(MINUS_ONE)


def _leading(c: Number, m: Monomial, rest: Monomial | None) -> Expansion:
    """c m (1 + O(rest))."""
    return Expansion(((c, m),), None if rest is None else m * rest)


def _larger(one: Monomial | None, two: Monomial | None) -> Monomial | None:
    if one is None or two is None:
        return one or two
    return one if one.compare(two) >= 0 else two
