"""Constants of a formula, exact as long as possible: rationals times powers of π and of logarithms.

The sum of 1/t^p is finite only for p > 1, so rounding must never decide if p is 1 or slightly more.
A constant that cannot be exact becomes a double that is marked as rounded, and a sum of doubles
that cancels to rounding raises `Undecided`.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

PI = "pi"
ROUNDING = 1e-9
"""A sum of doubles smaller than this, relative to its terms, may be zero."""
LARGEST_BITS = 4096

Amount = int | float
"""A plain number."""
Atom = Fraction | str
"""A factor of a rational: π, or the logarithm of a rational above 1."""


class Undecided(Exception):
    """The analysis has no answer. `theorem` catches it and reports `None`."""


@dataclass(frozen=True)
class Number:
    """A real constant: an exact rational times powers of atoms, or a rounded double.

    Args:
        factor: A `Fraction` if exact; otherwise a float other than zero.
        atoms: Powers of π and of logarithms, sorted; empty for a float.
    """

    factor: Fraction | float
    atoms: tuple[tuple[Atom, int], ...] = ()

    @classmethod
    def of(cls, value: "Number | Fraction | Amount") -> "Number":
        """The exact number. A float stands for the decimal it prints as: 0.1 is one tenth."""
        if isinstance(value, Number):
            return value
        if isinstance(value, float):
            if not math.isfinite(value):
                raise Undecided("a constant is not finite")
            # 0.1 is one tenth for its author: 0.1 + 0.2 + 0.7 must be exactly 1.
            return cls(Fraction(repr(value)))
        return cls(Fraction(value))

    @classmethod
    def rounded(cls, value: float) -> "Number":
        """A double that is known only up to rounding."""
        if not math.isfinite(value) or value == 0:
            raise Undecided("a constant leaves the range of doubles")
        return cls(float(value))

    @property
    def rational(self) -> Fraction | None:
        """The exact value if it is rational, else None."""
        return self.factor if isinstance(self.factor, Fraction) and not self.atoms else None

    @property
    def sign(self) -> int:
        """−1, 0 or 1: the atoms are all positive."""
        return (self.factor > 0) - (self.factor < 0)

    def __float__(self) -> float:
        try:
            value = float(self.factor)
            for atom, power in self.atoms:
                value *= (math.pi if isinstance(atom, str) else _log(atom)) ** power
        except OverflowError as error:
            raise Undecided("a constant leaves the range of doubles") from error
        return value

    def __neg__(self) -> "Number":
        return Number(-self.factor, self.atoms)

    def __add__(self, other: "Number") -> "Number":
        if not self.sign or not other.sign:
            return self if self.sign else other
        if (
            isinstance(self.factor, Fraction)
            and isinstance(other.factor, Fraction)
            and self.atoms == other.atoms
        ):
            factor = self.factor + other.factor
            return Number(factor, self.atoms if factor else ())
        mine, theirs = float(self), float(other)
        # The difference may be zero or not, and whether a sum is finite may hang on it.
        if abs(mine + theirs) <= ROUNDING * max(abs(mine), abs(theirs)):
            raise Undecided("two constants cancel to rounding")
        return Number.rounded(mine + theirs)

    def __sub__(self, other: "Number") -> "Number":
        return self + -other

    def __mul__(self, other: "Number") -> "Number":
        if not self.sign or not other.sign:
            return ZERO
        if isinstance(self.factor, Fraction) and isinstance(other.factor, Fraction):
            powers = dict(self.atoms)
            for atom, power in other.atoms:
                powers[atom] = powers.get(atom, 0) + power
            kept = sorted(
                ((atom, power) for atom, power in powers.items() if power),
                key=lambda pair: str(pair[0]),
            )
            return Number(_check_digits(self.factor * other.factor), tuple(kept))
        return Number.rounded(float(self) * float(other))

    def reciprocal(self) -> "Number":
        """1/x, for x other than zero."""
        if not self.sign:
            raise ZeroDivisionError("division by zero")
        if isinstance(self.factor, Fraction):
            return Number(1 / self.factor, tuple((atom, -power) for atom, power in self.atoms))
        return Number.rounded(1 / self.factor)

    def __truediv__(self, other: "Number") -> "Number":
        return self * other.reciprocal()

    def power(self, exponent: "Number") -> "Number":
        """x^p. Exact if x is rational and p an integer, or if the root is rational."""
        rational, p = self.rational, exponent.rational
        # Exact also for π and logarithms, of which other powers are rounded.
        if exponent == MINUS_ONE:
            return self.reciprocal()
        if self.sign < 0 and (p is None or p.denominator != 1):
            raise ValueError("a negative number to a fractional power")
        if not self.sign:
            if exponent.sign < 0:
                raise ZeroDivisionError("division by zero")
            return ZERO if exponent.sign else ONE
        if rational is not None and p is not None:
            root = _root(rational, p.denominator)
            if root is not None and abs(p) * max(_bits(root), 1) <= LARGEST_BITS:
                return Number(root ** int(p.numerator))
        try:
            return Number.rounded(float(self) ** float(exponent))
        except OverflowError as error:
            raise Undecided("a constant leaves the range of doubles") from error

    def exp(self) -> "Number":
        """e^x; undoes a logarithm exactly."""
        if not self.sign:
            return ONE
        if isinstance(self.factor, Fraction) and len(self.atoms) == 1 and self.atoms[0][1] == 1:
            atom = self.atoms[0][0]
            if isinstance(atom, Fraction):
                return Number(atom).power(Number(self.factor))
        try:
            return Number.rounded(math.exp(float(self)))
        except OverflowError as error:
            raise Undecided("a constant leaves the range of doubles") from error

    def log(self) -> "Number":
        """log x, for x > 0; log 9 is stored as 2 log 3, so that log 9 / log 3 is exactly 2."""
        if not self.sign > 0:
            raise ValueError("the logarithm of a number that is not positive")
        rational = self.rational
        if rational is None:
            return Number.rounded(math.log(float(self)))
        if rational == 1:
            return ZERO
        base, sign = (rational, 1) if rational > 1 else (1 / rational, -1)
        for degree in range(_bits(base), 1, -1):
            root = _root(base, degree)
            if root is not None:
                return Number(Fraction(sign * degree), ((root, 1),))
        return Number(Fraction(sign), ((base, 1),))


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _check_digits(value: Fraction) -> Fraction:
    if _bits(value) > 4 * LARGEST_BITS:
        raise Undecided("a constant has too many digits")
    return value


def _log(value: Fraction) -> float:
    return math.log(value.numerator) - math.log(value.denominator)


def _root(value: Fraction, degree: int) -> Fraction | None:
    """The rational root of a degree, or None if none is known."""
    if degree == 1:
        return value
    if value < 0:
        return None
    # A root beyond doubles, or beyond their 53 bits, is not found: its logarithm is then rounded.
    try:
        parts = [round(part ** (1 / degree)) for part in (value.numerator, value.denominator)]
    except OverflowError:
        return None
    root = Fraction(*parts) if parts[1] else Fraction(0)
    return root if root**degree == value else None


ZERO = Number(Fraction(0))
ONE = Number(Fraction(1))
MINUS_ONE = Number(Fraction(-1))
