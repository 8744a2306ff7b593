"""The time of a step at several batch sizes, measured in turn so that a busy moment
slows them all."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import median

FEWEST_ROUNDS, MOST_ROUNDS = 9, 60


@dataclass(frozen=True)
class StepTimes:
    """Seconds a training step takes, by batch size.

    Args:
        seconds: Median time of a step.
        relative: Time relative to the present batch: the median over rounds of the ratio within a
            round.
    """

    seconds: Mapping[int, Estimate]
    relative: Mapping[int, Estimate]


def step_times(
    step: Callable[[int], object],
    sizes: Sequence[int],
    present: int,
    *,
    seconds: float = 10.0,
    level: float = 0.9,
    clock: Callable[[], float] = time.perf_counter,
) -> StepTimes:
    """Time one step at every size in each of 9 to 60 rounds.

    The first round is not counted: it allocates memory and chooses kernels. The ratio to the
    present batch is taken within a round, so that anything that slows a whole round cancels.
    Medians are taken over rounds.

    Args:
        step: Makes one training step with the given number of examples and waits until it is done.
        sizes: Batch sizes, including the present one.
        present: The present batch size.
        seconds: About how long to measure.
        level: Confidence level, between 0 and 1.
        clock: Seconds from any origin, never going back.
    """
    if present not in sizes:
        raise BadArgument(
            f"`sizes` must include the present batch size {present}, got "
            f"{', '.join(map(str, sizes))}."
        )
    if not seconds > 0:
        raise BadArgument(f"`seconds` must be positive, got {seconds}.")
    began, rounds = clock(), list[list[float]]()
    while len(rounds) <= MOST_ROUNDS and (
        len(rounds) <= FEWEST_ROUNDS or clock() - began < seconds
    ):
        rounds.append(_round(step, sizes, clock))
    times = np.array(rounds[1:])
    ratios = times / times[:, [list(sizes).index(present)]]
    return StepTimes(
        seconds={
            size: median(times[:, place], level=level, unit="seconds")
            for place, size in enumerate(sizes)
        },
        relative={
            size: Estimate.exact(1.0) if size == present else median(ratios[:, place], level=level)
            for place, size in enumerate(sizes)
        },
    )


def _round(
    step: Callable[[int], object], sizes: Sequence[int], clock: Callable[[], float]
) -> list[float]:
    times = []
    for size in sizes:
        began = clock()
        step(size)
        times.append(clock() - began)
    return times
