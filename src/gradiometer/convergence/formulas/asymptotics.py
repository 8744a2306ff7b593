"""Numbers that stand for a formula's behaviour for all large t, with Python's own operators.

A formula written for integers and floats runs unchanged on a `Behaviour`: what comes out is a proof about its tail.
So a schedule never states its decay twice, and the decay cannot drift from the formula. A condition such as
`step < 100` is answered by what holds for all large t.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Union

from gradiometer.convergence.formulas.bounds import (
    NIL,
    UNIT,
    Bounds,
    Share,
    bounded_limit,
    cosine,
    hull,
    maximum,
    minimum,
    sine,
)
from gradiometer.convergence.formulas.expansion import CONSTANT, TIME, Expansion
from gradiometer.convergence.formulas.number import ONE, PI, ZERO, Number, Undecided

LARGEST_PERIOD = 1024
"""Longer periods are held as one band, not step by step."""
Real = Union[int, float, Fraction, Number, "Behaviour"]


@dataclass(frozen=True, eq=False)
class Behaviour:
    """f(t) for all large t; at t ≡ r modulo the number of branches it is the r-th branch.

    Made by `TIME_PASSES` (t itself), `Behaviour.constant`, and arithmetic on them.
    """

    branches: tuple[Bounds, ...]

    @classmethod
    def constant(cls, value: "Real") -> "Behaviour":
        """A constant; a float is the decimal it prints as."""
        if isinstance(value, Behaviour):
            return value
        return cls((Bounds.exactly(Expansion.constant(value)),))

    @property
    def whole(self) -> Bounds:
        """All branches in one band."""
        return self.branches[0] if len(self.branches) == 1 else hull(self.branches, Fraction(1, len(self.branches)))

    def each(self, function: Callable[[Bounds], Bounds]) -> "Behaviour":
        """A function of every branch."""
        return Behaviour(tuple(function(band) for band in self.branches))

    def __add__(self, other: "Real") -> "Behaviour":
        return _pairwise(operator.add, self, other)

    def __sub__(self, other: "Real") -> "Behaviour":
        return _pairwise(operator.sub, self, other)

    def __mul__(self, other: "Real") -> "Behaviour":
        return _pairwise(operator.mul, self, other)

    def __truediv__(self, other: "Real") -> "Behaviour":
        return self * Behaviour.constant(other).each(lambda band: band.power(-ONE))

    def __floordiv__(self, other: "Real") -> "Behaviour":
        return floor(self / other)

    def __mod__(self, other: "Real") -> "Behaviour":
        return self - floor(self / other) * other

    def __pow__(self, other: "Real") -> "Behaviour":
        return _pairwise(_power, *_with_real_base(self, Behaviour.constant(other)))

    def __radd__(self, other: "Real") -> "Behaviour":
        return Behaviour.constant(other) + self

    def __rsub__(self, other: "Real") -> "Behaviour":
        return Behaviour.constant(other) - self

    def __rmul__(self, other: "Real") -> "Behaviour":
        return Behaviour.constant(other) * self

    def __rtruediv__(self, other: "Real") -> "Behaviour":
        return Behaviour.constant(other) / self

    def __rfloordiv__(self, other: "Real") -> "Behaviour":
        return Behaviour.constant(other) // self

    def __rmod__(self, other: "Real") -> "Behaviour":
        return Behaviour.constant(other) % self

    def __rpow__(self, other: "Real") -> "Behaviour":
        return Behaviour.constant(other) ** self

    def __neg__(self) -> "Behaviour":
        return self.each(operator.neg)

    def __pos__(self) -> "Behaviour":
        return self

    def __abs__(self) -> "Behaviour":
        return self.each(abs)

    def __lt__(self, other: "Real") -> "Behaviour":
        return compared(self, "<", other)

    def __le__(self, other: "Real") -> "Behaviour":
        return compared(self, "<=", other)

    def __gt__(self, other: "Real") -> "Behaviour":
        return compared(self, ">", other)

    def __ge__(self, other: "Real") -> "Behaviour":
        return compared(self, ">=", other)

    def __bool__(self) -> bool:
        truths = {_truth(band) for band in self.branches}
        if len(truths) != 1 or None in truths:
            raise Undecided("a condition holds at some steps and not at others")
        return bool(truths.pop())


TIME_PASSES = Behaviour((Bounds.exactly(Expansion(((ONE, TIME),))),))
"""t itself: the step counted from 1."""

COMPARISONS: dict[str, Callable[[int], bool]] = {
    "<": lambda sign: sign < 0,
    "<=": lambda sign: sign <= 0,
    ">": lambda sign: sign > 0,
    ">=": lambda sign: sign >= 0,
    "==": lambda sign: sign == 0,
    "!=": lambda sign: sign != 0,
}


def compared(one: "Real", symbol: str, two: "Real") -> Behaviour:
    """1 where the comparison holds, 0 where it does not, in between where that is not known."""
    holds = COMPARISONS[symbol]

    def answer(difference: Bounds) -> Bounds:
        signs = {difference.sign} if difference.sign is not None else {-1, 0, 1}
        if difference.sign is None and difference.low.sign >= 0:
            signs.discard(-1)
        if difference.sign is None and difference.high.sign <= 0:
            signs.discard(1)
        answers = {holds(sign) for sign in signs if sign is not None}
        return Bounds(NIL, UNIT) if len(answers) == 2 else Bounds.exactly(UNIT if answers.pop() else NIL)

    return (Behaviour.constant(one) - two).each(answer)


def chosen(test: "Real", one: "Real", two: "Real") -> Behaviour:
    """The first where the test is not zero, the second where it is."""
    picks = [Behaviour.constant(value) for value in (test, one, two)]
    period = _common_period(picks)
    tests, ones, twos = (_spread(value, period) for value in picks)
    return Behaviour(
        tuple(
            hull((first, second), Fraction(0)) if truth is None else first if truth else second
            for truth, first, second in zip(map(_truth, tests), ones, twos, strict=True)
        )
    )


def floor(value: "Real") -> Behaviour:
    """⌊f⌋; of a rational multiple of t it is exact, one branch for each remainder."""

    def at(residue: int, value: Expansion, line: tuple[Fraction, Fraction]) -> Bounds:
        slope, offset = line
        here = slope * residue + offset
        return Bounds.exactly(value + Expansion.constant(math.floor(here) - here))

    return _by_remainder(Behaviour.constant(value), at, Bounds.floor)


def exp(value: "Real") -> Behaviour:
    """e^f."""
    return Behaviour.constant(value).each(Bounds.exp)


def log(value: "Real") -> Behaviour:
    """The natural logarithm."""
    return Behaviour.constant(value).each(Bounds.log)


def cos(value: "Real") -> Behaviour:
    """The cosine: exact along rational multiples of π t, a series where its argument vanishes, else in [−1, 1]."""
    turns = Behaviour.constant(value) * Number(Fraction(1), ((PI, -1),))

    def at(residue: int, _: Expansion, line: tuple[Fraction, Fraction]) -> Bounds:
        slope, offset = line
        return Bounds.exactly(Expansion.constant(_cosine_of_half_turns(slope * residue + offset)))

    return _by_remainder(turns, at, _cosine_of_turns, repeats=2)


def sin(value: "Real") -> Behaviour:
    """The sine."""
    return cos(Behaviour.constant(value) - Number(Fraction(1, 2), ((PI, 1),)))


def larger(one: "Real", two: "Real") -> Behaviour:
    """The larger of two at every step."""
    return _pairwise(maximum, Behaviour.constant(one), two)


def smaller(one: "Real", two: "Real") -> Behaviour:
    """The smaller of two at every step."""
    return _pairwise(minimum, Behaviour.constant(one), two)


def _truth(band: Bounds) -> bool | None:
    return None if band.sign is None else band.sign != 0


def _common_period(values: list[Behaviour]) -> int:
    return math.lcm(*(len(value.branches) for value in values))


def _spread(value: Behaviour, period: int) -> tuple[Bounds, ...]:
    return value.branches * (period // len(value.branches))


def _pairwise(function: Callable[[Bounds, Bounds], Bounds], one: "Real", two: "Real") -> Behaviour:
    values = [Behaviour.constant(one), Behaviour.constant(two)]
    period = _common_period(values)
    if period > LARGEST_PERIOD:
        return Behaviour((function(values[0].whole, values[1].whole),))
    return Behaviour(tuple(map(function, *(_spread(value, period) for value in values))))


def _power(base: Bounds, exponent: Bounds) -> Bounds:
    constant = exponent.precise.as_constant if exponent.precise is not None else None
    if constant is not None:
        return base.power(constant)
    if base.precise is not None and base.precise.is_zero:
        if exponent.low.sign > 0:
            return base
        raise Undecided("a power of zero")
    return (exponent * base.log()).exp()


def _with_real_base(base: Behaviour, exponent: Behaviour) -> tuple[Any, ...]:
    """(−c)^n is c^n cos πn for whole n: the sign is split off where the base is a negative constant."""
    constant = base.whole.precise.as_constant if base.whole.precise is not None else None
    power = exponent.whole.precise.as_constant if exponent.whole.precise is not None else None
    if constant is None or constant.sign >= 0 or power is not None:
        return base, exponent
    if (exponent - floor(exponent)).whole != Bounds.exactly(NIL):
        raise ValueError("a negative number to a fractional power")
    sign = cos(exponent * Number(Fraction(1), ((PI, 1),)))
    return sign * _pairwise(_power, -base, exponent), Behaviour.constant(1)


def _by_remainder(
    value: Behaviour,
    at: Callable[[int, Expansion, tuple[Fraction, Fraction]], Bounds],
    otherwise: Callable[[Bounds], Bounds],
    repeats: int = 1,
) -> Behaviour:
    """Apply `at` to the remainders of t where f is a rational line in t, `otherwise` to every other branch."""
    lines = [_line(band) for band in value.branches]
    period = len(lines)
    for line in lines:
        if line is not None:
            period = math.lcm(period, repeats * line[0].denominator)
    if period > LARGEST_PERIOD:
        return Behaviour((otherwise(value.whole),))
    branches = []
    for residue, band in enumerate(_spread(value, period)):
        line = lines[residue % len(lines)]
        branches.append(otherwise(band) if line is None else at(residue, band.low, line))
    return Behaviour(tuple(branches))


def _line(band: Bounds) -> tuple[Fraction, Fraction] | None:
    """Slope and offset, where the band is exactly a rational line in t."""
    value = band.precise
    if value is None or value.rest is not None:
        return None
    powers = {monomial: coefficient.rational for coefficient, monomial in value.terms}
    slope, offset = powers.pop(TIME, Fraction(0)), powers.pop(CONSTANT, Fraction(0))
    return None if powers or slope is None or offset is None else (slope, offset)


def _cosine_of_half_turns(halves: Fraction) -> Number:
    """cos(π x): exact where it is rational, by Niven's theorem at multiples of π/3 and π/2 only."""
    x = halves % 2
    x = min(x, 2 - x)
    exact = {0: "1", Fraction(1, 3): "1/2", Fraction(1, 2): "0", Fraction(2, 3): "-1/2", 1: "-1"}
    return Number(Fraction(exact[x])) if x in exact else Number.rounded(math.cos(math.pi * float(x)))


