"""Asymptotics of formulas: how a formula behaves for all large t, computed with Python's operators.

A formula written for integers and floats runs unchanged on `Asymptotics`, and the result is a
proof. So a schedule never states its decay a second time, and the two cannot disagree. A condition
such as `step < 100` is answered for all large t.

A monomial is the exponential of a sum of terms c t^p (log t)^q …, such as exp(−√t) or
t^-1 = exp(−log t). The term that grows most in the quotient of two of them decides which one is
larger. So the scale is totally ordered and closed under product, quotient and power.

Every rule here is a proof. A rule that cannot be shown raises `Undecided`. An operation that is
undefined for all large t raises `ZeroDivisionError` or `ValueError`, as the same operation on
floats would.

Source: Hardy (1910), Orders of Infinity; Bertrand (1842), for the criterion of
`Monomial.sum_converges`.
"""

import functools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Union

from gradiometer.convergence.formulas.number import (
    LARGEST_BITS,
    ROUNDING,
    Amount,
    Constant,
    Range,
    Undecided,
    exact,
    logarithm_of,
    plus,
    sign,
    times,
)

ZERO = Fraction(0)

# Factors of a monomial: eᵗ, t and its iterated logarithms.
DEPTH = 6

# A step, or a value computed from one: an int, a float or `Asymptotics`. Formulas use only
# arithmetic on it.
Time = Any


# Powers (p, q, r, …) of t, log t, log log t, …: one term of an exponent.
Powers = tuple[Constant, ...]


def _compare_powers(one: Powers, two: Powers) -> int:
    """1 if the first product of powers outgrows the second, −1 if it is outgrown, 0 if equal."""
    for first, second in zip(one, two, strict=True):
        if first != second:
            return sign(plus(first, -second))
    return 0


@dataclass(frozen=True)
class Monomial:
    """exp(Σ c t^p (log t)^q …), by the terms of its exponent.

    A power t^p is exp(p log t), and exp(−√t) has the exponent −t^½: one scale holds both.

    Args:
        exponent: Pairs of (p, q, …) and c, the term that grows most first. Every term grows.
    """

    exponent: tuple[tuple[Powers, Constant], ...] = ()

    def __mul__(self, other: "Monomial") -> "Monomial":
        total = [(powers, plus(one, two)) for powers, one, two in self._beside(other)]
        return Monomial(tuple((powers, c) for powers, c in total if c))

    def _beside(self, other: "Monomial") -> list[tuple[Powers, Constant, Constant]]:
        """The terms of both exponents with their two factors, the one that grows most first."""
        mine, theirs = dict(self.exponent), dict(other.exponent)
        by_growth = functools.cmp_to_key(_compare_powers)
        terms = sorted(mine | theirs, key=by_growth, reverse=True)
        return [(powers, mine.get(powers, ZERO), theirs.get(powers, ZERO)) for powers in terms]

    def power(self, exponent: Constant) -> "Monomial":
        """The monomial to a real power other than zero."""
        return Monomial(tuple((powers, times(c, exponent)) for powers, c in self.exponent))

    @property
    def direction(self) -> int:
        """1 if it grows without bound, −1 if it goes to zero, 0 for the constant 1."""
        return sign(self.exponent[0][1]) if self.exponent else 0

    def compare(self, other: "Monomial") -> int:
        """1 if it outgrows the other, −1 if the other outgrows it, 0 if they are equal."""
        for _, one, two in self._beside(other):
            if one != two:
                return sign(plus(one, -two))
        return 0

    @property
    def sum_converges(self) -> bool:
        """True if Σ over t is finite: it is below 1/(t log t log log t …)."""
        return self.compare(Monomial(tuple((level, Fraction(-1)) for level in LEVELS[1:]))) < 0


by_size = functools.cmp_to_key(Monomial.compare)


def largest_bound(bounds: Iterable[Monomial | None]) -> Monomial | None:
    """The largest of some bounds; either of two that differ by rounding alone."""

    def compare_bounds(one: Monomial, two: Monomial) -> int:
        try:
            return one.compare(two)
        except Undecided:
            return 0

    known = [bound for bound in bounds if bound is not None]
    return max(known, key=functools.cmp_to_key(compare_bounds), default=None)


CONSTANT = Monomial()

# t, log t, log log t, … as terms of an exponent.
LEVELS: list[Powers] = [
    tuple(Fraction(int(level == place)) for place in range(DEPTH)) for level in range(DEPTH)
]

# eᵗ, t, log t, …
FACTORS = [Monomial(((level, Fraction(1)),)) for level in LEVELS]
Real = Union[Amount, Fraction, "Asymptotics"]
Choice = Callable[[Range, Range], Range]

