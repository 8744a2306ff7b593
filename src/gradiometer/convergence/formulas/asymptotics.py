"""Asymptotics of formulas: how a formula behaves for all large t, computed with Python's operators.

A formula written for integers and floats runs unchanged on `Asymptotics`, and the result is a
proof. So a schedule never states its decay a second time, and the two cannot disagree. A condition
such as `step < 100` is answered for all large t.

Every rule here is a proof. A rule that cannot be shown raises `Undecided`. An operation that is
undefined for all large t raises `ZeroDivisionError` or `ValueError`, as the same operation on
floats would.
"""

import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Union

from gradiometer.convergence.formulas.expansion import CONSTANT, FACTORS, Expansion, Monomial
from gradiometer.convergence.formulas.number import (
    LARGEST_BITS,
    ROUNDING,
    Amount,
    Constant,
    Undecided,
)

# A formula with a longer period is bounded as a whole, not at every remainder of t: 1,024
# remainders take over a second.
LARGEST_PERIOD = 512

# What follows the leading term is of a lower order, so any share of that term outgrows it.
LITTLE = 2.0**-20
NIL = Expansion()
UNIT = Expansion.constant(1)
Real = Union[int, float, Fraction, "Asymptotics"]
Comparison = Callable[[Any, Any], bool]

# A step, or a value computed from one: an int, a float or `Asymptotics`. Formulas use only
# arithmetic on it.
Time = Any


class LongerPeriod(Undecided):
    """The formula is a simpler one at each remainder of t modulo this period."""

    def __init__(self, period: int) -> None:
        super().__init__(f"the formula has a period of {period}")
        self.period = period


def _on_the_left(combine: Callable[[Any, Any], Any]) -> Callable[[Any, Any], "Asymptotics"]:
    """The operator for a number on the left."""
    return lambda self, other: combine(Asymptotics.constant(other), self)


def _comparison(holds: Comparison) -> Callable[[Any, Any], "Asymptotics"]:
    return lambda self, other: compare(self, holds, other)


@dataclass(frozen=True, eq=False)
class Asymptotics:
    """low ≤ f(t) ≤ high for all large t, or for those with one remainder modulo a period.

    Built from `large_t` and `Asymptotics.constant` by arithmetic. In the expansions of the ends, t
    stands for the multiple of the period below t.

    Args:
        low, high: The ends; equal if f is known.
        often: f ≥ c·often for some c > 0, at a share of the steps of every long block; None if no
            such monomial is known.
        period: The period.
    """

    low: Expansion
    high: Expansion
    often: Monomial | None = None
    period: int = 1

    @classmethod
    def constant(cls, value: "Real") -> "Asymptotics":
        """A constant; a float stands for the decimal it prints as."""
        if isinstance(value, Asymptotics):
            return value
        return cls(Expansion.constant(value), Expansion.constant(value))

    @property
    def known(self) -> Expansion | None:
        """The value if it is known to within the rest of an expansion, else None."""
        return self.low if self.low == self.high else None

    @property
    def truth(self) -> bool | None:
        """True if it is not zero for all large t, False if it is zero, None if not known."""
        if self.known == NIL:
            return False
        return True if self.low.sign > 0 or self.high.sign < 0 else None

    def __add__(self, other: "Real") -> "Asymptotics":
        one, two, period = _pair(self, other)
        return Asymptotics(one.low + two.low, one.high + two.high, period=period)

    def __neg__(self) -> "Asymptotics":
        return Asymptotics(-self.high, -self.low, period=self.period)

    def __sub__(self, other: "Real") -> "Asymptotics":
        return self + -Asymptotics.constant(other)

    def __mul__(self, other: "Real") -> "Asymptotics":
        one, two, period = _pair(self, other)
        ends = [a * b for a in {one.low, one.high} for b in {two.low, two.high}]
        often = None
        for swinging, factor in ((one, two), (two, one)):
            if swinging.often is not None and factor.low.sign > 0:
                often = swinging.often * factor.low.leading[1]
        return Asymptotics(_smallest(*ends), _largest(*ends), often, period)

    def __truediv__(self, other: "Real") -> "Asymptotics":
        return self * Asymptotics.constant(other) ** -1

    def __pow__(self, other: "Real") -> "Asymptotics":
        base, exponent, _ = _pair(self, other)
        p = exponent.known.as_constant if exponent.known is not None else None
        if p is not None:
            return base.to_constant_power(p)
        if base.known == NIL and exponent.low.sign > 0:
            return base
        power: Asymptotics = exponential(exponent * logarithm(base))
        return power

    def to_constant_power(self, p: Constant) -> "Asymptotics":
        """f^p."""
        if self.known is not None:
            return self.each(lambda end: end.power(p))
        # The sign of an even power is known even if that of its base is not.
        base = abs(self) if isinstance(p, Fraction) and p % 2 == 0 else self
        if base.low.sign < 0 or (p < 0 and not base.low.sign):
            raise Undecided("a number that may be zero or negative is raised to a power")
        ends = [base.low.power(p), base.high.power(p)]
        return Asymptotics(_smallest(*ends), _largest(*ends), period=self.period)

    def each(self, function: Callable[[Expansion], Expansion]) -> "Asymptotics":
        """A rising function of both ends; any function if the value is known."""
        return Asymptotics(function(self.low), function(self.high), period=self.period)

    def __floordiv__(self, other: "Real") -> "Asymptotics":
        return math.floor(self / other)

    def __mod__(self, other: "Real") -> "Asymptotics":
        quotient = self / other
        whole = math.floor(quotient)
        # Two roundings of f would not keep f − ⌊f⌋ between 0 and 1.
        rest = quotient - whole if whole.known is not None else Asymptotics(NIL, UNIT)
        return rest * other

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

    def __pos__(self) -> "Asymptotics":
        return self

    def __abs__(self) -> "Asymptotics":
        if self.low.sign >= 0:
            return self
        if self.high.sign <= 0:
            return -self
        return Asymptotics(NIL, _largest(-self.low, self.high), period=self.period)

    def __floor__(self) -> "Asymptotics":
        """⌊f⌋: exact for a + bt with rational a and b and for f with a limit, else between f − 1
        and f."""
        if self.known is not None:
            whole = _floor_of_line(self.known, self.period)
            if whole is None and self.known.limit is not None:
                whole = _floor_of_limit(self.known, self.known.limit)
            if whole is not None:
                return Asymptotics(whole, whole, period=self.period)
        return Asymptotics(self.low - UNIT, self.high, period=self.period)

    def __ceil__(self) -> "Asymptotics":
        return -math.floor(-self)

    def __trunc__(self) -> "Asymptotics":
        whole: Asymptotics = choose(self >= 0, lambda: math.floor(self), lambda: math.ceil(self))
        return whole

    def __bool__(self) -> bool:
        if self.truth is None:
            raise Undecided("a condition holds at some steps and not at others")
        return self.truth


