"""Asymptotics of formulas: how a formula behaves for all large t, computed with Python's operators.

A formula written for integers and floats runs unchanged on `Asymptotics`, and the result is a
proof. So a schedule never states its decay a second time, and the two cannot disagree. A condition
such as `step < 100` is answered for all large t.

A monomial is exp(at) t^p (log t)^q (log log t)^r … The first power in which two of them differ
decides which one is larger (Bertrand's rule). So the scale is totally ordered and closed under
product, quotient and power.

Every rule here is a proof. A rule that cannot be shown raises `Undecided`. An operation that is
undefined for all large t raises `ZeroDivisionError` or `ValueError`, as the same operation on
floats would.

Source: Hardy (1910), Orders of Infinity; Bertrand (1842), for the criterion of
`Monomial.sum_converges`.
"""

import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Union

from gradiometer.convergence.formulas.number import (
    LARGEST_BITS,
    ROUNDING,
    Amount,
    Constant,
    Undecided,
    exact,
    logarithm_of,
    plus,
    power_of,
    sign,
    times,
)

ZERO = Fraction(0)

# Factors of a monomial: eᵗ, t and its iterated logarithms.
DEPTH = 6

# Terms of an expansion; the first dropped one bounds the rest.
TERMS = 4

# A step, or a value computed from one: an int, a float or `Asymptotics`. Formulas use only
# arithmetic on it.
Time = Any


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


by_size = functools.cmp_to_key(Monomial.compare)
CONSTANT = Monomial()

# eᵗ, t, log t, …
FACTORS = [
    Monomial(tuple(Fraction(int(level == place)) for place in range(DEPTH)))
    for level in range(DEPTH)
]
Term = tuple[Constant, Monomial]
Real = Union[Amount, Fraction, "Asymptotics"]


def _on_the_left(combine: Callable[[Any, Any], Any]) -> Callable[[Any, Any], "Asymptotics"]:
    """The operator for a number on the left."""
    return lambda self, other: combine(Asymptotics.constant(other), self)


