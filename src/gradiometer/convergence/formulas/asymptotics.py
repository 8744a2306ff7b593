"""Asymptotics of formulas: how a formula behaves for all large t, computed with Python's operators.

A formula written for integers and floats runs unchanged on `Asymptotics`, and the result is a
proof. So a schedule never states its decay a second time, and the two cannot disagree. A condition
such as `step < 100` is answered for all large t.
"""

import functools
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
    bounded_limit,
    hull,
    maximum,
    minimum,
)
from gradiometer.convergence.formulas.expansion import CONSTANT, TIME, Expansion
from gradiometer.convergence.formulas.number import (
    LARGEST_BITS,
    MINUS_ONE,
    ONE,
    PI,
    ROUNDING,
    Amount,
    Number,
    Undecided,
)

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
    return lambda self, other: compare(self, holds, other)


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
        if len(self.branches) == 1:
            return self.branches[0]
        return hull(self.branches, at_known_shares=True)

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
        return self * Asymptotics.constant(other).each(lambda branch: branch.power(MINUS_ONE))

    def __floordiv__(self, other: "Real") -> "Asymptotics":
        return math.floor(self / other)

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

    def __floor__(self) -> "Asymptotics":
        """⌊f⌋. Exact for a + bt with rational a and b, with one branch for each remainder of t."""

        def at(value: Expansion, here: Fraction) -> Bounds:
            return Bounds.exactly(value + Expansion.constant(math.floor(here) - here))

        return _by_remainder(self, at, Bounds.floor)

    def __ceil__(self) -> "Asymptotics":
        return -math.floor(-self)

    def __trunc__(self) -> "Asymptotics":
        whole: Asymptotics = choose(self >= 0, lambda: math.floor(self), lambda: math.ceil(self))
        return whole

    def __bool__(self) -> bool:
        truths = {_truth(branch) for branch in self.branches}
        if len(truths) != 1 or None in truths:
            raise Undecided("a condition holds at some steps and not at others")
        return bool(truths.pop())


LARGE_T = Asymptotics((Bounds.exactly(Expansion(((ONE, TIME),))),))
"""t itself, the step counted from 1, for all large t."""
PI_EXACT = Asymptotics.constant(Number(Fraction(1), ((PI, 1),)))


def compare(one: Time, holds: Comparison, two: Time) -> Time:
    """If the comparison holds, such as `operator.lt`. For asymptotics: 1 if it does, 0 if not, and
    between 0 and 1 if that is not known."""
    if not (isinstance(one, Asymptotics) or isinstance(two, Asymptotics)):
        return holds(one, two)

    def answer(difference: Bounds) -> Bounds:
        signs = {difference.sign} if difference.sign is not None else {-1, 0, 1}
        if difference.sign is None and difference.low.sign >= 0:
            signs.discard(-1)
        if difference.sign is None and difference.high.sign <= 0:
            signs.discard(1)
        answers = {holds(sign, 0) for sign in signs}
        if len(answers) == 2:
            return Bounds(NIL, UNIT)
        return Bounds.exactly(UNIT if answers.pop() else NIL)

    return (Asymptotics.constant(one) - two).each(answer)


def choose(test: Time, one: Callable[[], Time], two: Callable[[], Time]) -> Time:
    """The first value if the test is not zero, else the second. One that is never chosen is not
    computed: it may be undefined, as 1/(t − 9) is before step 10."""
    if not isinstance(test, Asymptotics):
        return one() if test else two()
    truths = {_truth(branch) for branch in test.branches}
    if len(truths) == 1 and None not in truths:
        return one() if truths.pop() else two()
    picks = [test, Asymptotics.constant(one()), Asymptotics.constant(two())]
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


def _cosine(value: Asymptotics) -> Asymptotics:
    """Exact for π times a line with rational numbers, else between −1 and 1."""

    def at(_: Expansion, halves: Fraction) -> Bounds:
        return Bounds.exactly(Expansion.constant(_cosine_of_half_turns(halves)))

    def otherwise(halves: Bounds) -> Bounds:
        constant = None if halves.precise is None else halves.precise.as_constant
        if constant is None:
            return Bounds(-UNIT, UNIT)
        angle = math.pi * float(constant)
        # The rounding of an angle of 10⁶ half turns is as large as the smallest cosine trusted.
        if not abs(angle) < math.pi * 1e6 or not abs(math.cos(angle)) > ROUNDING:
            raise Undecided("a cosine is zero up to rounding, or of too large an angle")
        return Bounds.exactly(Expansion.constant(Number.rounded(math.cos(angle))))

    return _by_remainder(value / PI_EXACT, at, otherwise, repeats=2)


def _cosine_of_half_turns(halves: Fraction) -> Number:
    """cos(π x): exact if it is rational, by Niven's theorem only at multiples of π/3 and π/2."""
    x = halves % 2
    x = min(x, 2 - x)
    exact = {0: "1", Fraction(1, 3): "1/2", Fraction(1, 2): "0", Fraction(2, 3): "-1/2", 1: "-1"}
    if x in exact:
        return Number(Fraction(exact[x]))
    return Number.rounded(math.cos(math.pi * float(x)))


power = _of_either_kind(_power_of_numbers, operator.pow)
square_root = _of_either_kind(math.sqrt, lambda value: value ** Fraction(1, 2))
exponential = _of_either_kind(math.exp, lambda value: value.each(Bounds.exp))
logarithm = _of_either_kind(math.log, lambda value: value.each(Bounds.log))
binary_logarithm = _of_either_kind(math.log2, lambda value: logarithm(value) / Number.of(2).log())
decimal_logarithm = _of_either_kind(
    math.log10, lambda value: logarithm(value) / Number.of(10).log()
)
cosine = _of_either_kind(math.cos, _cosine)
sine = _of_either_kind(math.sin, lambda value: _cosine(value - PI_EXACT / 2))
larger = _of_either_kind(
    max, lambda *values: functools.reduce(functools.partial(_pairwise, maximum), values)
)
smaller = _of_either_kind(
    min, lambda *values: functools.reduce(functools.partial(_pairwise, minimum), values)
)


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
    """Apply `at` to branches that are a line in t with rational numbers, `otherwise` to others.

    `at` gets the branch and its value at a remainder of t. At all t with this remainder, the values
    differ by whole numbers, and by whole multiples of `repeats`.
    """
    lines = [_line(branch) for branch in value.branches]
    period = math.lcm(
        len(lines), *(repeats * line[1].denominator for line in lines if line is not None)
    )
    if period > LARGEST_PERIOD:
        return Asymptotics((otherwise(value.whole),))
    branches = []
    for residue, branch in enumerate(_spread(value, period)):
        line = lines[residue % len(lines)]
        if line is None:
            branches.append(otherwise(branch))
        else:
            branches.append(at(branch.low, line[0] + line[1] * residue))
    return Asymptotics(tuple(branches))


def _line(branch: Bounds) -> tuple[Fraction, Fraction] | None:
    """a and b if the branch is exactly a + bt, both of them rational, else None."""
    value = branch.precise
    if value is None or value.rest is not None:
        return None
    coefficients = {monomial: coefficient.rational for coefficient, monomial in value.terms}
    a = coefficients.pop(CONSTANT, Fraction(0))
    b = coefficients.pop(TIME, Fraction(0))
    return None if coefficients or a is None or b is None else (a, b)