def large_t(period: int, remainder: int) -> Asymptotics:
    """t itself, the step counted from 1, for all large t with a remainder modulo a period."""
    value = Expansion.of([(Fraction(1), FACTORS[1])]) + Expansion.constant(remainder)
    return Asymptotics(value, value, period=period)


def at_all_remainders(formula: Callable[[Time], Time]) -> list[Asymptotics]:
    """A formula for all large t: one result for every remainder of t modulo its period."""
    period = 1
    while True:
        try:
            return [
                Asymptotics.constant(formula(large_t(period, remainder)))
                for remainder in range(period)
            ]
        except LongerPeriod as needed:
            period = needed.period


def compare(one: Time, holds: Comparison, two: Time) -> Time:
    """If the comparison holds, such as `operator.lt`. For asymptotics: 1 if it does, 0 if not, and
    between 0 and 1 if that is not known."""
    if not (isinstance(one, Asymptotics) or isinstance(two, Asymptotics)):
        return holds(one, two)
    difference = Asymptotics.constant(one) - two
    signs = range(difference.low.sign, difference.high.sign + 1)
    answers = [UNIT if holds(sign, 0) else NIL for sign in signs]
    return Asymptotics(_smallest(*answers), _largest(*answers), period=difference.period)


def choose(test: Time, one: Callable[[], Time], two: Callable[[], Time]) -> Time:
    """The first value if the test is not zero, else the second. One that is never chosen is not
    computed: it may be undefined, as 1/(t − 9) is before step 10."""
    truth = test.truth if isinstance(test, Asymptotics) else bool(test)
    if truth is not None:
        return one() if truth else two()
    return hull(one(), two())


def hull(one: "Real", two: "Real") -> Asymptotics:
    """A value that is between the two at every step."""
    first, second, period = _pair(one, two)
    return Asymptotics(
        _smallest(first.low, second.low), _largest(first.high, second.high), period=period
    )


def mixture(one: "Real", two: "Real") -> Asymptotics:
    """A value between the two that is not near to either of them at a share of the steps."""
    between = hull(one, two)
    often = between.high.leading[1] if between.high.sign > 0 else None
    return Asymptotics(between.low, between.high, often, between.period)


