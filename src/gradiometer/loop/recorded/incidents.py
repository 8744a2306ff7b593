"""Where a loss went wrong, and why: spikes and incidents of a run, and `IncidentCause`, from updates
that were made again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.lib.stride_tricks import sliding_window_view

from gradiometer.drift.spikes.detection import Spike, find_spikes
from gradiometer.measurement.artifact import Artifact
from gradiometer.measurement.reading import Draw
from gradiometer.measurement.uncertainty.means import OF_MEDIAN_DEVIATION
from gradiometer.run.reader import Run


def spikes_of(run: Run) -> tuple[Spike, ...]:
    """The spikes of the training loss. Their places are steps.

    A rise of the loss after a recorded rise of the learning rate is no spike. The size of the last
    batch of an epoch follows from the number of examples, if the data are reshuffled.

    Args:
        run: The run, finished or not.
    """
    steps, losses = run.losses
    known, rates = run.hyperparameters, None
    if known is not None:
        # the largest of the groups
        places = np.searchsorted(known.steps, steps, side="right") - 1
        rates = known.rates[np.maximum(places, 0)]
    examples, size, sizes = run.sampling.examples, run.configuration.batch_size, None
    is_reshuffled = run.sampling.draw is Draw.RESHUFFLED
    if is_reshuffled and examples is not None and examples > size and examples % size:
        last = (steps + 1) % (examples // size + 1) == 0
        sizes = np.where(last, float(examples % size), float(size))
    return tuple(spike.at(steps) for spike in find_spikes(losses, rates=rates, sizes=sizes))


Kind = Literal["not finite", "diverged", "spike", "rise"]

# Losses that show the level before a rise, and how far noise reaches. A rise that stays is looked
# for in as many steps on each side of the step that is asked for.
BEFORE = 64

# Fewest losses on each side of a rise: fewer have medians that noise moves.
FEWEST = 8

# Updates after a rise that show if it stays.
AFTER = 16

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
        window: Number of successive losses whose mean shows it: 1, or its length if single losses
            before it were about as high.
        risen: The highest mean of `window` losses; None with 1.
    """

    kind: Kind
    first: int
    last: int
    level: float
    height: float
    window: int = 1
    risen: float | None = None

    @property
    def limit(self) -> float:
        """The loss, or the mean of `window` losses, from which on it is the incident again: half of
        the way up; of a divergence, whose height is that of the step where it was stopped, ten
        times the level."""
        if self.kind == "diverged" and self.level > 0:
            return 10 * self.level
        height = self.height if self.risen is None else self.risen
        return self.level + (height - self.level) / 2


# losses next to the largest number overflow, and then are beyond all noise
@np.errstate(over="ignore", invalid="ignore")
def incident_at(run: Run, step: int) -> Incident | None:
    """The incident at a step, or near it; None if the loss did not rise there.

    Args:
        run: The run.
        step: The step.
    """
    steps, losses = run.losses
    end = next((event for event in run.events if event["event"] == "diverged"), None)
    if end is not None and (step >= end["step"] - BEFORE or not len(losses)):
        return _divergence(int(end["step"]), str(end["reason"]), losses)
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad) and step >= steps[bad[0]] - BEFORE:
        # a loop of one's own goes on
        return _divergence(int(steps[bad[0]]), "not finite", losses)
    for spike in spikes_of(run):
        if spike.first <= step <= spike.last:
            return _of_spike(spike, steps, losses)
    place = int(np.searchsorted(steps, step))
    return _rise(losses, place) or _single(losses, place)


def _of_spike(
    spike: Spike, steps: Int[np.ndarray, " steps"], losses: Float[np.ndarray, " steps"]
) -> Incident:
    """The incident of a spike. Losses before it, as many as the branches of other orders have, show
    how high noise comes; if single ones come as high as the spike, means show it."""
    found = Incident("spike", spike.first, spike.last, spike.level, spike.height)
    known = np.isfinite(losses)
    before = losses[known & (steps < spike.first)][-4 * (spike.length + 2 * LEAD) :]
    inside = losses[known & (steps >= spike.first) & (steps <= spike.last)]
    if highest_mean(before, 1) >= found.limit and spike.length > 1:
        return replace(found, window=spike.length, risen=highest_mean(inside, spike.length))
    return found