# Terms kept of a sum. Later ones join the bound of the rest.
TERMS = 6


@dataclass
class Steps:
    """The steps over which the algebra runs, and which parts of them would decide more.

    Args:
        period: On every class of steps of this period, all remainders met are constants.
        root: 2 if a square root was rounded: on t = s² it is whole. Else 1.
        irrational: True if the squares are left out, so that the root of t is no whole number.
    """

    period: int = 1
    root: int = 1
    irrational: bool = False


STEPS: ContextVar[Steps | None] = ContextVar("STEPS", default=None)


def _on_the_left(combine: Callable[[Any, Any], Any]) -> Callable[[Any, Any], "Asymptotics"]:
    """The operator for a number on the left."""
    return lambda self, other: combine(Asymptotics.constant(other), self)


def _comparison(holds: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Any]:
    return lambda self, other: compare(self, holds, other)


@dataclass(frozen=True)
class Asymptotics:
    """Σ c m + O(rest) for large t: terms with the largest first, and a bound of what follows.

    Args:
        terms: Pairs of a monomial m and a factor c, exact or between bounds.
        rest: The error is O(rest); None if the terms are all.
    """

    terms: tuple[tuple[Monomial, Range], ...] = ()
    rest: Monomial | None = None

    @classmethod
    def constant(cls, value: Real) -> "Asymptotics":
        """A constant; a float stands for the decimal it prints as."""
        return value if isinstance(value, Asymptotics) else cls.term(exact(value))

    @classmethod
    def term(cls, factor: Constant | Range, monomial: Monomial = CONSTANT) -> "Asymptotics":
        """c m."""
        factor = factor if isinstance(factor, Range) else Range.of(factor)
        return cls.total([(monomial, factor)])

    @classmethod
    def total(
        cls, terms: Iterable[tuple[Monomial, Range]], *rests: Monomial | None
    ) -> "Asymptotics":
        """The sum of terms in any order, with its rest."""
        merged: dict[Monomial, Range] = {}
        cancelled = []
        for monomial, factor in terms:
            try:
                merged[monomial] = merged[monomial] + factor if monomial in merged else factor
            except Undecided:  # two factors cancel to rounding
                cancelled.append(monomial)
        order = sorted((m for m in merged if merged[m].exact != 0), key=by_size, reverse=True)
        rest = largest_bound([*cancelled, *rests])
        if len(order) > TERMS:
            rest = largest_bound([order[TERMS], rest])
        kept = [m for m in order[:TERMS] if rest is None or m.compare(rest) > 0]
        return cls(tuple((m, merged[m]) for m in kept), rest)

    @property
    def sign(self) -> int:
        """Its sign for all large t; 0 if it is exactly zero from some t on."""
        if not self.terms and self.rest is None:
            return 0
        if self.factor.apart:
            return self.factor.apart
        if self.factor.nonzero and len(self.terms) == 1 and self.rest is None:
            return 1 if self.factor.high > 0 else -1
        raise Undecided("the leading terms cancel")

    @property
    def factor(self) -> Range:
        """The factor of the largest term, 0 if none is known."""
        return self.terms[0][1] if self.terms else Range.of(ZERO)

    @property
    def size(self) -> Monomial | None:
        """f is O(this); None if it is 0."""
        return self.terms[0][0] if self.terms else self.rest

    @property
    def as_constant(self) -> Constant | None:
        """Its value if it is exactly a constant, else None."""
        if self.rest is not None or self.size not in (None, CONSTANT):
            return None
        return self.factor.exact if len(self.terms) <= 1 else None

    def __neg__(self) -> "Asymptotics":
        return Asymptotics(tuple((m, -c) for m, c in self.terms), self.rest)

    def __add__(self, other: Real) -> "Asymptotics":
        second = Asymptotics.constant(other)
        return Asymptotics.total(self.terms + second.terms, self.rest, second.rest)

    def __sub__(self, other: Real) -> "Asymptotics":
        return self + -Asymptotics.constant(other)

    def __mul__(self, other: Real) -> "Asymptotics":
        second = Asymptotics.constant(other)
        mine, theirs = self.size, second.size
        if mine is None or theirs is None:
            return NIL
        products = [(m * n, c * d) for m, c in self.terms for n, d in second.terms]
        rests = [rest * size for rest, size in ((self.rest, theirs), (second.rest, mine)) if rest]
        try:
            return Asymptotics.total(products, *rests)
        except Undecided:  # orders that differ by rounding alone: the first product is the largest
            rests += [m * theirs for m, _ in self.terms[1:2]]
            rests += [n * mine for n, _ in second.terms[1:2]]
            return Asymptotics.total(products[:1], *rests)

    def __truediv__(self, other: Real) -> "Asymptotics":
        return self * Asymptotics.constant(other).power(Fraction(-1))

    def __pow__(self, other: Real) -> "Asymptotics":
        exponent = Asymptotics.constant(other)
        if exponent.as_constant is not None:
            return self.power(exponent.as_constant)
        if self.size is None and exponent.sign > 0:
            return self
        base = self.as_constant
        if base is not None and base < 0:
            # (−c)^n is c^n for an even n and −c^n for an odd one.
            odd = exponent - 2 * math.floor(exponent / 2)
            return (1 - 2 * odd) * (-self) ** exponent
        return _exponential(exponent * _logarithm(self))

    def power(self, exponent: Constant) -> "Asymptotics":
        """f^p by the binomial series."""
        if not exponent:
            return Asymptotics.constant(1)
        if isinstance(exponent, Fraction) and exponent.denominator == 1 and 0 < exponent <= TERMS:
            # Factors between bounds that include zero have whole powers, too.
            return self.square if exponent == 2 else self * self.power(exponent - 1)
        if not self.sign:
            if exponent < 0:
                raise ZeroDivisionError("division by zero")
            return self
        if not self.factor.apart:
            raise Undecided("a base comes close to zero")
        leading = Asymptotics.term(self.factor.power(exponent), self.terms[0][0].power(exponent))
        factors: list[Constant] = [Fraction(1)]
        for k in range(TERMS - 1):
            factors.append(factors[-1] * (exponent - k) / (k + 1))
        return leading * _series(factors, self.relative_rest)

    @property
    def square(self) -> "Asymptotics":
        """f²: no factor of a term times itself is negative."""
        products = [
            (m * n, abs(c) * abs(d) if m == n else c * d)
            for m, c in self.terms
            for n, d in self.terms
        ]
        rest = self.rest * self.size if self.rest and self.size else None
        return Asymptotics.total(products, rest)

    @property
    def relative_rest(self) -> "Asymptotics":
        """f/(c m) − 1, with c m the leading term."""
        (monomial, factor), *later = self.terms
        inverse = Asymptotics.term(factor.power(Fraction(-1)), monomial.power(Fraction(-1)))
        return inverse * Asymptotics(tuple(later), self.rest)

    def __floor__(self) -> "Asymptotics":
        return self - _fraction(self)

    def __ceil__(self) -> "Asymptotics":
        return -math.floor(-self)

    def __trunc__(self) -> "Asymptotics":
        return math.floor(self) if self.sign >= 0 else math.ceil(self)

    def __floordiv__(self, other: Real) -> "Asymptotics":
        return math.floor(self / other)

    def __mod__(self, other: Real) -> "Asymptotics":
        divisor = Asymptotics.constant(other)
        return _fraction(self / divisor) * divisor

    __radd__ = _on_the_left(operator.add)
    __rsub__ = _on_the_left(operator.sub)
    __rmul__ = _on_the_left(operator.mul)
    __rtruediv__ = _on_the_left(operator.truediv)
    __rfloordiv__ = _on_the_left(operator.floordiv)
    __rmod__ = _on_the_left(operator.mod)
    __rpow__ = _on_the_left(operator.pow)
    __lt__ = _comparison(operator.lt)
    __le__ = _comparison(operator.le)
    __gt__ = _comparison(operator.gt)
    __ge__ = _comparison(operator.ge)

    def __abs__(self) -> "Asymptotics":
        if self.factor.apart:
            return self * self.factor.apart
        return self if self.size is None else choose(self, self, lambda c, _: abs(c))

    def __bool__(self) -> bool:
        return self.sign != 0