def _cosine_of_turns(turns: Bounds) -> Bounds:
    """cos(π u) for a u that is not a rational line in t."""
    anywhere = Bounds(-UNIT, UNIT)
    value = turns.precise
    if value is None or (value.rest is not None and value.rest.direction >= 0):
        return anywhere
    limit = bounded_limit(value)
    if limit is not None:
        small = (value - Expansion.constant(limit)) * Expansion.constant(Number(Fraction(1), ((PI, 1),)))
        angles = (limit, limit - Number(Fraction(1, 2)))
        first, second = (_cosine_of_constant(angle) for angle in angles)
        parts = Expansion.constant(first) * cosine(small) - Expansion.constant(second) * sine(small)
        return Bounds.exactly(parts)
    powers = {monomial: coefficient for coefficient, monomial in value.terms}
    slope = powers.pop(TIME, ZERO)
    powers.pop(CONSTANT, None)
    if powers or value.rest is not None or not (slope.exact and slope.atoms == ((PI, -1),)):
        return anywhere
    # The slope is rational, in radians a step: π is irrational, so the angles are spread evenly (Weyl).
    share = Share(CONSTANT)
    return Bounds(-UNIT, UNIT, share, share, diffuse=True)


def _cosine_of_constant(turns: Number) -> Number:
    if turns.rational is not None:
        return _cosine_of_half_turns(turns.rational)
    return Number.rounded(math.cos(math.pi * float(turns)))
