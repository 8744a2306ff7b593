"""A curve along the run as a line of a few pixels, drawn as SVG in the page."""

import math
from dataclasses import dataclass

from gradiometer.measurement.estimate import significant
from gradiometer.report.charts.marks import Curve

WIDTH, HEIGHT, MARGIN = 96.0, 24.0, 3.0
"""Size of the picture in CSS pixels, and the space above and below the line."""

FEWEST = 3
"""With fewer known points there is no line to see."""


@dataclass(frozen=True)
class Sparkline:
    """The known values of a curve as points of an SVG line.

    Args:
        line: Points of the line, as "x,y x,y".
        end: The last point.
        words: Text alternative: the first and the last value with their steps.
    """

    line: str
    end: tuple[float, float]
    words: str


def sparkline(curve: Curve) -> Sparkline | None:
    """The curve as a small line, or None if fewer than three values are known. It is logarithmic if
    all are positive.

    >>> from gradiometer.measurement import Estimate
    >>> from gradiometer.report.charts.sparklines import sparkline
    >>> drawn = sparkline([(step, Estimate.exact(2.0**step)) for step in range(4)])
    >>> drawn.line, drawn.words
    ('0,21 32,15 64,9 96,3', '1.00 at step 0, 8.00 at step 3')
    """
    known = [(step, estimate.value) for step, estimate in curve if math.isfinite(estimate.value)]
    if len(known) < FEWEST:
        return None
    steps = [float(step) for step, _ in known]
    values = [value for _, value in known]
    heights = [math.log(value) for value in values] if min(values) > 0 else values
    across = [WIDTH * share for share in _shares(steps)]
    up = [HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * share for share in _shares(heights)]
    points = [(round(x, 1), round(y, 1)) for x, y in zip(across, up, strict=True)]
    (first, start), (last, end) = known[0], known[-1]
    return Sparkline(
        line=" ".join(f"{x:g},{y:g}" for x, y in points),
        end=points[-1],
        words=f"{significant(start)} at step {first:,}, {significant(end)} at step {last:,}",
    )


def _shares(values: list[float]) -> list[float]:
    """Positions between the smallest and the largest value, from 0 to 1; one half if
    all are equal."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]
