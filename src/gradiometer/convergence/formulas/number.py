"""Constants of a formula: a `Fraction` is exact, a float is known up to rounding.

The sum of 1/t^p is finite only for p > 1, so rounding must never decide if p is 1 or slightly more:
a sum of constants that cancels to rounding raises `Undecided`.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

# A sum of doubles smaller than this, relative to its terms, may be zero.
ROUNDING = 1e-9

# Larger powers are rounded: an exact one of many digits takes seconds.
LARGEST_BITS = 4096

# A plain number.
Amount = int | float
Constant = Fraction | float


class Undecided(Exception):
    """The analysis has no answer. `theorem` catches it and reports `None`."""


def exact(value: Fraction | Amount) -> Fraction:
    """The exact number. A float stands for the decimal it prints as: 0.1 + 0.2 + 0.7 is exactly
    1."""
    return Fraction(repr(value)) if isinstance(value, float) else Fraction(value)


def plus(one: Constant, two: Constant) -> Constant:
    """The sum; raises Undecided if it may be zero because of rounding alone."""
    total = one + two
    if isinstance(total, float) and abs(total) <= ROUNDING * max(abs(float(one)), abs(float(two))):
        raise Undecided("two constants cancel to rounding")
    return total


def times(one: Constant, two: Constant) -> Constant:
    """The product of two numbers other than zero."""
    product = one * two
    if isinstance(product, float):
        if not 0 < abs(product) < math.inf:
            raise Undecided("a constant leaves the range of doubles")
    elif _bits(product) > 4 * LARGEST_BITS:
        raise Undecided("a constant has too many digits")
    return product


def power_of(base: Constant, exponent: Constant) -> Constant:
    """base^exponent for a base other than zero."""
    whole = int(exponent) if isinstance(exponent, Fraction) and exponent.denominator == 1 else None
    if base < 0 and whole is None:
        raise ValueError("a negative number to a fractional power")
    if (
        whole is not None
        and isinstance(base, Fraction)
        and abs(whole) * _bits(base) <= LARGEST_BITS
    ):
        return base**whole
    if base == 1:
        return Fraction(1)
    return times(float(base) ** float(exponent), Fraction(1))


def logarithm_of(value: Constant) -> Constant:
    """log of a positive number, as accurate near 1 as elsewhere."""
    if not plus(value, Fraction(-1)):
        return Fraction(0)
    return math.log1p(value - 1) if value > 1 else -math.log1p(1 / value - 1)


def sign(value: Constant) -> int:
    """−1, 0 or 1."""
    return (value > 0) - (value < 0)


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


@dataclass(frozen=True)
class Range:
    """A factor of which only bounds are known, such as a sine; exact if they are equal.

    Args:
        low, high: The bounds, each of which may be taken.
        nonzero: True if the factor is never zero, though it may come close to it.
    """

    low: Constant
    high: Constant
    nonzero: bool = False

    @classmethod
    def of(cls, value: Constant) -> "Range":
        """An exact number."""
        return cls(value, value)

    @property
    def exact(self) -> Constant | None:
        """The number if it is exact, else None."""
        return self.low if self.low == self.high else None

    @property
    def apart(self) -> int:
        """1 or −1 if the factor has this sign and stays away from zero, else 0."""
        return (self.low > 0) - (self.high < 0)

    def __neg__(self) -> "Range":
        return Range(-self.high, -self.low, self.nonzero)

    def __add__(self, other: "Range") -> "Range":
        return Range(plus(self.low, other.low), plus(self.high, other.high))

    def __mul__(self, other: "Range") -> "Range":
        ends = [
            times(one, two) if one and two else Fraction(0)
            for one in (self.low, self.high)
            for two in (other.low, other.high)
        ]
        kept = (self.nonzero or self.apart != 0) and (other.nonzero or other.apart != 0)
        return Range(min(ends), max(ends), kept)

    def __abs__(self) -> "Range":
        if self.low >= 0:
            return self
        return -self if self.high <= 0 else Range(Fraction(0), max(-self.low, self.high))

    def power(self, exponent: Constant) -> "Range":
        """Of a factor that stays away from zero. A power is monotone on each side of it."""
        ends = [power_of(end, exponent) for end in (self.low, self.high)]
        return Range(min(ends), max(ends))

    def hull(self, other: "Range") -> "Range":
        """Bounds of a factor that is one of the two at every step."""
        return Range(min(self.low, other.low), max(self.high, other.high))
