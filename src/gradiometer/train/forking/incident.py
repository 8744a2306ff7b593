"""`incident_at`: where a loss went wrong near a step: it was not finite, diverged, spiked, or rose and
stayed."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import counted, significant
from gradiometer.run.reader import Run
from gradiometer.run.spikes import spikes_of

Kind = Literal["not finite", "diverged", "spike", "rise"]

# Losses that show the level before a rise, and how far noise reaches.
BEFORE = 64

# A rise that stays is looked for in this many steps on each side of the step that is asked for.
NEAR = 64

# Fewest losses on each side of a rise: fewer have medians that noise moves.
FEWEST = 8

# A loss that is this many times the usual deviation above its level is not of the noise. With heavy
# tails (Student's t with 3 degrees of freedom) one in 70 is.
BEYOND = 4.0


@dataclass(frozen=True)
class Incident:
    """Where a loss went wrong.

    Args:
        kind: "not finite", "diverged" (it grew until training was stopped), "spike", or "rise" (it
            stayed high).
        first: Index of the first high loss, or of the one that is not finite.
        last: Index of the last high loss that counts.
        level: The usual loss before it.
        height: The highest loss, or the level that it rose to; inf if it is not finite.
    """

    kind: Kind
    first: int
    last: int
    level: float
    height: float

    @property
    def limit(self) -> float:
        """The loss from which on it is the incident again: half of the way up; of a divergence,
        whose height is that of the step where it was stopped, ten times the level."""
        if self.kind == "diverged" and self.level > 0:
            return 10 * self.level
        return self.level + (self.height - self.level) / 2

    @property
    def sentence(self) -> str:
        """What the loss did."""
        level, height = significant(self.level), significant(self.height)
        match self.kind:
            case "not finite":
                return f"At step {self.first:,} the loss or its gradient was not finite."
            case "diverged":
                return f"From step {self.first:,} on the loss grew far above {level}."
            case "spike":
                return f"The loss spiked from {level} to {height} at step {self.first:,}."
            case _:
                return f"The loss rose from {level} to {height} at step {self.first:,} and stayed."


def incident_at(run: Run, step: int) -> Incident:
    """The incident at a step, or near it.

    Args:
        run: The run.
        step: The step.

    Raises:
        BadArgument: The loss did not rise there.
    """
    steps, losses = run.losses
    end = next((event for event in run.events if event["event"] == "diverged"), None)
    if end is not None and (step >= end["step"] - NEAR or not len(losses)):
        return _divergence(int(end["step"]), str(end["reason"]), losses)
    spikes = spikes_of(run)
    for spike in spikes:
        if spike.first <= step <= spike.last:
            return Incident("spike", spike.first, spike.last, spike.level, spike.height)
    place = int(np.searchsorted(steps, step))
    found = _rise(losses, place) or _single(losses, place)
    if found is not None:
        return found
    if not spikes:
        raise BadArgument(f"`spike` is {step:,}, where the loss of `{run.path}` did not rise.")
    places = ", ".join(f"{spike.peak:,}" for spike in spikes[:8])
    raise BadArgument(
        f"`spike` is {step:,}, where the loss did not rise: {counted(len(spikes), 'spike')} found, "
        f"at {places}."
    )


def _divergence(at: int, reason: str, losses: Float[np.ndarray, " steps"]) -> Incident:
    """The incident at the step where a training was stopped."""
    losses = losses[:at]
    level, spread = _usual(losses[max(at - 4 * BEFORE, 0) : max(at - FEWEST, 0)])
    if math.isnan(level):
        level, spread = (float(losses[0]) if len(losses) else math.nan), 0.0
    high = losses > level + BEYOND * spread
    first = at
    # single losses come back on the way up
    while first > 0 and (high[first - 1] or high[max(first - FEWEST, 0) : first].mean() >= 0.5):
        first -= 1
    first += int(high[first:].argmax()) if first < at else 0
    # a loss that was usual until the last step did not grow
    if first == at and ("nan" in reason or "finite" in reason or "inf" in reason):
        return Incident("not finite", at, at, level, math.inf)
    height = float(losses[first:].max()) if first < at else math.inf
    return Incident("diverged", first, at, level, height)


def _rise(losses: Float[np.ndarray, " steps"], place: int) -> Incident | None:
    """The largest rise that stays, near a place; None if none is above the noise."""
    best: tuple[float, int] = (0.0, 0)
    for first in range(max(place - NEAR, FEWEST), min(place + FEWEST, len(losses) - FEWEST) + 1):
        level, spread = _usual(losses[max(first - BEFORE, 0) : first])
        later = float(np.median(losses[first : first + BEFORE]))
        # the first high loss itself, and not one before it, begins the rise
        if losses[first] > level + (later - level) / 2 and spread > 0:
            best = max(best, ((later - level) / spread, first))
    ratio, first = best
    if ratio < BEYOND:
        return None
    level, _ = _usual(losses[max(first - BEFORE, 0) : first])
    after = losses[first : first + BEFORE]
    return Incident("rise", first, first + len(after) - 1, level, float(np.median(after)))


def _single(losses: Float[np.ndarray, " steps"], place: int) -> Incident | None:
    """A high loss beside a place: too low for a spike that nobody has pointed at."""
    near = np.arange(max(place - FEWEST, FEWEST), min(place + FEWEST, len(losses)))
    if not len(near):
        return None
    peak = int(near[losses[near].argmax()])
    level, spread = _usual(losses[max(peak - BEFORE, 0) : peak])
    if not losses[peak] > level + BEYOND * spread:
        return None
    return Incident("spike", peak, peak, level, float(losses[peak]))


def _usual(losses: Float[np.ndarray, " steps"]) -> tuple[float, float]:
    """The median of losses, and their usual deviation from it; NaN without losses."""
    if len(losses) < FEWEST:
        return math.nan, math.nan
    level = float(np.median(losses))
    # 1.4826: the standard deviation of normal noise over its median deviation
    return level, 1.4826 * float(np.median(np.abs(losses - level)))
