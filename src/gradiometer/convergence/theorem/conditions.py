"""The three conditions of the theorem, read from how η_t decays: lim η = 0, Σ η = ∞, Σ η² < ∞."""

from dataclasses import dataclass

from gradiometer.convergence.formulas.asymptotics import Asymptotics
from gradiometer.convergence.formulas.expansion import CONSTANT, DEPTH, Monomial, by_size, unit
from gradiometer.convergence.formulas.number import ONE, Number, Undecided


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
            return f"stays within a multiple of {as_text(self.upper)}"
        if self.upper != self.lower:
            return f"lies between the orders {as_text(self.lower)} and {as_text(self.upper)}"
        verb = (
            "stays of order"
            if self.upper == CONSTANT
            else "falls as"
            if self.upper.direction < 0
            else "grows as"
        )
        return f"{verb} {as_text(self.upper)}"


def _sum_converges(monomial: Monomial) -> bool | None:
    try:
        return monomial.sum_converges
    except Undecided:
        return None


def as_text(monomial: Monomial) -> str:
    """A monomial as text: "t^-0.5 (log t)^-2", "exp(−0.01 t)", "1"."""
    logarithms = ["t", *(f"({'log ' * level}t)" for level in range(1, DEPTH))]
    names = {unit(level + 1): logarithms[level] for level in range(DEPTH - 1)}
    factors = []
    for key, weight in monomial.weights:
        if key in names:
            factors.append(names[key] + _exponent(weight))
        else:
            product = [
                logarithms[level] + _exponent(Number.of(power))
                for level, power in enumerate(key)
                if power
            ]
            sign, size = ("−", -weight) if weight.sign < 0 else ("", weight)
            factors.append(f"exp({sign}{_size(size, 3)} {' '.join(product)})")
    return " ".join(factors) or "1"


def _size(number: Number, digits: int) -> str:
    """A constant as text, which may be beyond all doubles."""
    try:
        return f"{float(number):.{digits}g}"
    except (Undecided, OverflowError):
        return f"{'−' if number.sign < 0 else ''}(over 1e308)"


def _exponent(power: Number) -> str:
    if power == ONE:
        return ""
    whole = power.rational is not None and power.rational.denominator == 1
    return f"^{power.rational if whole else _size(power, 4)}"
