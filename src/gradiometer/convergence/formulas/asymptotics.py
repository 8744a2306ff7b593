"""Asymptotics of formulas: how a formula behaves for all large t, computed with Python's operators.

A formula written for integers and floats runs unchanged on `Asymptotics`, and the result is a
proof. So a schedule never states its decay a second time, and the two cannot disagree. A condition
such as `step < 100` is answered for all large t.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Union

from gradiometer.convergence.formulas.angles import (
    PI_NUMBER,
    cosine_of_half_turns,
    cosine_of_turns,
    polynomial_of,
)
from gradiometer.convergence.formulas.bounds import (
    NIL,
    UNIT,
    Bounds,
    bounded_limit,
    hull,
    maximum,
    minimum,
)
from gradiometer.convergence.formulas.expansion import TIME, Expansion
from gradiometer.convergence.formulas.number import ONE, Number, Undecided

LARGEST_PERIOD = 1024
"""Longer periods are bounded as a whole, not step by step."""
Real = Union[int, float, Fraction, Number, "Asymptotics"]
Comparison = Callable[[Any, Any], bool]
Time = Any
"""A step, or a value computed from one: an int, a float or `Asymptotics`. Formulas use only
arithmetic on it."""


def _on_the_left(combine: Callable[[Any, Any], Any]) -> Callable[[Any, Any], "Asymptotics"]:
    """The operator for a number on the left."""
    return lambda self, other: combine(Asymptotics.constant(other), self)


def _comparison(holds: Comparison) -> Callable[[Any, Any], "Asymptotics"]:
    return lambda self, other: compared(self, holds, other)


@dataclass(frozen=True, eq=False)
class Asymptotics:
    """f(t) for all large t: the r-th branch at t ≡ r modulo the number of branches.

    Built from `LARGE_T` (t itself) and `Asymptotics.constant` by arithmetic.
    """

    branches: tuple[Bounds, ...]

    @classmethod
    def constant(cls, value: "Real") -> "Asymptotics":
        """A constant; a float stands for the decimal it prints as."""
        if isinstance(value, Asymptotics):
            return value
        return cls((Bounds.exactly(Expansion.constant(value)),))

    @property
    def whole(self) -> Bounds:
        """Bounds that hold for all branches."""
        return (
            self.branches[0]
            if len(self.branches) == 1
            else hull(self.branches, at_known_shares=True)
        )

    def each(self, function: Callable[[Bounds], Bounds]) -> "Asymptotics":
        """A function of every branch."""
        return Asymptotics(tuple(function(branch) for branch in self.branches))

    def __add__(self, other: "Real") -> "Asymptotics":
        return _pairwise(operator.add, self, other)

    def __sub__(self, other: "Real") -> "Asymptotics":
        return _pairwise(operator.sub, self, other)

    def __mul__(self, other: "Real") -> "Asymptotics":
        return _pairwise(operator.mul, self, other)

    def __truediv__(self, other: "Real") -> "Asymptotics":
        return self * Asymptotics.constant(other).each(lambda branch: branch.power(-ONE))

    def __floordiv__(self, other: "Real") -> "Asymptotics":
        return floor(self / other)

    def __mod__(self, other: "Real") -> "Asymptotics":
        return _fraction(self / other) * other

    def __pow__(self, other: "Real") -> "Asymptotics":
        return _pairwise(_power, self, other)

    __radd__ = _on_the_left(operator.add)
    __rsub__ = _on_the_left(operator.sub)
    __rmul__ = _on_the_left(operator.mul)
    __rtruediv__ = _on_the_left(operator.truediv)
    __rfloordiv__ = _on_the_left(operator.floordiv)
    __rmod__ = _on_the_left(operator.mod)
    __rpow__ = _on_the_left(operator.pow)
    __lt__, __le__, __gt__, __ge__ = map(
        _comparison, (operator.lt, operator.le, operator.gt, operator.ge)
    )

    def __neg__(self) -> "Asymptotics":
        return self.each(operator.neg)

    def __pos__(self) -> "Asymptotics":
        return self

    def __abs__(self) -> "Asymptotics":
        return self.each(abs)

    def __bool__(self) -> bool:
        truths = {_truth(branch) for branch in self.branches}
        if len(truths) != 1 or None in truths:
            raise Undecided("a condition holds at some steps and not at others")
        return bool(truths.pop())


LARGE_T = Asymptotics((Bounds.exactly(Expansion(((ONE, TIME),))),))
"""t itself, the step counted from 1, for all large t."""


def compared(one: "Real", holds: Comparison, two: "Real") -> Asymptotics:
    """1 if the comparison holds, such as `operator.lt`; 0 if not; between 0 and 1 if that is not
    known."""

    def answer(difference: Bounds) -> Bounds:
        signs = {difference.sign} if difference.sign is not None else {-1, 0, 1}
        if difference.sign is None and difference.low.sign >= 0:
            signs.discard(-1)
        if difference.sign is None and difference.high.sign <= 0:
            signs.discard(1)
        answers = {holds(sign, 0) for sign in signs}
        return (
            Bounds(NIL, UNIT)
            if len(answers) == 2
            else Bounds.exactly(UNIT if answers.pop() else NIL)
        )

    return (Asymptotics.constant(one) - two).each(answer)


def chosen(test: "Real", one: "Real", two: "Real") -> Asymptotics:
    """The first if the test is not zero, else the second."""
    picks = [Asymptotics.constant(value) for value in (test, one, two)]
    period = _common_period(picks)
    branches = []
    for condition, first, second in zip(*(_spread(value, period) for value in picks), strict=True):
        truth = _truth(condition)
        if truth is None:
            branches.append(hull((first, second), at_known_shares=False))
        else:
            branches.append(first if truth else second)
    return Asymptotics(tuple(branches))


def mixture(one: "Real", two: "Real") -> Asymptotics:
    """A value between the two that is near each of them at a positive share of the steps."""
    return _pairwise(lambda first, second: hull((first, second), at_known_shares=True), one, two)


def floor(value: "Real") -> Asymptotics:
    """⌊f⌋. Exact for a polynomial in t with rational coefficients, with one branch for each
    remainder."""

    def at(value: Expansion, here: Fraction) -> Bounds:
        return Bounds.exactly(value + Expansion.constant(math.floor(here) - here))

    return _by_remainder(Asymptotics.constant(value), at, Bounds.floor)


def _fraction(value: Asymptotics) -> Asymptotics:
    """f − ⌊f⌋, which two roundings of f would not keep between 0 and 1."""

    def otherwise(branch: Bounds) -> Bounds:
        if branch.precise is not None and bounded_limit(branch.precise) is not None:
            return branch - branch.floor()
        return Bounds(NIL, UNIT)

    return _by_remainder(
        value,
        lambda _, here: Bounds.exactly(Expansion.constant(here - math.floor(here))),
        otherwise,
    )


def exponential(value: Time) -> Time:
    """e^x."""
    return value.each(Bounds.exp) if isinstance(value, Asymptotics) else math.exp(value)


def logarithm(value: Time) -> Time:
    """The natural logarithm."""
    return value.each(Bounds.log) if isinstance(value, Asymptotics) else math.log(value)


def cos(value: "Real") -> Asymptotics:
    """The cosine: exact for rational polynomials in t times π, else between −1 and 1."""
    turns = Asymptotics.constant(value) / PI_NUMBER

    def at(_: Expansion, here: Fraction) -> Bounds:
        return Bounds.exactly(Expansion.constant(cosine_of_half_turns(here)))

    return _by_remainder(turns, at, cosine_of_turns, repeats=2)


def sin(value: "Real") -> Asymptotics:
    """The sine."""
    return cos(Asymptotics.constant(value) - PI_NUMBER * Number(Fraction(1, 2)))


def larger(one: Time, two: Time) -> Time:
    """The larger of two at every step."""
    return _pairwise(maximum, one, two) if _any_asymptotics(one, two) else max(one, two)


def smaller(one: Time, two: Time) -> Time:
    """The smaller of two at every step."""
    return _pairwise(minimum, one, two) if _any_asymptotics(one, two) else min(one, two)


def _any_asymptotics(*values: Time) -> bool:
    return any(isinstance(value, Asymptotics) for value in values)


def _truth(branch: Bounds) -> bool | None:
    return None if branch.sign is None else branch.sign != 0


def _common_period(values: list[Asymptotics]) -> int:
    return math.lcm(*(len(value.branches) for value in values))


def _spread(value: Asymptotics, period: int) -> tuple[Bounds, ...]:
    return value.branches * (period // len(value.branches))


def _pairwise(
    function: Callable[[Bounds, Bounds], Bounds], one: "Real", two: "Real"
) -> Asymptotics:
    values = [Asymptotics.constant(one), Asymptotics.constant(two)]
    period = _common_period(values)
    if period > LARGEST_PERIOD:
        return Asymptotics((function(values[0].whole, values[1].whole),))
    return Asymptotics(tuple(map(function, *(_spread(value, period) for value in values))))


def _power(base: Bounds, exponent: Bounds) -> Bounds:
    constant = exponent.precise.as_constant if exponent.precise is not None else None
    if constant is not None:
        return base.power(constant)
    if base.precise is not None and base.precise.is_zero:
        if exponent.low.sign > 0:
            return base
        raise Undecided("a power of zero")
    return (exponent * base.log()).exp()


def _by_remainder(
    value: Asymptotics,
    at: Callable[[Expansion, Fraction], Bounds],
    otherwise: Callable[[Bounds], Bounds],
    repeats: int = 1,
) -> Asymptotics:
    """Apply `at` to branches that are a rational polynomial in t, `otherwise` to other branches.

    `at` gets the branch and its value at a remainder of t. At all t with this remainder, the values
    differ by whole numbers, and by whole multiples of `repeats`.
    """
    polynomials = [polynomial_of(branch) for branch in value.branches]
    period = len(polynomials)
    for polynomial in polynomials:
        if polynomial is not None:
            period = math.lcm(
                period, repeats * math.lcm(*(each.denominator for each in polynomial[1:]))
            )
    if period > LARGEST_PERIOD:
        return Asymptotics((otherwise(value.whole),))
    branches = []
    for residue, branch in enumerate(_spread(value, period)):
        found = polynomials[residue % len(polynomials)]
        here = (
            None
            if found is None
            else sum((each * residue**power for power, each in enumerate(found)), Fraction(0))
        )
        branches.append(otherwise(branch) if here is None else at(branch.low, here))
    return Asymptotics(tuple(branches))
