"""A number with its interval, and numbers as text."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from gradiometer.errors import BadArgument

# The confidence level of every interval, unless another one is asked for.
LEVEL = 0.9


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. Make it by `Estimate.interval`, `Estimate.exact` or
    `Estimate.bound`.

    Attributes:
        value: The point estimate; NaN if unknown.
        low, high: Ends of the interval. An end may be infinite.
        level: Confidence level of the interval, between 0 and 1; 1 for an exact value or a proven
            bound.
        method: Name of the method that made the interval.
        samples: Number of readings behind the estimate.
        unit: Unit of value, low and high; empty for a pure number.
        needed: If the interval is not finite yet, about how many more training steps would make it
            finite; None if that is not known.
        step: The training step at which the quantity has this value; None if the estimate is not of
            one step.
        earlier: An early step of training and the value there, if the quantity has shown a change
            since.
        reached: The last training step so far, if it is known and after `step`.

    >>> from gradiometer import Estimate
    >>> scale = Estimate.interval(181.3, 140.2, 260.0, level=0.9, method="Fieller", samples=40, unit="examples")
    >>> print(scale)
    181 [140, 260] examples
    >>> print(Estimate.interval(50.0, 21.0, float("inf"), level=0.9, method="Fieller", samples=5))
    at least 21.0 (90%)
    >>> print(Estimate.exact(0.1))
    0.100
    """

    value: float
    low: float
    high: float
    level: float
    method: str
    samples: int
    unit: str = ""
    needed: int | None = None
    step: int | None = None
    earlier: tuple[int, float] | None = None
    reached: int | None = None

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
        """A point estimate with a confidence interval."""
        if not level < 1:
            raise BadArgument(f"`level` of a confidence interval must be below 1, got {level}.")
        return cls(value, low, high, level, method, samples, unit, needed)

    @classmethod
    def exact(cls, value: float, *, unit: str = "") -> "Estimate":
        """A number known exactly: a setting, a count, a closed form."""
        value = float(value)  # a numpy number would make the fields and their comparisons numpy's
        return cls(value, value, value, 1.0, "exact", 0, unit)

    @classmethod
    def bound(
        cls, value: float, *, low: float, high: float, method: str, samples: int, unit: str = ""
    ) -> "Estimate":
        """A number between proven bounds, which hold with certainty."""
        return cls(value, low, high, 1.0, method, samples, unit)

    @classmethod
    def unknown(
        cls, *, level: float, method: str, samples: int, unit: str = "", needed: int | None = None
    ) -> "Estimate":
        """No estimate yet: the value is NaN and the interval is the whole line."""
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
        """True if both ends are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary, as in a run's files and in `--json`."""
        return asdict(self)

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.method == "exact":
            return f"{significant(self.value)}{unit}"
        if not math.isfinite(self.high) and math.isfinite(self.low):
            return f"at least {significant(self.low)}{unit} ({self.level:.0%})"
        if not self.tells:
            return "cannot tell yet"
        return (
            f"{significant(self.value)} [{significant(self.low)}, {significant(self.high)}]{unit}"
        )


Estimates = Mapping[str, Estimate]
"""Estimates by name. The estimate of a single layer is named `quantity/layer`."""


def significant(value: float, digits: int = 3) -> str:
    """A number with this many significant digits.

    >>> from gradiometer.measurement.estimate import significant
    >>> [significant(x) for x in (450.0, 0.012345, 1234.5, 3.4e-7, -2.0)]
    ['450', '0.0123', '1,230', '3.40e-07', '−2.00']
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
        text = f"{round(value, digits - 1 - magnitude):,.{decimals}f}"
    return text.replace("-", "−", 1) if value < 0 else text


def about(number: int) -> str:
    """A forecast number of things in two significant digits: more would claim to know.

    >>> from gradiometer.measurement.estimate import about
    >>> about(3952)
    'about 4,000'
    """
    return f"about {float(f'{number:.2g}'):,.0f}"


def counted(number: int, noun: str) -> str:
    """A number of things, such as "1 step" and "4,500 steps"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def negative(estimate: Estimate) -> Estimate:
    """The estimate with the opposite sign."""
    return replace(estimate, value=-estimate.value, low=-estimate.high, high=-estimate.low)
