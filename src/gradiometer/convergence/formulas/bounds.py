"""A value for large t that is known exactly or lies between two expansions, as oscillation and
rounding down need.

Every rule here is a proof. A rule that cannot be shown raises `Undecided`. An operation that is
undefined for all large t raises `ZeroDivisionError` or `ValueError`, as the same operation on
floats would.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from gradiometer.convergence.formulas.expansion import CONSTANT, Expansion, Monomial, by_size
from gradiometer.convergence.formulas.number import ONE, ZERO, Number, Undecided

NIL = Expansion()
UNIT = Expansion.constant(1)
ABOVE = 2.0**-20
"""How far a bound of two values that are equal up to rounding is above them, as a share."""


@dataclass(frozen=True)
class Bounds:
    """low ≤ f(t) ≤ high for all large t.

    Args:
        low, high: The ends; equal if f is known exactly.
        rise: At a positive share of the steps of every block from t to λt, f − low is at least
            c·rise for fixed c > 0 and λ > 1. None if no such monomial is known.
    """

    low: Expansion
    high: Expansion
    rise: Monomial | None = None

    @classmethod
    def exactly(cls, value: Expansion) -> "Bounds":
        """Bounds of a value that is known exactly."""
        return cls(value, value)

    @property
    def precise(self) -> Expansion | None:
        """The value if it is known exactly, else None."""
        return self.low if self.low == self.high else None

    @property
    def sign(self) -> int | None:
        """1, −1 or 0 if that is its sign for all large t, else None."""
        if self.precise is not None:
            return self.low.sign
        return 1 if self.low.sign > 0 else -1 if self.high.sign < 0 else None

    @property
    def magnitude(self) -> Expansion:
        """An upper bound of |f|."""
        return _larger(-self.low, self.high)

    def __neg__(self) -> "Bounds":
        return Bounds(-self.high, -self.low)

    def __add__(self, other: "Bounds") -> "Bounds":
        if self.precise is not None and other.precise is not None:
            return Bounds.exactly(self.low + other.low)
        return Bounds(self.low + other.low, self.high + other.high, _faster(self.rise, other.rise))

    def __sub__(self, other: "Bounds") -> "Bounds":
        return self + -other

    def __mul__(self, other: "Bounds") -> "Bounds":
        if self.precise is not None and other.precise is not None:
            return Bounds.exactly(self.low * other.low)
        if self.precise is not None or other.precise is not None:
            return (
                other._times_factor(self.low)
                if self.precise is not None
                else self._times_factor(other.low)
            )
        if self.high.sign <= 0:
            return -(-self * other)
        if other.high.sign <= 0:
            return -(self * -other)
        if self.low.sign < 0 or other.low.sign < 0:
            product = self.magnitude * other.magnitude
            return Bounds(-product, product)
        rise = _faster(_times(self.rise, other.low), _times(other.rise, self.low))
        return Bounds(self.low * other.low, self.high * other.high, rise)

    def _times_factor(self, factor: Expansion) -> "Bounds":
        if factor.sign < 0:
            return -self._times_factor(-factor)
        if factor.is_zero:
            return Bounds.exactly(NIL)
        return Bounds(self.low * factor, self.high * factor, _times(self.rise, factor))

    def __abs__(self) -> "Bounds":
        if self.low.sign >= 0:
            return self
        if self.high.sign <= 0:
            return -self
        return Bounds(NIL, self.magnitude)

    def power(self, p: Number) -> "Bounds":
        """f^p for a constant p."""
        if self.precise is not None:
            return Bounds.exactly(self.low.power(p))
        whole = p.rational is not None and p.rational.denominator == 1
        if whole and p.rational is not None and p.rational % 2 == 0:
            return abs(self)._positive_power(p)
        if self.high.sign <= 0 and whole:
            return -(-self)._positive_power(p)
        if self.low.sign < 0:
            if whole and p.sign > 0:
                return Bounds(self.low.power(p), self.high.power(p))
            raise Undecided("a number of unknown sign is raised to a power")
        return self._positive_power(p)

    def _positive_power(self, p: Number) -> "Bounds":
        if p.sign <= 0:
            if not self.low.sign:
                raise Undecided("a divisor may be zero")
            return Bounds(self.high.power(p), self.low.power(p))
        superadditive = (p - ONE).sign >= 0  # (x + y)^p ≥ x^p + y^p for p ≥ 1
        rise = (
            self.rise.power(p)
            if self.rise is not None and (superadditive or self.low.is_zero)
            else None
        )
        return Bounds(self.low.power(p), self.high.power(p), rise)

    def exp(self) -> "Bounds":
        """e^f."""
        return self._increasing(Expansion.exp)

    def log(self) -> "Bounds":
        """log f; raises Undecided if f may not be positive."""
        if self.precise is None and self.low.sign <= 0 < self.high.sign:
            raise Undecided("the argument of a logarithm may not be positive")
        return self._increasing(Expansion.log)

    def _increasing(self, function: Callable[[Expansion], Expansion]) -> "Bounds":
        low = function(self.low)
        if self.precise is not None:
            return Bounds.exactly(low)
        return Bounds(low, function(self.high))

    def floor(self) -> "Bounds":
        """⌊f⌋: known if f has a limit, otherwise between f − 1 and f."""
        if self.precise is None:
            return Bounds(self.low - UNIT, self.high)
        limit = bounded_limit(self.low)
        if limit is None:
            return Bounds(self.low - UNIT, self.low)
        whole = Expansion.constant(_nearest_integer_below(limit))
        exactly_whole = limit.rational is not None and limit.rational.denominator == 1
        below = exactly_whole and (self.low - whole).sign < 0
        return Bounds.exactly(whole - UNIT if below else whole)


def bounded_limit(value: Expansion) -> Number | None:
    """The limit of an expansion if it is finite, else None."""
    if value.rest is not None and value.rest.direction >= 0:
        return None
    if not value.terms or value.terms[0][1].direction < 0:
        return ZERO
    return value.terms[0][0] if value.terms[0][1] == CONSTANT else None


def maximum(one: Bounds, two: Bounds) -> Bounds:
    """The larger of two at every step."""
    if one.precise is not None and two.precise is not None:
        return one if one == two or (one.low - two.low).sign >= 0 else two
    order = (one.low - two.low).sign if one.low != two.low else 0
    rise = _faster(one.rise if order >= 0 else None, two.rise if order <= 0 else None)
    return Bounds(one.low if order >= 0 else two.low, _larger(one.high, two.high), rise)


def minimum(one: Bounds, two: Bounds) -> Bounds:
    """The smaller of two at every step."""
    return -maximum(-one, -two)


def hull(parts: tuple[Bounds, ...], *, at_known_shares: bool) -> Bounds:
    """Bounds around several ones, each of which holds at some steps: at a positive share of them if
    that is known."""
    low = parts[0].low
    high = parts[0].high
    for part in parts[1:]:
        low = -_larger(-low, -part.low)
        high = _larger(high, part.high)
    if low == high:
        return Bounds.exactly(low)
    rise: Monomial | None = None
    for part in parts if at_known_shares else ():
        gap = part.low - low if part.low != low else NIL
        rise = _faster(rise, gap.leading[1] if gap.sign > 0 else part.rise)
    return Bounds(low, high, rise)


def _faster(one: Monomial | None, two: Monomial | None) -> Monomial | None:
    """The one that grows faster, of those that are known."""
    if one is None or two is None:
        return one or two
    return max(one, two, key=by_size)


def _times(rise: Monomial | None, factor: Expansion) -> Monomial | None:
    return None if rise is None or factor.is_zero else rise * factor.leading[1]


def _larger(one: Expansion, two: Expansion) -> Expansion:
    """The larger one for large t, or somewhat more than both if they are equal up to rounding."""
    try:
        return one if one == two or (one - two).sign >= 0 else two
    except Undecided:
        (c, size), (d, other) = one.leading, two.leading
        if size != other:
            raise
        return Expansion(((Number.rounded(max(float(c), float(d)) + ABOVE * abs(float(c))), size),))


def _nearest_integer_below(value: Number) -> int:
    if value.rational is not None:
        return math.floor(value.rational)
    approximate = float(value)
    if abs(approximate - round(approximate)) < 1e-9 * max(1.0, abs(approximate)):
        raise Undecided("a number is whole up to rounding")
    return math.floor(approximate)