NIL = Asymptotics()

# t itself, the step counted from 1.
LARGE_T = Asymptotics.term(Fraction(1), FACTORS[1])


def compare(one: Time, holds: Callable[[Any, Any], bool], two: Time) -> Any:
    """If the comparison holds, such as `operator.lt`: for all large t, of asymptotics. One that
    holds at some steps only is a factor between 0 and 1, whose truth is undecided."""
    if not (isinstance(one, Asymptotics) or isinstance(two, Asymptotics)):
        return holds(one, two)
    try:
        return holds((Asymptotics.constant(one) - two).sign, 0)
    except Undecided:
        return Asymptotics.term(Range(ZERO, Fraction(1)))


def choose(one: Time, two: Time, choice: Choice = Range.hull) -> Asymptotics:
    """Something that is one of the two at every step: bounds of its largest term."""
    both = [Asymptotics.constant(one), Asymptotics.constant(two)]
    size = max([each.size for each in both if each.size], key=by_size, default=None)
    if size is None:
        return NIL
    factors = [dict(each.terms).get(size, Range.of(ZERO)) for each in both]
    later = [m for each in both for m, _ in each.terms if m != size]
    return Asymptotics.total([(size, choice(*factors))], *later, *(each.rest for each in both))


def _extreme(
    of_numbers: Callable[..., Any], wanted: Callable[[Any, Any], Any]
) -> Callable[..., Time]:
    """The least or the largest of numbers, or of asymptotics: by their bounds if neither is."""

    def choice(one: Range, two: Range) -> Range:
        return Range(of_numbers(one.low, two.low), of_numbers(one.high, two.high))

    def of_two(one: Time, two: Time) -> Time:
        first = wanted(one, two)
        try:
            return one if first else two
        except Undecided:
            return choose(one, two, choice)

    return lambda *values: functools.reduce(of_two, values)


