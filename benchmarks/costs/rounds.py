"""Timing side by side: everything takes its turn in every round, and ratios are taken within a
round.

Seconds are the processor's, of this process: waiting for others at the machine does not count. What
they do to caches and memory slows all of a round alike, which a ratio does not see; an outlier is
what a median does not see.
"""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from scipy.stats import binom

from gradiometer import BadArgument, Estimate

Step = Callable[[], object]
Seconds = dict[str, list[float]]
"""Of each thing that was timed, its seconds in each round."""

LEVEL = 0.9
FEWEST_ROUNDS = 5
"""Rounds below which the two outermost of them do not enclose the median in 90 % of cases."""

BLOCK_SECONDS = 0.06
SHORTEST_BLOCK, LONGEST_BLOCK = 3, 20


def take_turns(steps: Mapping[str, Step], rounds: int) -> Seconds:
    """The median processor seconds of a step, of each kind in each round, the kinds in a new order
    every round."""
    seconds: Seconds = {name: [] for name in steps}
    lengths = {name: _length(step) for name, step in steps.items()}
    order, shuffled = list(steps), random.Random(0)
    for _ in range(rounds):
        shuffled.shuffle(order)
        for name in order:
            steps[name]()  # finds its own weights in the cache again
            seconds[name].append(
                statistics.median(timed(steps[name]) for _ in range(lengths[name]))
            )
    return seconds


def timed(step: Step) -> float:
    """Processor seconds of one call."""
    began = time.process_time()
    step()
    return time.process_time() - began


def ratio(seconds: Sequence[float], unit: Sequence[float]) -> Estimate:
    """The median over rounds of what a step costs in units of another step of the same round."""
    return median([one / other for one, other in zip(seconds, unit, strict=True)])


def median(values: Sequence[float], unit: str = "") -> Estimate:
    """The median with the interval between two order statistics, which needs no law of the values.

    Source: David & Nagaraja (2003), Order Statistics, sec. 7.1.
    """
    rounds = len(values)
    if not rounds >= FEWEST_ROUNDS:
        raise BadArgument(
            f"`rounds` must be at least {FEWEST_ROUNDS} for an interval at {LEVEL:.0%}, got "
            f"{rounds}."
        )
    # As many of the rounds as this lie outside at each end, with a chance of at most half of 1 −
    # level.
    outside = int(binom.ppf((1 - LEVEL) / 2, rounds, 0.5)) - 1
    ordered = sorted(values)
    return Estimate.interval(
        statistics.median(values),
        ordered[outside],
        ordered[rounds - 1 - outside],
        level=LEVEL,
        method="median of rounds, order statistics",
        samples=rounds,
        unit=unit,
    )


def _length(step: Step) -> int:
    """Steps in a block of about the same seconds for all, after two that find their memory."""
    step(), step()
    return min(max(round(BLOCK_SECONDS / timed(step)), SHORTEST_BLOCK), LONGEST_BLOCK)
