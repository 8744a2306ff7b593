"""A value for large t that is known exactly or lies between two expansions, as oscillation and
rounding down need.

Every rule here is a proof. A rule that cannot be shown raises `Undecided`. An operation that is
undefined for all large t raises `ZeroDivisionError` or `ValueError`, as the same operation on
floats would.
"""

import math
from dataclasses import dataclass

from gradiometer.convergence.formulas.expansion import CONSTANT, Expansion, Monomial, by_size
from gradiometer.convergence.formulas.number import ROUNDING, ZERO, Number, Undecided

NIL = Expansion()
UNIT = Expansion.constant(1)


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
        # What rises from the lower end says nothing about a fall from the upper one: no `rise`.
        return Bounds(-self.high, -self.low)

    def __add__(self, other: "Bounds") -> "Bounds":
        if self.precise is not None and other.precise is not None:
            return Bounds.exactly(self.low + other.low)
        return Bounds(self.low + other.low, self.high + other.high)

    def __sub__(self, other: "Bounds") -> "Bounds":
        return self + -other

    def __mul__(self, other: "Bounds") -> "Bounds":
        if self.precise is None and other.precise is not None:
            return other * self
        if self.high.sign < 0:
            return -(-self * other)
        if self.precise is not None:
            rise = other.rise
            if rise is not None:
                rise = None if self.low.is_zero else rise * self.low.leading[1]
            return Bounds(self.low * other.low, self.low * other.high, rise)
        if other.high.sign < 0:
            return -(self * -other)
        if self.low.sign < 0 or other.low.sign < 0:
            product = self.magnitude * other.magnitude
            return Bounds(-product, product)
        return Bounds(self.low * other.low, self.high * other.high)

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
        # A rate that may be negative is powered only if its sign cannot matter.
        base = abs(self) if p.rational is not None and p.rational % 2 == 0 else self
        if base.low.sign < 0:
            raise Undecided("a number of unknown sign is raised to a power")
        if p.sign > 0:
            return Bounds(base.low.power(p), base.high.power(p))
        if not base.low.sign:
            raise Undecided("a divisor may be zero")
        return Bounds(base.high.power(p), base.low.power(p))

    def exp(self) -> "Bounds":
        """e^f."""
        return Bounds(self.low.exp(), self.high.exp())

    def log(self) -> "Bounds":
        """log f; raises Undecided if f may not be positive."""
        if self.precise is None and self.low.sign <= 0 < self.high.sign:
            raise Undecided("the argument of a logarithm may not be positive")
        return Bounds(self.low.log(), self.high.log())

    def floor(self) -> "Bounds":
        """⌊f⌋: known if f has a limit, otherwise between f − 1 and f."""
        if self.precise is None:
            return Bounds(self.low - UNIT, self.high)
        limit = bounded_limit(self.low)
        if limit is None:
            return Bounds(self.low - UNIT, self.low)
        exact = limit.rational
        approximate = float(limit)
        if exact is None and abs(approximate - round(approximate)) < ROUNDING * max(
            1.0, abs(approximate)
        ):
            raise Undecided("a number is whole up to rounding")
        whole = Expansion.constant(math.floor(approximate if exact is None else exact))
        # f goes to a whole number, and is below it for all large t.
        if exact is not None and exact.denominator == 1 and (self.low - whole).sign < 0:
            return Bounds.exactly(whole - UNIT)
        return Bounds.exactly(whole)


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
    return Bounds(_larger(one.low, two.low), _larger(one.high, two.high))


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


def _larger(one: Expansion, two: Expansion) -> Expansion:
    """The larger one for large t, or somewhat more than both if their leading terms are equal."""
    try:
        return one if one == two or (one - two).sign >= 0 else two
    except Undecided:
        (c, size), (d, other) = one.leading, two.leading
        if size != other:
            raise
        # 2⁻²⁰: what follows the leading terms is of a lower order, so any share above 0 is enough.
        above = max(float(c), float(d)) + 2.0**-20 * abs(float(c))
        return Expansion(((Number.rounded(above), size),))
