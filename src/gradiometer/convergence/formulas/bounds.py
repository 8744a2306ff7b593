"""A value for large t that is known exactly or lies between two expansions: how oscillation and rounding down are held.

Every rule here is a proof: what cannot be shown raises `Undecided`, what is undefined for all large t raises
`ZeroDivisionError` or `ValueError`, as the same operation on floats would.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from gradiometer.convergence.formulas.expansion import CONSTANT, TERMS, Expansion, Monomial, unit
from gradiometer.convergence.formulas.number import ONE, ZERO, Number, Undecided

NIL = Expansion()
UNIT = Expansion.constant(1)
SUPERPOLYNOMIAL = Monomial(((unit(0), Number(Fraction(1, 1000))),))
"""exp(t/1000): whatever grows as fast outgrows all powers of t, and more than the scale can hold in an exponent."""
GAUSSIAN = Monomial((((Fraction(2), *unit(0)[1:]), -ONE),))
"""exp(−t²)."""


@dataclass(frozen=True)
class Share:
    """At a share of the steps of every long block, something is at least c·size for a fixed c > 0.

    Args:
        size: The monomial.
        density: That share; 1 means that c may be chosen to leave out as few steps as one likes.
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
    """The one that promises most: the larger size, or the larger density at the same size."""
    best: Share | None = None
    for share in shares:
        if share is None:
            continue
        order = 1 if best is None else share.size.compared(best.size)
        if best is None or order > 0 or (order == 0 and share.density > best.density):
            best = share
    return best


def both(one: Share | None, two: Share | None) -> Share | None:
    """What a product of two such things promises: at least d₁ + d₂ − 1 of the steps belong to both shares."""
    if one is None or two is None or not one.density + two.density > 1:
        return None
    return Share(one.size * two.size, one.density + two.density - 1)


@dataclass(frozen=True)
class Bounds:
    """low ≤ f(t) ≤ high for all large t.

    Args:
        low, high: The ends; the same object where f is known.
        rise: How far f − low keeps above zero, and at what share of the steps.
        drop: The same for high − f.
        diffuse: f, in units of the band's width, lingers at no value: sin t does not, a square wave does.
    """

    low: Expansion
    high: Expansion
    rise: Share | None = None
    drop: Share | None = None
    diffuse: bool = False

    @classmethod
    def exactly(cls, value: Expansion) -> "Bounds":
        """A value that is known."""
        return cls(value, value)

    @property
    def precise(self) -> Expansion | None:
        """The value where it is known."""
        return self.low if self.low == self.high else None

    @property
    def sign(self) -> int | None:
        """1, −1 or 0 where that is its sign for all large t, else None."""
        if self.precise is not None:
            return self.low.sign
        return 1 if self.low.sign > 0 else -1 if self.high.sign < 0 else None

    @property
    def magnitude(self) -> Expansion:
        """An upper end for |f|."""
        return _larger(-self.low, self.high)

    def __neg__(self) -> "Bounds":
        return Bounds(-self.high, -self.low, self.drop, self.rise, self.diffuse)

    def __add__(self, other: "Bounds") -> "Bounds":
        if self.precise is not None and other.precise is not None:
            return Bounds.exactly(self.low + other.low)
        diffuse = (self.diffuse and other.precise is not None) or (other.diffuse and self.precise is not None)
        rise, drop = larger_share(self.rise, other.rise), larger_share(self.drop, other.drop)
        return Bounds(self.low + other.low, self.high + other.high, rise, drop, diffuse)

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
        return Bounds(self.low * factor, self.high * factor, rise, drop, self.diffuse)

    def __abs__(self) -> "Bounds":
        if self.low.sign >= 0:
            return self
        if self.high.sign <= 0:
            return -self
        rise = Share(self.magnitude.leading[1]) if self.diffuse else None
        return Bounds(NIL, self.magnitude, rise, None, self.diffuse)

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
        superadditive = not p < ONE  # (x + y)^p ≥ x^p + y^p for p ≥ 1
        rise = self.rise.power(p) if self.rise and (superadditive or self.low.is_zero) else None
        drop = self.drop.power(p) if self.drop and superadditive else None
        return Bounds(self.low.power(p), self.high.power(p), rise, drop, self.diffuse and self.low.is_zero)

    def exp(self) -> "Bounds":
        """e^f; where f falls faster than any power of t, that is all that is kept."""
        if self.high.sign < 0 and self.high.leading[1].compared(SUPERPOLYNOMIAL) >= 0:
            return Bounds(NIL, Expansion(((ONE, GAUSSIAN),)))
        return self._increasing(Expansion.exp)

    def log(self) -> "Bounds":
        """log f; Undecided where f may not be positive."""
        if self.precise is None and self.low.sign <= 0 < self.high.sign:
            raise Undecided("the argument of a logarithm may not be positive")
        return self._increasing(Expansion.log)

    def _increasing(self, function: Callable[[Expansion], Expansion]) -> "Bounds":
        low = function(self.low)
        return Bounds(low, low if self.precise is not None else function(self.high))

    def floor(self) -> "Bounds":
        """⌊f⌋: known where f has a limit, otherwise within 1 below f."""
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
    """The limit of an expansion where it is finite."""
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
    rise = larger_share(*(band.rise for band, ahead in ((one, order >= 0), (two, order <= 0)) if ahead))
    return Bounds(one.low if order >= 0 else two.low, _larger(one.high, two.high), rise)