least = _extreme(min, operator.le)
largest = _extreme(max, operator.ge)


def _fraction(value: Asymptotics) -> Asymptotics:
    """f − ⌊f⌋: a constant if f is a whole number and a constant at every step, else below 1."""
    found = _whole_up_to(value)
    if found is not None:
        return Asymptotics.constant(found % 1)
    if value.size is not None and value.size.compare(CONSTANT) <= 0:
        limit = dict(value.terms).get(CONSTANT, Range.of(ZERO)).exact
        if isinstance(limit, Fraction):
            # Near a whole number, the side from which f comes decides.
            below = not limit % 1 and (value - limit).sign < 0
            return value - (math.floor(limit) - below)
    one, root = Fraction(1), FACTORS[1].power(Fraction(1, 2))
    is_root = value.size == root and value.rest is None and len(value.terms) == 1
    if is_root and isinstance(value.factor.exact, Fraction):
        steps = STEPS.get() or Steps()
        steps.root = 2
        return Asymptotics.term(Range(ZERO, one, nonzero=steps.irrational))
    return Asymptotics.term(Range(ZERO, one))


def _whole_up_to(value: Asymptotics) -> Fraction | None:
    """c if f − c is a whole number at every step, for polynomials with rational factors."""
    constant, period = ZERO, 1
    if value.rest is not None:
        return None
    for monomial, factor in value.terms:
        powers = dict(monomial.exponent)
        degree = powers.pop(LEVELS[1], ZERO)
        if not isinstance(factor.exact, Fraction) or powers or degree != int(degree) or degree < 0:
            return None
        if monomial == CONSTANT:
            constant = factor.exact
        else:
            period = math.lcm(period, factor.exact.denominator)
    if period == 1:
        return constant
    steps = STEPS.get() or Steps()
    steps.period = math.lcm(steps.period, period)
    return None


def _series(factors: Sequence[Constant], value: Asymptotics) -> Asymptotics:
    """Σ aₖ uᵏ for a u that goes to zero."""
    total, power_of_value = Asymptotics.constant(factors[0]), Asymptotics.constant(1)
    for factor in factors[1:]:
        power_of_value = power_of_value * value
        total = total + power_of_value * factor
    beyond = (power_of_value * value).size
    return Asymptotics.total(total.terms, total.rest, beyond)


def _of_either_kind(
    plain: Callable[..., Any], asymptotic: Callable[..., Asymptotics]
) -> Callable[..., Time]:
    """A function of numbers, and of asymptotics as soon as one argument is."""

    def function(*values: Time) -> Time:
        if any(isinstance(value, Asymptotics) for value in values):
            return asymptotic(*map(Asymptotics.constant, values))
        return plain(*values)

    return function


def _power_of_numbers(base: Amount, exponent: Amount) -> Amount:
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if abs(base) <= 1:
            return base if exponent % 2 else base * base if exponent else 1
        # A whole power beyond this has thousands of digits, and takes seconds: a float overflows.
        if exponent * base.bit_length() <= 4 * LARGEST_BITS:
            whole: int = base**exponent
            return whole
    result: float | complex = float(base) ** float(exponent)
    if isinstance(result, complex):
        raise ValueError("a negative number to a fractional power")
    return result


