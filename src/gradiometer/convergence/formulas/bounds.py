"""A value for large t that is known exactly or lies between two expansions, as oscillation and rounding down need.

Every rule here is a proof. A rule that cannot be shown raises `Undecided`. An operation that is undefined for all
large t raises `ZeroDivisionError` or `ValueError`, as the same operation on floats would.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from gradiometer.convergence.formulas.expansion import CONSTANT, Expansion, Monomial, by_size
from gradiometer.convergence.formulas.number import ONE, ZERO, Number, Undecided

NIL = Expansion()
UNIT = Expansion.constant(1)
ABOVE = 2.0**-20
"""How far a bound of two values that are equal up to rounding is above them, as a share."""


@dataclass(frozen=True)
class Share:
    """At a share of the steps of every block from t to λt, a value is at least c·size for fixed c > 0 and λ > 1.

    Args:
        size: The monomial.
        density: The share; 1 means that a small enough c leaves out an arbitrarily small share of the steps.
    """

    size: Monomial
    density: Fraction = Fraction(1)

    def times(self, factor: Expansion) -> "Share | None":
        """The share of the product with a positive factor."""
        return None if factor.is_zero else Share(self.size * factor.leading[1], self.density)

    def power(self, exponent: Number) -> "Share":
        """The share of the power, for a positive exponent."""
        return Share(self.size.power(exponent), self.density)


def larger_share(*shares: Share | None) -> Share | None:
    """The strongest one: the larger size, or the larger density at the same size."""
    known = [share for share in shares if share is not None]
    return max(known, key=lambda share: (by_size(share.size), share.density), default=None)


def both(one: Share | None, two: Share | None) -> Share | None:
    """The share of a product: at least d₁ + d₂ − 1 of the steps belong to both shares."""
    if one is None or two is None or not one.density + two.density > 1:
        return None
    return Share(one.size * two.size, one.density + two.density - 1)


@dataclass(frozen=True)
class Bounds:
    """low ≤ f(t) ≤ high for all large t.

    Args:
        low, high: The ends; equal if f is known exactly.
        rise: How far f − low stays above zero, and at what share of the steps.
        drop: The same for high − f.
    """

    low: Expansion
    high: Expansion
    rise: Share | None = None
    drop: Share | None = None

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
        return Bounds(-self.high, -self.low, self.drop, self.rise)

    def __add__(self, other: "Bounds") -> "Bounds":
        if self.precise is not None and other.precise is not None:
            return Bounds.exactly(self.low + other.low)
        rise, drop = larger_share(self.rise, other.rise), larger_share(self.drop, other.drop)
        return Bounds(self.low + other.low, self.high + other.high, rise, drop)

    def __sub__(self, other: "Bounds") -> "Bounds":
        return self + -other

    def __mul__(self, other: "Bounds") -> "Bounds":
        if self.precise is not None and other.precise is not None:
            return Bounds.exactly(self.low * other.low)
        if self.precise is not None or other.precise is not None:
            return other._scaled(self.low) if self.precise is not None else self._scaled(other.low)
        if self.high.sign <= 0:
            return -(-self * other)
        if other.high.sign <= 0:
            return -(self * -other)
        if self.low.sign < 0 or other.low.sign < 0:
            product = self.magnitude * other.magnitude
            return Bounds(-product, product)
        rises = [both(self.rise, other.rise)]
        rises += [one.rise and one.rise.times(two.low) for one, two in ((self, other), (other, self))]
        return Bounds(self.low * other.low, self.high * other.high, larger_share(*rises))

    def _scaled(self, factor: Expansion) -> "Bounds":
        if factor.sign < 0:
            return -self._scaled(-factor)
        if factor.is_zero:
            return Bounds.exactly(NIL)
        rise, drop = (share and share.times(factor) for share in (self.rise, self.drop))
        return Bounds(self.low * factor, self.high * factor, rise, drop)

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
        rise = self.rise.power(p) if self.rise and (superadditive or self.low.is_zero) else None
        drop = self.drop.power(p) if self.drop and superadditive else None
        return Bounds(self.low.power(p), self.high.power(p), rise, drop)

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
    rise = larger_share(*(bounds.rise for bounds, ahead in ((one, order >= 0), (two, order <= 0)) if ahead))
    return Bounds(one.low if order >= 0 else two.low, _larger(one.high, two.high), rise)


def minimum(one: Bounds, two: Bounds) -> Bounds:
    """The smaller of two at every step."""
    if one.precise is None and two.precise is None and one.low.is_zero and two.low.is_zero:
        shares = both(one.rise, two.rise)
        size = one.rise and two.rise and min(one.rise.size, two.rise.size, key=by_size)
        high = -_larger(-one.high, -two.high)
        return Bounds(NIL, high, replace(shares, size=size) if shares and size else None)
    smaller = -maximum(-one, -two)
    for bounds, other in ((one, two), (two, one)):
        if smaller.rise is None and smaller.low.is_zero and bounds.rise and other.low.sign > 0:
            size = min(bounds.rise.size, other.low.leading[1], key=by_size)
            smaller = replace(smaller, rise=replace(bounds.rise, size=size))
    return smaller


def hull(parts: tuple[Bounds, ...], share: Fraction) -> Bounds:
    """Bounds around several ones. Each holds at a share of the steps; 0 means that the share is not known."""
    low, high = parts[0].low, parts[0].high
    for part in parts[1:]:
        low, high = -_larger(-low, -part.low), _larger(high, part.high)
    if low == high:
        return Bounds.exactly(low)
    rises: list[Share] = []
    for part in parts:
        gap = part.low - low if part.low != low else NIL
        if gap.sign > 0:
            rises.append(Share(gap.leading[1], share))
        elif part.rise:
            rises.append(Share(part.rise.size, part.rise.density * share))
    best = larger_share(*rises)
    if best is not None:
        together = sum((rise.density for rise in rises if rise.size == best.size), Fraction(0))
        best = Share(best.size, together) if together > 0 else None
    return Bounds(low, high, best)


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
