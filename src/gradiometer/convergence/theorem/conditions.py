"""The three conditions of the theorem, read from how η_t decays: lim η = 0, Σ η = ∞, Σ η² < ∞."""

import math
from dataclasses import dataclass
from fractions import Fraction

from gradiometer.convergence.formulas.asymptotics import Asymptotics
from gradiometer.convergence.formulas.expansion import CONSTANT, DEPTH, Monomial, by_size, unit
from gradiometer.convergence.formulas.number import Number, Undecided


@dataclass(frozen=True)
class Conditions:
    """The size of η_t for large t, up to constant factors, and what follows for the conditions;
    None if undecided.

    Args:
        upper: |η_t| = O(upper); None if η_t is zero from some step on.
        lower: |η_t| ≥ c·lower at a share of the steps of every long block; None if no such bound is
            known.
        sign: 1 if η_t ≥ 0 from some step on, −1 if η_t < 0 from some step on, None if not known.
    """

    upper: Monomial | None
    lower: Monomial | None
    sign: int | None

    @classmethod
    def of(cls, asymptotics: Asymptotics) -> "Conditions":
        """The conditions of a formula. Raises `Undecided` if its expansions do not decide them."""
        bounds = asymptotics.whole
        upper = None if bounds.magnitude.is_zero else bounds.magnitude.leading[1]
        if bounds.high.sign < 0:
            return cls(upper, bounds.high.leading[1], -1)
        if bounds.low.sign < 0:
            return cls(upper, None, None)
        candidates = [bounds.low.leading[1]] if bounds.low.sign > 0 else []
        candidates += [bounds.rise] if bounds.rise is not None else []
        return cls(upper, max(candidates, key=by_size, default=None), 1)

    @property
    def limit_zero(self) -> bool | None:
        """True if η_t → 0."""
        if self.upper is None or self.upper.direction < 0:
            return True
        return False if self.lower is not None and self.lower.direction >= 0 else None

    @property
    def sum_diverges(self) -> bool | None:
        """True if Σ η_t = ∞."""
        if self.upper is None or _sum_converges(self.upper) or self.sign == -1:
            return False
        return True if self.lower is not None and _sum_converges(self.lower) is False else None

    @property
    def sum_of_squares_converges(self) -> bool | None:
        """True if Σ η_t² < ∞."""
        two = Number.of(2)
        if self.upper is None or _sum_converges(self.upper.power(two)):
            return True
        return (
            False
            if self.lower is not None and _sum_converges(self.lower.power(two)) is False
            else None
        )

    @property
    def order(self) -> str:
        """How η_t decays, such as "falls as t^-1"."""
        if self.upper is None:
            return "is zero from some step on"
        if self.lower is None:
            return f"stays within a multiple of {written(self.upper)}"
        if self.upper != self.lower:
            return f"lies between the orders {written(self.lower)} and {written(self.upper)}"
        verb = (
            "stays of order"
            if self.upper == CONSTANT
            else "falls as"
            if self.upper.direction < 0
            else "grows as"
        )
        return f"{verb} {written(self.upper)}"


def _sum_converges(monomial: Monomial) -> bool | None:
    try:
        return monomial.sum_converges
    except Undecided:
        return None


def written(monomial: Monomial) -> str:
    """A monomial as text: "t^-0.5 (log t)^-2", "exp(−0.01 t)", "1"."""
    names = {unit(level + 1): _logarithm(level) for level in range(DEPTH - 1)}
    factors = []
    for key, weight in monomial.weights:
        if key in names:
            factors.append(names[key] + _exponent(_double(weight)))
        else:
            product = [
                _logarithm(level) + _exponent(_double(Number.of(power)))
                for level, power in enumerate(key)
                if power
            ]
            sign = "−" if weight.sign < 0 else ""
            factors.append(f"exp({sign}{_size(abs(_double(weight)), 3)} {' '.join(product)})")
    return " ".join(factors) or "1"


def _logarithm(level: int) -> str:
    return "t" if level == 0 else f"({'log ' * level}t)"


def _double(number: Number | Fraction) -> float:
    """The double nearest to a constant: infinite if it is beyond them."""
    try:
        return float(number)
    except (Undecided, OverflowError):
        is_negative = number < 0 if isinstance(number, Fraction) else number.sign < 0
        return -math.inf if is_negative else math.inf


def _size(value: float, digits: int) -> str:
    return (
        f"{value:.{digits}g}" if math.isfinite(value) else f"{'−' if value < 0 else ''}(over 1e308)"
    )


def _exponent(power: float) -> str:
    if power == 1:
        return ""
    return f"^{int(power)}" if power.is_integer() else f"^{_size(power, 4)}"
