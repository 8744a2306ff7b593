"""Since when the loss has not moved at this learning rate, and what a cut of the rate is predicted to gain.

Numbers and words only: a run is read on a machine without a tensor library.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.uncertainty.arithmetic import transformed
from gradiometer.measurement.uncertainty.means import mean
from gradiometer.measurement.uncertainty.slope import slope

CUT = 0.1
"""Of the rate, what a cut leaves."""

FINISH, SHORT_FINISH = 0.2, 0.05
"""Share of the steps, the last, in which cooling takes the rate linearly to zero; short where noise holds little."""

DRIFT = 0.25
"""Of the latest fall of the averaged iterate, how much is expected to be among what a cut gains."""

FEWEST_STEPS = 256
"""Of a stretch of a run, below which nothing is said about its level."""

SMALL_BESIDE = "What the run could still gain along its own trajectory is small beside what a cut gains."

CUTS_BY_ITSELF = "--cool auto cuts when the test says so, and ends at zero."


@dataclass(frozen=True)
class Level:
    """A stretch of a run, up to now, in which the loss shows no sign of moving.

    Args:
        since: Its first step.
        slope: Of the loss, relative to its mean, a step.
        loss: Its mean loss.
    """

    since: int
    slope: Estimate
    loss: float


def level_since(
    steps: Int[np.ndarray, " steps"], losses: Float[np.ndarray, " steps"], level: float = 0.9
) -> Level | None:
    """The longest stretch up to now, of those that begin at the start of a half, a quarter, …, that has no slope.

    No sign of a slope is no proof that there is none: how small it is at most is what its interval says. None where
    even the shortest stretch, of 256 steps, has one, or where there are fewer.

    Args:
        steps: Consecutive steps at one learning rate.
        losses: Of the batch at each.
        level: Of the slope's interval.
    """
    if not 0 < level < 1:
        raise BadArgument(f"`level` must lie between 0 and 1, got {level}: write 0.9 for 90 %.")
    if not np.isfinite(losses).all():
        raise BadArgument("`losses` must be finite: leave out what comes before and after one that is not.")
    length = len(losses)
    while length >= FEWEST_STEPS:
        found = _relative_slope(steps[-length:], losses[-length:], level)
        if found.low <= 0 <= found.high:
            return Level(int(steps[-length]), found, float(losses[-length:].mean()))
        length = int(length / math.sqrt(2))
    return None


def _relative_slope(steps: Int[np.ndarray, " steps"], losses: Float[np.ndarray, " steps"], level: float) -> Estimate:
    """Slope of the loss a step, in units of its mean."""
    size = abs(float(losses.mean())) or 1.0
    return transformed(slope(steps, losses / size, level), lambda in_thousand: in_thousand / 1000)


def gain_of_averaging(iterates: Float[np.ndarray, " taken"], averaged: float, level: float = 0.9) -> Estimate:
    """G, mean loss of the iterates − loss of their average, all on the same examples: the noise floor, measured.

    A straight trend of the iterates' losses is drift, not error: the interval is that of their mean once it is out.

    Source: Mandt, Hoffman & Blei (2017), Stochastic Gradient Descent as Approximate Bayesian Inference, section 5.
    """
    losses, time = np.asarray(iterates, dtype=np.float64), np.arange(len(iterates)) - (len(iterates) - 1) / 2
    return mean(losses - averaged - time * (time @ losses) / (time @ time), level=level)


def forecast(gain: Estimate, falling: float, learning_rate: float, cut: float) -> Estimate:
    """What the loss falls by when the rate is cut from η to η′, before anything is cut.

    The noise floor is in proportion to the rate, so the loss of single iterates falls by (1 − η′/η) G. To that comes
    drift: what the loss of their average fell by of late goes on, more slowly, from the newest iterates before the cut
    to as many steps after it as G was measured over. Of that fall the value holds a quarter and the interval from none
    to a half: on the twelve cuts it was chosen on it was 0.1 to 0.3 (`benchmarks/cool.py`, the digits MLP). Near a
    quadratic minimum G is (η/4) tr Σ/(B(1 − μ)): see `floor_by_formula`, which over-states it on networks.

    Simulated on least squares at its floor, nominal 90 %, it holds the difference of the two floors in 84 to 93 % of
    runs; what one cut is then seen to gain, from eight iterates before it, in 78 to 88 %, that being noisy as well.

    Args:
        gain: G, measured, with its interval.
        falling: By how much the loss of the average fell from the first to the second half of the iterates.
        learning_rate: η.
        cut: η′, below η.
    """
    if not 0 <= cut < learning_rate < math.inf:
        raise BadArgument(f"`cut` must be at least 0 and below the learning rate {learning_rate}, got {cut}.")
    if not falling >= 0:
        raise BadArgument(f"`falling` must be at least 0, got {falling}.")
    share = 1 - cut / learning_rate
    return Estimate.interval(
        share * gain.value + DRIFT * falling,
        share * gain.low,
        share * gain.high + 2 * DRIFT * falling,
        level=gain.level,
        method=f"(1 − η′/η) G, and {significant(DRIFT * falling)} of drift",
        samples=gain.samples,
    )


def floor_by_formula(learning_rate: float, gradient_variance: float, batch_size: int, momentum: float = 0.0) -> float:
    """(η/4) tr Σ/(B(1 − μ)), the excess loss near a quadratic minimum at a small rate, in units of the loss.

    On quadratics within 2 to 4 % where the rate is small; on networks it was 1.06 to 3.3 times what is measured.

    Source: Mandt, Hoffman & Blei (2017), eq. 14 and section 4.3; with momentum: their eq. 27.
    """
    if not (learning_rate > 0 and gradient_variance >= 0 and batch_size >= 1 and 0 <= momentum < 1):
        raise BadArgument(
            "`learning_rate`, `gradient_variance`, `batch_size` and `momentum` must be positive and `momentum` "
            f"below 1, got "
            f"{learning_rate}, {gradient_variance}, {batch_size}, {momentum}."
        )
    return learning_rate * gradient_variance / (4 * batch_size * (1 - momentum))


def finding(found: Level | None, learning_rate: float, cut: Mapping[str, Any] | None, to: float) -> Finding | None:
    """The sentence about a level stretch, or about a loss that still moves; None where that is all that is known.

    Args:
        found: The stretch.
        learning_rate: η in it.
        cut: The newest look of the test, as the run's event has it: `predicted` and `stopped`.
        to: η′ of the cut that is spoken of.
    """
    if found is None:
        return None if cut is None else _moving(learning_rate, cut, to)
    value, low, high = (significant(1e6 * x, 2) for x in (found.slope.value, found.slope.low, found.slope.high))
    seen = (
        f"At η = {significant(learning_rate)} the loss shows no sign of moving since about step {found.since:,}: "
        f"slope {value} [{low}, {high}] ‰ per 1,000 steps."
    )
    means = "Going on at this rate shows no sign of paying."
    stopped = False
    if cut is not None:
        predicted, stopped = Estimate(**cut["predicted"]), bool(cut["stopped"])
        seen += f" A cut to {significant(to)} is predicted to gain {predicted}."
        means = (
            SMALL_BESIDE
            if stopped
            else f"Along its own trajectory the run could still gain {significant(float(cut['left']))}: too soon."
        )
    return Finding(
        gauge="stationarity",
        issue=Issue.CONVERGENCE,
        state=State.LOOK if stopped or cut is None else State.OK,
        seen=seen,
        means=means,
        advice=CUTS_BY_ITSELF if stopped or cut is None else "",
        caveat="No sign of a slope is not the absence of one: the interval says how steep it may be.",
    )


def _moving(learning_rate: float, look: Mapping[str, Any], to: float) -> Finding:
    """What the newest look weighs where the loss has a slope: what a cut gains against what going on may."""
    stopped = bool(look["stopped"])
    return Finding(
        gauge="stationarity",
        issue=Issue.CONVERGENCE,
        state=State.LOOK if stopped else State.OK,
        seen=(
            f"At η = {significant(learning_rate)} the loss still moves. A cut to {significant(to)} is predicted to "
            f"gain {Estimate(**look['predicted'])}, and going on could still gain {significant(float(look['left']))}."
        ),
        means=SMALL_BESIDE if stopped else "By this test the rate has not stopped paying.",
        advice=CUTS_BY_ITSELF if stopped else "",
        caveat="What going on could gain is extrapolated along the run's own trajectory.",
    )
