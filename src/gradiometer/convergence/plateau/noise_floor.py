"""Since when the loss has been flat at this learning rate, and how much a cut of the rate is
predicted to gain.

Torch is not needed: runs are read on machines without it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

from gradiometer.measurement.estimate import LEVEL, Estimate, significant
from gradiometer.measurement.finding import Doubt, Finding, Issue, State
from gradiometer.measurement.uncertainty.arithmetic import transform
from gradiometer.measurement.uncertainty.means import mean, slope

# A cut multiplies the learning rate by this.
CUT = 0.1

# Last share of the steps, in which cooling takes the rate linearly to zero unless forks decide
# otherwise.
FINISH = 0.2

# Share of the averaged iterate's latest fall that is expected to be part of what a cut gains.
DRIFT = 0.25

# How much branches that were cooled differ from the forecast by chance, as a share of the loss.
NOISE_OF_BRANCHES = 0.1

# Shortest stretch of a run that is tested for a slope.
FEWEST_STEPS = 256


@dataclass(frozen=True)
class Plateau:
    """A stretch of a run, up to now, in which the loss shows no slope.

    Args:
        since: Its first step.
        slope: Change of the loss per step, relative to its mean.
        loss: Its mean loss.
    """

    since: int
    slope: Estimate
    loss: float


def plateau_since(
    steps: Int[np.ndarray, " steps"], losses: Float[np.ndarray, " steps"], level: float = LEVEL
) -> Plateau | None:
    """The longest stretch up to now whose slope has an interval that contains zero.

    Tries all steps, then the last 1/√2 of them, the last half, and so on down to 256 steps. A
    stretch that begins with
    a fall or a rise is left out too: a short steep one hardly changes the slope, and makes its
    interval wide. None if all have a slope. An interval that contains zero is no proof of a flat
    loss: its ends say how steep it may be.

    Args:
        steps: Consecutive steps at one learning rate.
        losses: The batch's loss at each step.
        level: Confidence level of the slope's interval.

    >>> import numpy as np
    >>> from gradiometer.convergence.plateau.noise_floor import plateau_since
    >>> steps = np.arange(8000)
    >>> losses = np.maximum(4 - steps / 1000, 1) + 0.1 * np.random.default_rng(0).standard_normal(8000)
    >>> plateau_since(steps, losses).since
    4001
    """
    length = len(losses)
    while length >= FEWEST_STEPS:
        newest = losses[-length:]
        size = abs(float(newest.mean())) or 1.0
        # `slope` is per thousand steps
        found = transform(
            slope(steps[-length:], newest / size, level), lambda in_thousand: in_thousand / 1000
        )
        if found.low <= 0 <= found.high and not _starts_apart(newest / size):
            return Plateau(int(steps[-length]), found, float(newest.mean()))
        # Half an octave at a time: few tests for a run of any length.
        length = int(length / math.sqrt(2))
    return None


def _starts_apart(losses: Float[np.ndarray, " steps"]) -> bool:
    """True if a first part, from an eighth of the losses to 16 of them, has another mean than later
    parts.

    The later parts show how much such a mean varies, whatever the correlation of the losses.
    """
    length = len(losses) // 8
    while length >= 16:
        count = len(losses) // length
        means = losses[: count * length].reshape(count, length).mean(axis=1)
        later = means[1:]
        # 0.9995: level at which the mean of a first part must lie outside of what the later ones
        # predict, on each side.
        margin = float(stdtrit(len(later) - 1, 0.9995) * later.std(ddof=1)) * math.sqrt(
            1 + 1 / len(later)
        )
        if abs(means[0] - later.mean()) > margin:
            return True
        length //= 2
    return False


def gain_of_averaging(
    iterates: Float[np.ndarray, " taken"], averaged: float, level: float = LEVEL
) -> Estimate:
    """G, the noise floor as measured: mean loss of the iterates − loss of their average, on the
    same examples.

    A straight trend in the iterates' losses is drift, not error, so it is removed before the
    interval is computed.

    Source: Mandt, Hoffman & Blei (2017), Stochastic Gradient Descent as Approximate Bayesian
    Inference, section 5.

    >>> import numpy as np
    >>> from gradiometer.convergence.plateau.noise_floor import gain_of_averaging
    >>> losses = np.array([1.2, 1.1, 1.3, 1.2, 1.25, 1.15, 1.2, 1.2])
    >>> print(gain_of_averaging(losses, averaged=1.0))
    0.200 [0.160, 0.240]
    """
    losses = np.asarray(iterates, dtype=np.float64)
    time = np.arange(len(iterates)) - (len(iterates) - 1) / 2
    return mean(losses - averaged - time * (time @ losses) / (time @ time), level=level)


def forecast(gain: Estimate, falling: float, learning_rate: float, cut: float) -> Estimate:
    """How much the loss will fall if the rate is cut from η to η′, predicted before the cut.

    The noise floor is proportional to the rate, so the loss of single iterates falls by (1 − η′/η)
    G. Drift adds to
    that: the average of the iterates keeps falling, but more slowly, from the newest iterates
    before the cut to as many steps after it as G was measured over. The value counts a quarter of
    that average's latest fall, the interval none
    to a half: on the twelve cuts this was chosen on it was 0.1 to 0.3. Near a quadratic minimum G
    is (η/4) tr Σ/(B(1 − μ)), see `floor_by_formula`, which is too large for networks.

    Simulated on least squares at its floor, the nominal 90 % interval contains the difference of
    the two floors in 84 to 93 % of runs. It contains the gain measured at one cut, from eight
    iterates before it, in 78 to 88 %, because that measurement is noisy too.

    Args:
        gain: G, measured, with its interval.
        falling: By how much the loss of the average fell from the first to the second half of the
            iterates.
        learning_rate: η.
        cut: η′, below η.

    >>> from gradiometer.convergence.plateau.noise_floor import forecast
    >>> from gradiometer import Estimate
    >>> gain = Estimate.interval(0.10, 0.08, 0.12, level=0.9, method="measured", samples=8)
    >>> print(forecast(gain, falling=0.0, learning_rate=0.1, cut=0.01))
    0.0900 [0.0720, 0.108]
    """
    share = 1 - cut / learning_rate
    return Estimate.interval(
        share * gain.value + DRIFT * falling,
        share * gain.low,
        share * gain.high + 2 * DRIFT * falling,
        level=gain.level,
        method=f"(1 − η′/η) G, and {significant(DRIFT * falling)} of drift",
        samples=gain.samples,
    )


def if_cooled(averaged: float, before: float, *, level: float = LEVEL) -> Estimate:
    """The loss that a training would have if its rate went to zero over the next fifth of its steps
    so far.

    Cooling takes the iterates to the loss of their average, which meanwhile goes on falling. As in
    `forecast`, the value counts a quarter of the latest fall, here in the logarithm of the loss,
    and the interval none to a half, and a tenth on either side for the noise of single branches.

    Args:
        averaged: Loss of the average of the iterates.
        before: The same at half the number of steps.
        level: Level that the interval is meant for. It held in 20 of 20 trainings that were looked
            at once.

    Raises:
        BadArgument: A loss is not finite.

    >>> from gradiometer.convergence.plateau.noise_floor import if_cooled
    >>> print(if_cooled(1.0, before=2.0))
    0.841 [0.640, 1.11]
    """
    # A loss below zero has no logarithm, and changes in its own unit.
    if averaged > 0 and before > 0:
        change = math.log(averaged / before)
        ends = sorted((0.0, 2 * DRIFT * change))
        value, low, high = (
            averaged * math.exp(by)
            for by in (DRIFT * change, ends[0] - NOISE_OF_BRANCHES, ends[1] + NOISE_OF_BRANCHES)
        )
    else:
        change = averaged - before
        room = NOISE_OF_BRANCHES * abs(averaged)
        ends = sorted((0.0, 2 * DRIFT * change))
        value = averaged + DRIFT * change
        low = averaged + ends[0] - room
        high = averaged + ends[1] + room
    return Estimate.interval(
        value,
        low,
        high,
        level=level,
        method="loss of the average, and a share of its latest change",
        samples=2,
    )


def finding(
    found: Plateau | None, learning_rate: float, cut: Mapping[str, Any] | None, to: float
) -> Finding | None:
    """The finding about a flat loss or, with a look of the test, about one that still moves; else
    None.

    Args:
        found: The stretch in which the loss is flat.
        learning_rate: η in it.
        cut: The newest look of the test, as the run's event has it: `predicted`, `left` and
            `stopped`.
        to: η′ of the cut the finding speaks of.
    """
    if found is None and cut is None:
        return None
    stopped = cut is not None and bool(cut["stopped"])
    if cut is None:
        claim = "flat_loss"
    elif stopped:
        claim = "cut_gains_more"
    else:
        claim = "no_cut_yet"
    advised = stopped or cut is None
    return Finding(
        gauge="stationarity",
        issue=Issue.CONVERGENCE,
        claim=claim,
        state=State.LOOK if advised else State.OK,
        facts={
            "learning_rate": learning_rate,
            "since": None if found is None else found.since,
            "slope": None if found is None else found.slope,
            "cut_to": to,
            "predicted_gain": None if cut is None else Estimate(**cut["predicted"]),
            "gain_of_more_steps": None if cut is None else float(cut["left"]),
        },
        cure=("cool now",) if advised else (),
        doubts=(Doubt("extrapolated_gain" if found is None else "flat_within_noise"),),
    )