def _divergence(at: int, reason: str, losses: Float[np.ndarray, " steps"]) -> Incident:
    """The incident at the step where a training was stopped."""
    losses = losses[:at]
    level, spread = usual(losses[max(at - 4 * BEFORE, 0) : max(at - FEWEST, 0)])
    limit = level + BEYOND * spread
    if math.isnan(level) and len(losses):
        # how far noise reaches is not known: what has grown tenfold is not of it
        level = float(losses[0])
        limit = level + 9 * abs(level)
    high = losses > limit
    # the newest losses may not be on record
    end = len(losses)
    first = end
    # single losses come back on the way up
    while first > 0 and (high[first - 1] or high[max(first - FEWEST, 0) : first].mean() >= 0.5):
        first -= 1
    if first < end:
        first += int(high[first:].argmax())
        return Incident("diverged", first, at, level, float(losses[first:].max()))
    # a loss that was usual until the last step did not grow
    is_finite = not ("nan" in reason or "finite" in reason or "inf" in reason)
    return Incident("diverged" if is_finite else "not finite", at, at, level, math.inf)


def _rise(losses: Float[np.ndarray, " steps"], place: int) -> Incident | None:
    """The largest rise that stays, near a place; None if none is above the noise."""
    best: tuple[float, int] = (0.0, 0)
    for first in range(max(place - BEFORE, FEWEST), min(place + FEWEST, len(losses) - FEWEST) + 1):
        level, spread = usual(losses[max(first - BEFORE, 0) : first])
        later = float(np.median(losses[first : first + BEFORE]))
        # the first high loss itself, and not one before it, begins the rise
        if losses[first] > level + (later - level) / 2 and spread > 0:
            best = max(best, ((later - level) / spread, first))
    ratio, first = best
    if ratio < BEYOND:
        return None
    level, _ = usual(losses[max(first - BEFORE, 0) : first])
    # as high as it is soon: what goes on growing is later far above what its cause has made
    after = losses[first : first + AFTER + 1]
    return Incident("rise", first, first + len(after) - 1, level, float(np.median(after)))


def _single(losses: Float[np.ndarray, " steps"], place: int) -> Incident | None:
    """A high loss beside a place: too low for a spike that nobody has pointed at."""
    near = np.arange(max(place - FEWEST, FEWEST), min(place + FEWEST, len(losses)))
    if not len(near):
        return None
    peak = int(near[losses[near].argmax()])
    level, spread = usual(losses[max(peak - BEFORE, 0) : peak])
    if not losses[peak] > level + BEYOND * spread:
        return None
    return Incident("spike", peak, peak, level, float(losses[peak]))


@np.errstate(over="ignore", invalid="ignore")
def usual(losses: Float[np.ndarray, " steps"]) -> tuple[float, float]:
    """The median of losses, and their usual deviation from it; NaN without losses."""
    if len(losses) < FEWEST:
        return math.nan, math.nan
    level = float(np.median(losses))
    return level, OF_MEDIAN_DEVIATION * float(np.median(np.abs(losses - level)))


def highest_mean(losses: Float[np.ndarray, " losses"], window: int) -> float:
    """The highest mean of so many successive losses, or of all if there are fewer; NaN
    without any."""
    if not len(losses):
        return math.nan
    return float(sliding_window_view(losses, min(max(window, 1), len(losses))).mean(axis=1).max())


Cause = Literal["example", "batch", "batches", "layer", "rate", "chance", "unknown"]

# Beginning of the names of trials on other orders of the data.
OTHER = "other data"


@dataclass(frozen=True)
class IncidentCause(Artifact):
    """Why a loss went wrong.

    Args:
        incident: The incident.
        start: The step that the updates were made again from.
        cause: "example" or "batch" (without it the loss does not rise), "batches" (without those of
            all steps from `step` to `last`), "rate" (it does not rise at
            a smaller one), "layer" (it does not rise if this layer alone is left as it is, or the
            layer's output is not finite), "chance", or "unknown".
        step: The update that is the cause; the first high loss if that is none.
        examples: Positions in the data set of the examples that are the cause.
        rows: Their rows in the batch of `step`, if their positions are not known.
        layer: The layer.
        factor: The largest factor on the rate that was seen to avoid it.
        last: The last of the updates that are the cause, if they are several.
        tried: What was tried, and if the incident came.
    """

    files: ClassVar[str] = "incidents/step_*.json"

    incident: Incident
    start: int
    cause: Cause
    step: int
    examples: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()
    layer: str = ""
    factor: float | None = None
    tried: Mapping[str, bool] = field(default_factory=dict)
    last: int | None = None

    @property
    def orders(self) -> tuple[bool, ...]:
        """If it came, for each other order of the data that was tried."""
        return tuple(came for name, came in self.tried.items() if name.startswith(OTHER))

    @property
    def change(self) -> str | None:
        """The change that avoids it, as the text of an alternative; None if none is known."""
        if self.cause in ("example", "batch", "batches"):
            last = self.step if self.last is None else self.last
            return f"skip {self.step}:{last + 1}"
        return None if self.factor is None else f"rate {self.factor:.2g}x"


# Updates before an incident from which they are made again, in which a smaller rate can act, and the
# fewest after it.
LEAD = 8