def minimum(one: Bounds, two: Bounds) -> Bounds:
    """The smaller of two at every step."""
    if one.precise is None and two.precise is None and one.low.is_zero and two.low.is_zero:
        shares = both(one.rise, two.rise)
        size = one.rise and two.rise and min((one.rise.size, two.rise.size), key=_order_key(one.rise.size))
        high = -_larger(-one.high, -two.high)
        return Bounds(NIL, high, replace(shares, size=size) if shares and size else None)
    smaller = -maximum(-one, -two)
    for band, other in ((one, two), (two, one)):
        if smaller.rise is None and smaller.low.is_zero and band.rise and other.low.sign > 0:
            size = min((band.rise.size, other.low.leading[1]), key=_order_key(band.rise.size))
            smaller = replace(smaller, rise=replace(band.rise, size=size))
    return smaller


def hull(bands: tuple[Bounds, ...], share: Fraction) -> Bounds:
    """One band around several, each of which holds at a share of the steps; 0 where that share is not known."""
    low, high = bands[0].low, bands[0].high
    for band in bands[1:]:
        low, high = -_larger(-low, -band.low), _larger(high, band.high)
    if low == high:
        return Bounds.exactly(low)
    rises: list[Share] = []
    for band in bands:
        gap = band.low - low if band.low != low else NIL
        if gap.sign > 0:
            rises.append(Share(gap.leading[1], share))
        elif band.rise:
            rises.append(Share(band.rise.size, band.rise.density * share))
    best = larger_share(*rises)
    if best is not None:
        together = sum((rise.density for rise in rises if rise.size == best.size), Fraction(0))
        best = Share(best.size, together) if together > 0 else None
    return Bounds(low, high, best)


def sine(value: Expansion) -> Expansion:
    """sin of an expansion that goes to zero."""
    coefficients, factorial = [ZERO] * TERMS, 1
    for n in range(1, TERMS):
        factorial *= n
        if n % 2:
            coefficients[n] = Number(Fraction((-1) ** (n // 2), factorial))
    return value.series(coefficients)


def cosine(value: Expansion) -> Expansion:
    """cos of an expansion that goes to zero."""
    coefficients, factorial = [ZERO] * TERMS, 1
    for n in range(TERMS):
        factorial *= max(n, 1)
        if n % 2 == 0:
            coefficients[n] = Number(Fraction((-1) ** (n // 2), factorial))
    return value.series(coefficients)


def _larger(one: Expansion, two: Expansion) -> Expansion:
    return one if one == two or (one - two).sign >= 0 else two


def _order_key(reference: Monomial) -> Callable[[Monomial], int]:
    return lambda monomial: monomial.compared(reference)


def _nearest_integer_below(value: Number) -> int:
    if value.rational is not None:
        return value.rational.numerator // value.rational.denominator
    approximate = float(value)
    if abs(approximate - round(approximate)) < 1e-9 * max(1.0, abs(approximate)):
        raise Undecided("a number is whole to rounding")
    return int(approximate // 1)