def _comparison(holds: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda self, other: compare(self, holds, other)


@dataclass(frozen=True)
class Asymptotics:
    """Σ c_i m_i + O(rest) for large t, the largest term first.

    If the rest is of the order of the only term c m, the quotient of the function and c m lies
    between two positive constants: its sign and its order are known, and no factor.

    Powers, exponentials and logarithms keep the leading term alone: a rate is a product of such
    terms, and only a difference of two nearly equal ones, which nobody trains with, would need
    more.

    Args:
        terms: Coefficients other than zero, and their monomials in falling order.
        rest: The error is O(rest); None if the terms are exact.
    """

    terms: tuple[Term, ...] = ()
    rest: Monomial | None = None

    @classmethod
    def of(cls, terms: list[Term], *rests: Monomial | None) -> "Asymptotics":
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
    def constant(cls, value: Real) -> "Asymptotics":
        """A constant; a float stands for the decimal it prints as."""
        return value if isinstance(value, Asymptotics) else cls.of([(exact(value), CONSTANT)])

    @property
    def leading(self) -> Term:
        """The largest term; raises Undecided if all terms have cancelled."""
        if not self.terms:
            raise Undecided("the leading terms cancel")
        return self.terms[0]

    @property
    def sign(self) -> int:
        """Its sign for all large t; 0 if it is exactly zero from some t on."""
        return 0 if self == NIL else sign(self.leading[0])

    @property
    def size(self) -> Monomial | None:
        """f is O(this); None if it is 0."""
        return self.terms[0][1] if self.terms else self.rest

    @property
    def as_constant(self) -> Constant | None:
        """Its value if it is exactly a constant, else None."""
        if self.rest is not None or any(m != CONSTANT for _, m in self.terms):
            return None
        return self.terms[0][0] if self.terms else ZERO

    @property
    def is_order_alone(self) -> bool:
        """True if it is its only term times an unknown factor between two positive constants."""
        return bool(self.terms) and self.terms[0][1] == self.rest

    def __neg__(self) -> "Asymptotics":
        return Asymptotics(tuple((-c, m) for c, m in self.terms), self.rest)

    def __add__(self, other: Real) -> "Asymptotics":
        second = Asymptotics.constant(other)
        for one, two in ((self, second), (second, self)):
            if one.is_order_alone:
                lower = two.size is None or one.terms[0][1].compare(two.size) > 0
                if lower or (two.size == one.size and two.terms and two.sign == one.sign):
                    return one
        return Asymptotics.of([*self.terms, *second.terms], self.rest, second.rest)

    def __sub__(self, other: Real) -> "Asymptotics":
        return self + -Asymptotics.constant(other)

    def __mul__(self, other: Real) -> "Asymptotics":
        second = Asymptotics.constant(other)
        mine, theirs = self.size, second.size
        if mine is None or theirs is None:
            return NIL
        if self.terms and second.terms and (self.is_order_alone or second.is_order_alone):
            return _leading(Fraction(self.sign * second.sign), mine * theirs, CONSTANT)
        products = [(times(c, d), m * n) for c, m in self.terms for d, n in second.terms]
        rests = [rest * size for rest, size in ((self.rest, theirs), (second.rest, mine)) if rest]
        return Asymptotics.of(products, *rests)

    def __truediv__(self, other: Real) -> "Asymptotics":
        return self * Asymptotics.constant(other).power(Fraction(-1))

    def __pow__(self, other: Real) -> "Asymptotics":
        exponent = Asymptotics.constant(other)
        if exponent.as_constant is not None:
            return self.power(exponent.as_constant)
        if self == NIL and exponent.sign > 0:
            return self
        return _exponential(exponent * _logarithm(self))

    def power(self, exponent: Constant) -> "Asymptotics":
        """f^p, to leading order."""
        if not exponent:
            return Asymptotics.constant(1)
        if self == NIL:
            if exponent < 0:
                raise ZeroDivisionError("division by zero")
            return self
        c, m = self.leading
        return _leading(power_of(c, exponent), m.power(exponent), self.relative_rest)

    @property
    def relative_rest(self) -> Monomial | None:
        """f/(c m) − 1 is O(this), with c m the leading term; None if it is 0."""
        following = self.terms[1][1] if len(self.terms) > 1 else self.rest
        return None if following is None else following * self.leading[1].power(Fraction(-1))

    def whole(self, rounding: Callable[[Fraction], int]) -> "Asymptotics":
        """A whole number beside f: exact for an exact constant, else f + O(1)."""
        constant = self.as_constant
        if isinstance(constant, Fraction):
            return Asymptotics.constant(rounding(constant))
        return self + BOUNDED

    def __floordiv__(self, other: Real) -> "Asymptotics":
        return math.floor(self / other)

    def __mod__(self, other: Real) -> "Asymptotics":
        if self.as_constant is not None:
            return self - math.floor(self / other) * Asymptotics.constant(other)
        return BOUNDED * other

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
    __floor__ = functools.partialmethod(whole, math.floor)
    __ceil__ = functools.partialmethod(whole, math.ceil)
    __trunc__ = functools.partialmethod(whole, math.trunc)

    def __abs__(self) -> "Asymptotics":
        return self if not self.terms or self.sign > 0 else -self

    def __bool__(self) -> bool:
        return self.sign != 0


NIL = Asymptotics()

# Something between two constants, such as a sine.
BOUNDED = Asymptotics(rest=CONSTANT)

# t itself, the step counted from 1.
LARGE_T = Asymptotics(((Fraction(1), FACTORS[1]),))


def _leading(c: Constant, m: Monomial, rest: Monomial | None) -> Asymptotics:
    """c m (1 + O(rest))."""
    return Asymptotics(((c, m),), None if rest is None else m * rest)


def compare(one: Time, holds: Callable[[Any, Any], bool], two: Time) -> bool:
    """If the comparison holds, such as `operator.lt`: for all large t, of asymptotics."""
    if isinstance(one, Asymptotics) or isinstance(two, Asymptotics):
        return holds((Asymptotics.constant(one) - two).sign, 0)
    return holds(one, two)


def rounded(value: float) -> Asymptotics:
    """A constant that is known only up to rounding."""
    return Asymptotics.of([(value, CONSTANT)])


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
    """e^f, to leading order: growing terms become a monomial."""
    if value.rest is not None and value.rest.direction > 0:
        raise Undecided("an exponent is known too coarsely")
    growing = {m: c for c, m in value.terms if m.direction > 0}
    if not set(growing) <= set(FACTORS[1:]):
        raise Undecided("an exponential is beyond the scale")
    monomial = Monomial(tuple(growing.get(factor, ZERO) for factor in (*FACTORS[1:], CONSTANT)))
    # An exponent that is known up to a bounded part gives an unknown factor.
    if value.rest == CONSTANT:
        return _leading(Fraction(1), monomial, CONSTANT)
    factors = [math.exp(c) for c, m in value.terms if m == CONSTANT]
    # e^x = 1 + O(x) for the vanishing terms, of which the first is the largest.
    vanishing = [m for _, m in value.terms if m.direction < 0]
    small = vanishing[0] if vanishing else value.rest
    return _leading(times(factors[0], Fraction(1)) if factors else Fraction(1), monomial, small)


def _logarithm(value: Asymptotics) -> Asymptotics:
    """log f, to leading order, for an f that is positive for all large t."""
    if value.sign <= 0:
        raise ValueError("the logarithm of a number that is not positive")
    c, m = value.leading
    if m.powers[-1]:
        raise Undecided("a logarithm is nested too deeply")
    # log of the monomial: at + p log t + q log log t …
    terms = [(logarithm_of(c), CONSTANT), *zip(m.powers, FACTORS[1:], strict=False)]
    return Asymptotics.of(terms, value.relative_rest)


def _wave(function: Callable[[float], float]) -> Callable[[Asymptotics], Asymptotics]:
    """A sine or a cosine: known for a constant, else bounded."""

    def wave(value: Asymptotics) -> Asymptotics:
        angle = value.as_constant
        # The rounding of an angle of 10⁶ is as large as the smallest height trusted.
        if angle is None or not abs(float(angle)) < 1e6:
            return BOUNDED
        height = function(float(angle))
        return rounded(height) if abs(height) > ROUNDING else BOUNDED

    return wave


power = _of_either_kind(_power_of_numbers, operator.pow)
square_root = _of_either_kind(math.sqrt, lambda value: value.power(Fraction(1, 2)))
exponential = _of_either_kind(math.exp, _exponential)
logarithm = _of_either_kind(math.log, _logarithm)
binary_logarithm = _of_either_kind(
    math.log2, lambda value: _logarithm(value) / rounded(math.log(2))
)
decimal_logarithm = _of_either_kind(
    math.log10, lambda value: _logarithm(value) / rounded(math.log(10))
)
cosine = _of_either_kind(math.cos, _wave(math.cos))
sine = _of_either_kind(math.sin, _wave(math.sin))
