"""The shape of a learning rate over the steps at which it was read, in words."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from gradiometer.measurement.estimate import counted

# Relative difference below which two rates are the same.
SAME = 1e-6

# Share of the steps so far for which a constant rate between a rise and a fall is mentioned.
A_WHILE = 0.05

# Rates are read at least this densely, relative to the step. A longer gap means that the rate was
# constant.
SPACING = 1 / 64

# Curves from 1 to `end` over the part of the way, from 0 to 1.
CURVES: dict[str, Callable[[Float[np.ndarray, " n"], float], Float[np.ndarray, " n"]]] = {
    "cosine": lambda part, end: end + (1 - end) * (1 + np.cos(np.pi * part)) / 2,
    "linear": lambda part, end: 1 + (end - 1) * part,
    "exponential": lambda part, end: max(end, 1e-12) ** part,
}


@dataclass(frozen=True)
class Path:
    """A learning rate where it changed.

    Args:
        steps: Steps, in increasing order.
        rates: η from each step to the next one.
        reached: The last step of training so far, at least the last of `steps`.
    """

    steps: Int[np.ndarray, " lines"]
    rates: Float[np.ndarray, " lines"]
    reached: int

    def with_ends(self) -> "Path":
        """The path with a point at the end of every constant stretch."""
        starts = self.steps.tolist()
        ends = [after - max(1, int(SPACING * after)) for after in starts[1:]]
        steps: list[int] = []
        rates: list[float] = []
        for start, end, rate in zip(
            starts, [*ends, self.reached], self.rates.tolist(), strict=True
        ):
            stretch = [start, end] if end > start else [start]
            steps, rates = steps + stretch, rates + [rate] * len(stretch)
        return Path(np.array(steps), np.array(rates), self.reached)


def shape_of(path: Path) -> str:
    """The learning rate in words.

    >>> steps = np.arange(0, 1001, 20)
    >>> shape_of(Path(steps, 3e-4 + 3e-4 * np.cos(np.pi * steps / 1000) * 0.8, 1000))
    'cosine, from 5.4e-4 to 6e-5'
    >>> shape_of(Path(np.array([0]), np.array([0.1]), 500))
    'constant 0.1'
    """
    rates = path.rates
    peak = float(rates.max())
    if np.ptp(rates) <= SAME * peak:
        return f"constant {number(peak)}"
    changes = np.diff(rates)
    changes[np.abs(changes) <= SAME * peak] = 0.0
    signs = np.sign(changes[changes != 0])
    turns = int((np.diff(signs) != 0).sum())
    if turns == 0 and signs[0] > 0:
        return _rising(path)
    if turns == 0:
        return _fall(path.with_ends(), from_peak=True)
    if turns == 1 and signs[0] > 0:
        return _warmed_up(path)
    low, now = number(float(rates.min())), number(float(rates[-1]))
    return f"up and down between {low} and {number(peak)}, now {now}"


def _rising(path: Path) -> str:
    filled = path.with_ends()
    peak = float(filled.rates[-1])
    first = int(filled.steps[np.argmax(filled.rates >= (1 - SAME) * peak)])
    if path.reached - first > A_WHILE * path.reached:
        return (
            f"warm-up over {counted(first - int(filled.steps[0]), 'step')} to {number(peak)}, then "
            "constant"
        )
    return f"rising, from {number(float(filled.rates[0]))} to {number(peak)} now"


def _warmed_up(path: Path) -> str:
    at_peak = int(path.rates.argmax())
    top = int(path.steps[at_peak])
    rise = (
        f"warm-up over {counted(top - int(path.steps[0]), 'step')} to "
        f"{number(float(path.rates[at_peak]))}"
    )
    after = Path(path.steps[at_peak:], path.rates[at_peak:], path.reached).with_ends()
    return f"{rise}, then {_fall(after, from_peak=False)}"


def _fall(path: Path, *, from_peak: bool) -> str:
    """A path that never rises: cuts, a known curve, or neither.

    Args:
        path: The path, filled.
        from_peak: True if its first rate was not named yet.
    """
    steps, rates = path.steps, path.rates
    levels = np.flatnonzero(np.abs(np.diff(rates)) > SAME * rates[0]) + 1
    stretches = np.diff(np.concatenate([[0], levels, [len(rates)]]))
    # 4: maximum number of cuts that are listed one by one.
    if len(levels) <= 4 and (stretches[:-1] > 1).all():
        cuts = [f"{number(float(rates[at]))} from step {steps[at]:,}" for at in levels]
        return ", then ".join([number(float(rates[0])), *cuts] if from_peak else cuts)
    first, last = int(levels[0]) - 1, int(levels[-1])
    held = steps[first] - steps[0] > A_WHILE * path.reached
    name = _curve(steps[first : last + 1], rates[first : last + 1])
    if held and not name and last > first + 2:  # the step of its start is known only to a 64th
        name = _curve(steps[first + 1 : last + 1], rates[first + 1 : last + 1])
    high, low = number(float(rates[0])), number(float(rates[-1]))
    ended = (
        f", reached at step {steps[last]:,}"
        if path.reached - steps[last] > A_WHILE * path.reached
        else ""
    )
    if held:
        start = f"constant {high}" if from_peak else "constant"
        return f"{start} to step {steps[first]:,}, then {name or 'falling'} to {low}{ended}"
    if from_peak:
        return f"{name or 'falling'}, from {high} to {low}{ended}"
    return f"{name} to {low}{ended}" if name else f"falling, now {low}"


def _curve(steps: Int[np.ndarray, " n"], rates: Float[np.ndarray, " n"]) -> str:
    """The name of the curve that fits best; empty if none fits."""
    part = (steps - steps[0]) / (steps[-1] - steps[0])
    end = float(rates[-1] / rates[0])
    # 0.02: A curve fits if it misses no rate by more than this share of the fall.
    # 0.15: this share for a rate that changes in larger steps, such as once an epoch.
    allowed = min(max(0.02, float(-np.diff(rates).min()) / float(rates[0] - rates[-1])), 0.15)
    misses = {}
    for name, curve in CURVES.items():
        off = np.abs(curve(part, end) - rates / rates[0]) / (1 - end)
        if off.max() <= allowed:
            misses[name] = float(np.square(off).mean())
    return min(misses, key=lambda name: misses[name], default="")


def number(value: float) -> str:
    """A number as it is written in a program, with at most 3 digits: 0.1, 6e-4.

    >>> [number(value) for value in (0.1, 6e-4, 0.00123, 0.0, 1.0)]
    ['0.1', '6e-4', '0.00123', '0', '1']
    """
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:.3g}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
