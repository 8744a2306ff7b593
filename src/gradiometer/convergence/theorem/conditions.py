"""The three conditions of the theorem, read off a tail: lim η = 0, Σ η = ∞, Σ η² < ∞."""

import math
from dataclasses import dataclass

from gradiometer.convergence.formulas.asymptotics import Behaviour
from gradiometer.convergence.formulas.expansion import CONSTANT, Monomial, unit
from gradiometer.convergence.formulas.number import Number, Undecided

TWO = Number.of(2)


@dataclass(frozen=True)
class Tail:
    """η_t for large t, up to constant factors.

    Args:
        upper: |η_t| = O(upper); None where η_t is zero from some step on.
        lower: |η_t| ≥ c·lower at a share of the steps of every long block; None where no such bound is known.
        sign: 1 where η_t ≥ 0 from some step on, −1 where η_t < 0 from some step on, None where it is not known.
    """

    upper: Monomial | None
    lower: Monomial | None
    sign: int | None

    @classmethod
    def of(cls, behaviour: Behaviour) -> "Tail":
        """The tail of a formula's behaviour. Raises `Undecided` where the expansions do not tell."""
        band = behaviour.whole
        magnitude = band.magnitude
        upper = None if magnitude.is_zero else magnitude.leading[1]
        if band.high.sign < 0:
            return cls(upper, band.high.leading[1], -1)
        if band.low.sign < 0:
            return cls(upper, None, None)
        candidates = [band.low.leading[1]] if band.low.sign > 0 else []
        if band.rise is not None:
            candidates.append(band.rise.size)
        lower: Monomial | None = None
        for candidate in candidates:
            lower = candidate if lower is None or candidate.compared(lower) > 0 else lower
        return cls(upper, lower, 1)

    @property
    def limit_zero(self) -> bool | None:
        """Whether η_t → 0."""
        if self.upper is None or self.upper.direction < 0:
            return True
        return False if self.lower is not None and self.lower.direction >= 0 else None

    @property
    def sum_diverges(self) -> bool | None:
        """Whether Σ η_t = ∞."""
        if self.upper is None or _sum_converges(self.upper) or self.sign == -1:
            return False
        return True if self.lower is not None and _sum_converges(self.lower) is False else None

    @property
    def sum_of_squares_converges(self) -> bool | None:
        """Whether Σ η_t² < ∞."""
        if self.upper is None or _sum_converges(self.upper.power(TWO)):
            return True
        if self.lower is not None and _sum_converges(self.lower.power(TWO)) is False:
            return False
        return None

    @property
    def order(self) -> str:
        """How it decays, in words: "falls as t^-1"."""
        if self.upper is None:
            return "is zero from some step on"
        if self.upper == self.lower:
            return _verb(self.upper) + written(self.upper)
        if self.lower is None:
            return f"stays within a multiple of {written(self.upper)}"
        return f"lies between the orders {written(self.lower)} and {written(self.upper)}"


def _verb(monomial: Monomial) -> str:
    if monomial == CONSTANT:
        return "stays of order "
    return "falls as " if monomial.direction < 0 else "grows as "


def _sum_converges(monomial: Monomial) -> bool | None:
    try:
        return monomial.sum_converges
    except Undecided:
        return None


def written(monomial: Monomial) -> str:
    """A monomial as a person writes it: "t^-0.5 (log t)^-2", "exp(−0.01 t)", "1"."""
    names = {unit(1): "t", unit(2): "(log t)", unit(3): "(log log t)", unit(4): "(log log log t)"}
    factors = []
    for key, weight in monomial.weights:
        if key in names:
            factors.append(names[key] + _exponent(float(weight)))
        else:
            product = [_base(level) + _exponent(float(power)) for level, power in enumerate(key) if power]
            sign = "−" if weight.sign < 0 else ""
            factors.append(f"exp({sign}{abs(float(weight)):.3g} {' '.join(product)})")
    return " ".join(factors) or "1"


def _base(level: int) -> str:
    return "t" if level == 0 else "(" + "log " * level + "t)"


def _exponent(power: float) -> str:
    if power == 1:
        return ""
    return f"^{int(power)}" if power == math.floor(power) else f"^{power:.4g}"
