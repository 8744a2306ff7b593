"""Logarithmic axes, and intervals that leave them: an open end is drawn as open, never omitted."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from gradiometer.measurement.estimate import Estimate

Curve = Sequence[tuple[int, Estimate]]
"""Estimates along a run: a step, and the estimate of the value there."""

OPEN_ABOVE = "open above"
OPEN_BELOW = "open below"
UNKNOWN = "unknown"

# Numbers beyond this one and below its inverse are left out of an axis: their ratio is beyond a
# float.
LARGEST = 1e100


@dataclass(frozen=True)
class LogAxis:
    """A logarithmic axis that covers every positive end within `LARGEST`, with a little room for
    open ones."""

    low: float
    high: float

    @classmethod
    def holding(cls, estimates: Iterable[Estimate], also: Iterable[float] = ()) -> "LogAxis":
        """The axis that covers these intervals and the numbers in `also`."""
        ends = [
            end for estimate in estimates for end in (estimate.low, estimate.value, estimate.high)
        ]
        shown = [end for end in (*ends, *also) if 1 / LARGEST <= end <= LARGEST]
        if not shown:
            return cls(0.1, 10.0)
        room = max((max(shown) / min(shown)) ** 0.08, 1.25)
        return cls(min(shown) / room, max(shown) * room)

    @property
    def ticks(self) -> list[float]:
        """Round numbers: evenly spaced on a short axis, 1-2-5 on a longer one, powers of ten on a
        very long one."""
        if self.high / self.low < 10:
            return round_numbers(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        span = math.log10(self.high / self.low)
        stride = max(round(span / 6), 1)
        steps = (1, 2, 5) if span < 2.5 else (1,)
        candidates = [step * 10.0**decade for decade in decades[::stride] for step in steps]
        return [tick for tick in candidates if self.low <= tick <= self.high]

    def row(self, estimate: Estimate) -> dict[str, Any]:
        """The place of an interval on the axis, and its open side. An end at or below zero is open
        below."""
        low_shown = math.isfinite(estimate.low) and estimate.low > 0
        high_shown = math.isfinite(estimate.high) and estimate.high > 0
        opening = "" if low_shown else OPEN_BELOW
        if math.isinf(estimate.high):
            opening = OPEN_ABOVE if low_shown else UNKNOWN
        return {
            "value": estimate.value
            if math.isfinite(estimate.value) and estimate.value > 0
            else None,
            "low": estimate.low if low_shown else self.low,
            "high": estimate.high
            if high_shown
            else (self.high if math.isinf(estimate.high) else self.low),
            "middle": math.sqrt(self.low * self.high),
            "open": opening,
            "interval": str(estimate),
        }


def round_numbers(low: float, high: float) -> list[float]:
    """Three to six multiples of 1, 2 or 5 times a power of ten between two numbers."""
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    # The logarithm of 0.0999… rounds to −1, so that no step may be small enough.
    stride = max((step * power for step in (1, 2, 5) if step * power <= rough), default=power)
    first, last = math.ceil(low / stride), math.floor(high / stride)
    return [float(f"{count * stride:.12g}") for count in range(first, last + 1)]


def plain_row(estimate: Estimate) -> dict[str, Any]:
    """An interval on any axis. An end that is not finite becomes None."""
    ends = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: end if math.isfinite(end) else None for name, end in ends.items()} | {
        "interval": str(estimate)
    }