def rounded(value: float) -> Asymptotics:
    """A constant that is known only up to rounding."""
    known = Expansion.of([(value, CONSTANT)])
    return Asymptotics(known, known)


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


def _wave(function: Callable[[float], float]) -> Callable[[Asymptotics], Asymptotics]:
    """A sine or a cosine: known for a constant, else between −1 and 1."""

    def wave(value: Asymptotics) -> Asymptotics:
        angle = value.known.as_constant if value.known is not None else None
        if angle is None:
            return Asymptotics(-UNIT, UNIT)
        # The rounding of an angle of 10⁶ is as large as the smallest height trusted.
        if not abs(float(angle)) < 1e6:
            raise Undecided("a wave of too large an angle")
        height = function(float(angle))
        if abs(height) > ROUNDING:
            return rounded(height)
        return Asymptotics(Expansion.constant(-ROUNDING), Expansion.constant(ROUNDING))

    return wave


def _logarithm(value: Asymptotics) -> Asymptotics:
    if value.low.sign <= 0 < value.high.sign:
        raise Undecided("the argument of a logarithm may not be positive")
    return value.each(Expansion.log)


def _maximum(one: Asymptotics, two: Asymptotics) -> Asymptotics:
    _, _, period = _pair(one, two)
    low = _larger(one.low, two.low, -LITTLE)
    return Asymptotics(low, _larger(one.high, two.high), period=period)


def _minimum(one: Asymptotics, two: Asymptotics) -> Asymptotics:
    return -_maximum(-one, -two)


power = _of_either_kind(_power_of_numbers, operator.pow)
square_root = _of_either_kind(math.sqrt, lambda value: value ** Fraction(1, 2))
exponential = _of_either_kind(math.exp, lambda value: value.each(Expansion.exp))
logarithm = _of_either_kind(math.log, _logarithm)
binary_logarithm = _of_either_kind(math.log2, lambda value: logarithm(value) / rounded(math.log(2)))
decimal_logarithm = _of_either_kind(
    math.log10, lambda value: logarithm(value) / rounded(math.log(10))
)
cosine = _of_either_kind(math.cos, _wave(math.cos))
sine = _of_either_kind(math.sin, _wave(math.sin))
larger = _of_either_kind(max, lambda *values: functools.reduce(_maximum, values))
smaller = _of_either_kind(min, lambda *values: functools.reduce(_minimum, values))


def _pair(one: "Real", two: "Real") -> tuple[Asymptotics, Asymptotics, int]:
    """Both as asymptotics, and their common period: that of constants is 1."""
    first, second = Asymptotics.constant(one), Asymptotics.constant(two)
    return first, second, max(first.period, second.period)


def _largest(*values: Expansion) -> Expansion:
    """The largest one for large t, or somewhat more than all if the leading terms are equal."""
    return functools.reduce(_larger, values)


def _smallest(*values: Expansion) -> Expansion:
    return -_largest(*(-value for value in values))


def _larger(one: Expansion, two: Expansion, more: float = LITTLE) -> Expansion:
    """The larger one for large t. If their leading terms are equal, these times 1 + `more`."""
    try:
        return one if one == two or (one - two).sign >= 0 else two
    except Undecided:
        (c, size), (d, other) = one.leading, two.leading
        if size != other:
            raise
        return Expansion(((max(float(c), float(d)) + more * abs(float(c)), size),))


def _floor_of_line(value: Expansion, period: int) -> Expansion | None:
    """⌊a + bt⌋ for rational a and b; None for another value, or if its period is too long."""
    coefficients = {monomial: coefficient for coefficient, monomial in value.terms}
    a = coefficients.pop(CONSTANT, Fraction(0))
    b = coefficients.pop(FACTORS[1], Fraction(0))
    if coefficients or value.rest is not None:
        return None
    if not (isinstance(a, Fraction) and isinstance(b, Fraction)):
        return None
    common = math.lcm(period, b.denominator)
    if common > LARGEST_PERIOD:
        return None
    if common > period:
        raise LongerPeriod(common)
    return value + Expansion.constant(math.floor(a) - a)


def _floor_of_limit(value: Expansion, limit: Constant) -> Expansion:
    """⌊f⌋ for large t if f has a limit."""
    nearest = round(limit)
    if isinstance(limit, float) and abs(limit - nearest) < ROUNDING * max(1.0, abs(limit)):
        raise Undecided("a number is whole up to rounding")
    whole = Expansion.constant(math.floor(limit))
    # f goes to a whole number, and is below it for all large t.
    return whole - UNIT if limit == nearest and (value - whole).sign < 0 else whole
