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
CONSTANT = Monomial()

# t, log t, log log t, … as terms of an exponent.
LEVELS: list[Powers] = [
    tuple(Fraction(int(level == place)) for place in range(DEPTH)) for level in range(DEPTH)
]

# eᵗ, t, log t, …
FACTORS = [Monomial(((level, Fraction(1)),)) for level in LEVELS]
Real = Union[Amount, Fraction, "Asymptotics"]


def _on_the_left(combine: Callable[[Any, Any], Any]) -> Callable[[Any, Any], "Asymptotics"]:
    """The operator for a number on the left."""
    return lambda self, other: combine(Asymptotics.constant(other), self)


def _comparison(holds: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda self, other: compare(self, holds, other)


@dataclass(frozen=True)
class Asymptotics:
    """c m + O(rest) for large t: its leading term, and a bound of what follows.

    If the rest is of the order of m itself, the quotient of the function and m lies between two
    constants of the sign of c: its sign and its order are known, and no factor. If c is zero, only
    the bound is known.

    One term is enough: a rate is a product of such terms, and only a difference of two nearly equal
    ones, which nobody trains with, would need more.

    Args:
        coefficient: c.
        monomial: m.
        rest: The error is O(rest); None if the term is exact.
    """

    coefficient: Constant = ZERO
    monomial: Monomial = CONSTANT
    rest: Monomial | None = None

    @classmethod
    def constant(cls, value: Real) -> "Asymptotics":
        """A constant; a float stands for the decimal it prints as."""
        return value if isinstance(value, Asymptotics) else cls(exact(value))

    @property
    def sign(self) -> int:
        """Its sign for all large t; 0 if it is exactly zero from some t on."""
        if not self.coefficient and self.rest is not None:
            raise Undecided("the leading terms cancel")
        return sign(self.coefficient)

    @property
    def size(self) -> Monomial | None:
        """f is O(this); None if it is 0."""
        return self.monomial if self.coefficient else self.rest

    @property
    def as_constant(self) -> Constant | None:
        """Its value if it is exactly a constant, else None."""
        return (
            None if self.rest is not None or self.size not in (None, CONSTANT) else self.coefficient
        )

    def __neg__(self) -> "Asymptotics":
        return Asymptotics(-self.coefficient, self.monomial, self.rest)

    def __add__(self, other: Real) -> "Asymptotics":
        second = Asymptotics.constant(other)
        if self.size is None or second.size is None:
            return second if self.size is None else self
        order = self.size.compare(second.size)
        if order < 0:
            return second + self
        rests = [each for each in (self.rest, second.rest) if each is not None]
        if order > 0:
            rest = max([*rests, second.size], key=by_size)
            return Asymptotics(self.coefficient, self.monomial, rest)
        # Without the factor of one of them, the two may cancel.
        if self.size in rests:
            return Asymptotics(rest=self.size)
        total = plus(self.coefficient, second.coefficient)
        return Asymptotics(total, self.size, max(rests, key=by_size, default=None))

    def __sub__(self, other: Real) -> "Asymptotics":
        return self + -Asymptotics.constant(other)

    def __mul__(self, other: Real) -> "Asymptotics":
        second = Asymptotics.constant(other)
        mine, theirs = self.size, second.size
        if mine is None or theirs is None:
            return NIL
        rests = [rest * size for rest, size in ((self.rest, theirs), (second.rest, mine)) if rest]
        rest = max(rests, key=by_size, default=None)
        if not (self.coefficient and second.coefficient):
            return Asymptotics(rest=rest)
        return Asymptotics(times(self.coefficient, second.coefficient), mine * theirs, rest)

    def __truediv__(self, other: Real) -> "Asymptotics":
        return self * Asymptotics.constant(other).power(Fraction(-1))

    def __pow__(self, other: Real) -> "Asymptotics":
        exponent = Asymptotics.constant(other)
        if exponent.as_constant is not None:
            return self.power(exponent.as_constant)
        if self.size is None and exponent.sign > 0:
            return self
        return _exponential(exponent * _logarithm(self))

    def power(self, exponent: Constant) -> "Asymptotics":
        """f^p, to leading order."""
        if not exponent:
            return Asymptotics.constant(1)
        if not self.sign:
            if exponent < 0:
                raise ZeroDivisionError("division by zero")
            return self
        monomial = self.monomial.power(exponent)
        factor = Asymptotics(power_of(self.coefficient, exponent), rest=self.relative_rest)
        return factor * Asymptotics(Fraction(1), monomial)

    @property
    def relative_rest(self) -> Monomial | None:
        """f/(c m) − 1 is O(this), with c m the leading term; None if it is 0."""
        return None if self.rest is None else self.rest * self.monomial.power(Fraction(-1))

    def __floor__(self) -> "Asymptotics":
        return self + BOUNDED

    __ceil__ = __trunc__ = __floor__

    def __floordiv__(self, other: Real) -> "Asymptotics":
        return math.floor(self / other)

    def __mod__(self, other: Real) -> "Asymptotics":
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

    def __abs__(self) -> "Asymptotics":
        return -self if self.coefficient < 0 else self

    def __bool__(self) -> bool:
        return self.sign != 0


NIL = Asymptotics()

# Something between two constants, such as a sine.
BOUNDED = Asymptotics(rest=CONSTANT)

# t itself, the step counted from 1.
LARGE_T = Asymptotics(Fraction(1), FACTORS[1])


def compare(one: Time, holds: Callable[[Any, Any], bool], two: Time) -> bool:
    """If the comparison holds, such as `operator.lt`: for all large t, of asymptotics."""
    if isinstance(one, Asymptotics) or isinstance(two, Asymptotics):
        return holds((Asymptotics.constant(one) - two).sign, 0)
    return holds(one, two)


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
    """e^f, to leading order: a growing term becomes a monomial."""
    if value.rest is not None and value.rest.direction > 0:
        raise Undecided("an exponent is known too coarsely")
    # e^x = 1 + O(x) for what vanishes, and an unknown factor for what is only bounded.
    small = Asymptotics(Fraction(1), rest=value.rest)
    c, m = value.coefficient, value.monomial
    direction = m.direction if c else 0
    if direction < 0:
        return Asymptotics(Fraction(1), rest=m)
    if direction == 0:
        return small * Asymptotics(times(math.exp(c), Fraction(1)))
    powers = dict(m.exponent)
    if not powers.keys() <= set(LEVELS[1:]):
        raise Undecided("an exponential is beyond the scale")
    # t^p is exp(p log t): the level of log t in its exponent is that of t in the new one.
    term = (*(powers.get(level, ZERO) for level in LEVELS[1:]), ZERO)
    return small * Asymptotics(Fraction(1), Monomial(((term, c),)))


def _logarithm(value: Asymptotics) -> Asymptotics:
    """log f, to leading order, for an f that is positive for all large t."""
    if value.sign <= 0:
        raise ValueError("the logarithm of a number that is not positive")
    found = Asymptotics(logarithm_of(value.coefficient)) + Asymptotics(rest=value.relative_rest)
    for powers, factor in value.monomial.exponent:
        if powers[-1]:
            raise Undecided("a logarithm is nested too deeply")
        grown = CONSTANT
        for level, power_of_level in zip(LEVELS[1:], powers, strict=False):
            if power_of_level:
                grown = grown * Monomial(((level, power_of_level),))
        found = found + Asymptotics(factor, grown)
    return found


def _wave(function: Callable[[float], float]) -> Callable[[Asymptotics], Asymptotics]:
    """A sine or a cosine: known for a constant, else bounded."""

    def wave(value: Asymptotics) -> Asymptotics:
        angle = value.as_constant
        # The rounding of an angle of 10⁶ is as large as the smallest height trusted.
        if angle is None or not abs(float(angle)) < 1e6:
            return BOUNDED
        height = function(float(angle))
        return Asymptotics(height) if abs(height) > ROUNDING else BOUNDED

    return wave


power = _of_either_kind(_power_of_numbers, operator.pow)
square_root = _of_either_kind(math.sqrt, lambda value: value.power(Fraction(1, 2)))
exponential = _of_either_kind(math.exp, _exponential)
logarithm = _of_either_kind(math.log, _logarithm)
binary_logarithm = _of_either_kind(
    math.log2, lambda value: _logarithm(value) / Asymptotics(math.log(2))
)
decimal_logarithm = _of_either_kind(
    math.log10, lambda value: _logarithm(value) / Asymptotics(math.log(10))
)
cosine = _of_either_kind(math.cos, _wave(math.cos))
sine = _of_either_kind(math.sin, _wave(math.sin))
