"""A number with its interval, and how numbers are written for people."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gradiometer.errors import BadArgument


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. There is no way to make one without.

    Made by `Estimate.interval`, `Estimate.exact` or `Estimate.bound`.

    Attributes:
        value: The point estimate; NaN where there is none to give.
        low, high: Ends of the interval; an end may be infinite, and that is an answer.
        level: Confidence level of the interval, between 0 and 1; 1 for an exact value or a proven bound.
        method: How the interval was made, in the field's words.
        samples: Number of readings it rests on.
        unit: Unit of value, low and high; empty for a pure number.
        needed: Where the data cannot tell yet, about how many more training steps would; None where
            they can, and where no number can be given.
    """

    value: float
    low: float
    high: float
    level: float
    method: str
    samples: int
    unit: str = ""
    needed: int | None = None

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise BadArgument(f"`low` must not exceed `high`, got [{self.low}, {self.high}].")
        if not 0 < self.level <= 1:
            raise BadArgument(f"`level` must lie between 0 and 1, got {self.level}.")

    @classmethod
    def interval(
        cls,
        value: float,
        low: float,
        high: float,
        *,
        level: float,
        method: str,
        samples: int,
        unit: str = "",
        needed: int | None = None,
    ) -> "Estimate":
        """A point estimate within a confidence interval."""
        if not level < 1:
            raise BadArgument(f"`level` of a confidence interval must be below 1, got {level}.")
        return cls(value, low, high, level, method, samples, unit, needed)

    @classmethod
    def exact(cls, value: float, *, unit: str = "") -> "Estimate":
        """A number known exactly: a setting, a count, a closed form."""
        value = float(value)  # of numpy's numbers the comparisons are numpy's too
        return cls(value, value, value, 1.0, "exact", 0, unit)

    @classmethod
    def bound(cls, value: float, *, low: float, high: float, method: str, samples: int, unit: str = "") -> "Estimate":
        """A number between proven bounds: they hold always, not at a level."""
        return cls(value, low, high, 1.0, method, samples, unit)

    @classmethod
    def unknown(
        cls, *, level: float, method: str, samples: int, unit: str = "", needed: int | None = None
    ) -> "Estimate":
        """Nothing can be said yet: the interval is the whole line."""
        return cls.interval(
            math.nan,
            -math.inf,
            math.inf,
            level=level,
            method=method,
            samples=samples,
            unit=unit,
            needed=needed,
        )

    @property
    def tells(self) -> bool:
        """Whether both ends are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as they are written in a run and printed by `--json`."""
        return asdict(self)

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.method == "exact":
            return f"{significant(self.value)}{unit}"
        if not math.isfinite(self.high) and math.isfinite(self.low):
            return f"at least {significant(self.low)}{unit} ({self.level:.0%})"
        if not self.tells:
            return "cannot tell yet"
        return f"{significant(self.value)} [{significant(self.low)}, {significant(self.high)}]{unit}"


Estimates = Mapping[str, Estimate]
"""Estimates by name. One of a single layer is named `quantity/layer`."""


def significant(value: float, digits: int = 3) -> str:
    """A number in few digits, the way a person writes it: 450, 0.0123, 1,200, 3.4e-07, inf.

    Args:
        value: Any float.
        digits: Significant digits, at least 1.
    """
    if math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -4 or magnitude > 7:
        text = f"{value:.{digits - 1}e}"
    else:
        decimals = max(digits - 1 - magnitude, 0)
        rounded = round(value, digits - 1 - magnitude)
        text = f"{rounded:,.{decimals}f}"
    return text.replace("-", "−", 1) if value < 0 else text


def counted(number: int, noun: str) -> str:
    """A number of things: 1 step, 4,500 steps."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