def _exponential(value: Asymptotics) -> Asymptotics:
    """e^f: growing terms become a monomial, and a constant a factor."""
    if value.rest is not None and value.rest.direction >= 0:
        raise Undecided("an exponent is known too coarsely")
    found, vanishing = Asymptotics.constant(1), Asymptotics(rest=value.rest)
    for m, c in value.terms:
        if m.direction < 0:
            vanishing = vanishing + Asymptotics.term(c, m)
        elif m.direction == 0:
            ends = [
                Fraction(1) * times(math.exp(end), Fraction(1)) if end else Fraction(1)
                for end in (c.low, c.high)
            ]
            found = found * Asymptotics.term(Range(min(ends), max(ends)))
        else:
            largest_of_it = Monomial(((_as_term(m), c.high),)) if c.high else CONSTANT
            share = Range.of(Fraction(1)) if c.exact is not None else Range(ZERO, Fraction(1))
            found = found * Asymptotics.term(share, largest_of_it)
    return found * _series([Fraction(1, math.factorial(k)) for k in range(TERMS)], vanishing)


def _as_term(monomial: Monomial) -> Powers:
    """A monomial without exponentials, as a term of an exponent."""
    powers = dict(monomial.exponent)
    if not powers.keys() <= set(LEVELS[1:]):
        raise Undecided("an exponential is beyond the scale")
    # t^p is exp(p log t): the level of log t in its exponent is that of t in the new one.
    return (*(powers.get(level, ZERO) for level in LEVELS[1:]), ZERO)


def _logarithm(value: Asymptotics) -> Asymptotics:
    """log f, for an f that is positive for all large t."""
    if value.sign <= 0:
        raise ValueError("the logarithm of a number that is not positive")
    if not value.factor.apart:
        raise Undecided("a logarithm of what comes close to zero")
    ends = [logarithm_of(end) for end in (value.factor.low, value.factor.high)]
    factors = [ZERO, *(Fraction((-1) ** (k + 1), k) for k in range(1, TERMS))]
    found = Asymptotics.term(Range(min(ends), max(ends))) + _series(factors, value.relative_rest)
    for powers, factor in value.terms[0][0].exponent:
        if powers[-1]:
            raise Undecided("a logarithm is nested too deeply")
        grown = CONSTANT
        for level, power_of_level in zip(LEVELS[1:], powers, strict=False):
            if power_of_level:
                grown = grown * Monomial(((level, power_of_level),))
        found = found + Asymptotics.term(factor, grown)
    return found


def _wave(function: Callable[[float], float], first: int) -> Callable[[Asymptotics], Asymptotics]:
    """A sine (first power 1) or a cosine (0): known for a constant, else bounded."""
    factors = [
        Fraction((-1) ** (k // 2), math.factorial(k)) if k % 2 == first else ZERO
        for k in range(TERMS)
    ]

    def wave(value: Asymptotics) -> Asymptotics:
        if value.size is not None and value.size.direction < 0:
            return _series(factors, value)
        turns = _turns(value)
        found = None if turns is None else _whole_up_to(turns)
        if found is not None:
            height = function(2 * math.pi * float(found % 1))
            # Of rational parts of a turn, these are all rational heights (Niven's theorem).
            near = Fraction(round(2 * height), 2)
            return Asymptotics.term(near if abs(height - float(near)) < ROUNDING else height)
        angle = value.as_constant
        # The rounding of an angle of 10⁶ is as large as the smallest height trusted.
        if angle is not None and abs(float(angle)) < 1e6:
            height = function(float(angle))
            if abs(height) > ROUNDING:
                return Asymptotics.term(height)
        return Asymptotics.term(Range(Fraction(-1), Fraction(1)))

    return wave


def _turns(angle: Asymptotics) -> Asymptotics | None:
    """f / 2π with rational factors, if every factor is a rational multiple of π."""
    terms = []
    for monomial, factor in angle.terms:
        if factor.exact is None:
            return None
        half_turns = float(factor.exact) / math.pi
        ratio = Fraction(half_turns).limit_denominator(10_000)
        # A product with π is rounded once or twice.
        near = abs(half_turns - float(ratio)) <= 1e-15 * abs(half_turns)
        # Of huge numbers, every one is near to such a multiple.
        if not near or abs(half_turns) > 1000:
            return None
        terms.append((monomial, Range.of(ratio / 2)))
    return None if angle.rest is not None else Asymptotics.total(terms)


power = _of_either_kind(_power_of_numbers, operator.pow)
square_root = _of_either_kind(math.sqrt, lambda value: value.power(Fraction(1, 2)))
exponential = _of_either_kind(math.exp, _exponential)
logarithm = _of_either_kind(math.log, _logarithm)
binary_logarithm = _of_either_kind(
    math.log2, lambda value: _logarithm(value) / Asymptotics.term(math.log(2))
)
decimal_logarithm = _of_either_kind(
    math.log10, lambda value: _logarithm(value) / Asymptotics.term(math.log(10))
)
cosine = _of_either_kind(math.cos, _wave(math.cos, 0))
sine = _of_either_kind(math.sin, _wave(math.sin, 1))
