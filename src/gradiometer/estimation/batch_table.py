"""Updates, examples and time to the same loss at other batch sizes, each with its interval.

This is a model, not a measurement. One step of SGD at its best learning rate lowers the loss by a
gain ∝ 1/(1 + B_noise/B), and that learning rate is ∝ the same. A run at B therefore needs updates ∝
the mean of 1 + B_noise/B along its path; B_noise grows as the loss falls. Each step of a run made
at the present B₀ corresponds to

    (1 + B_noise/B) / (1 + B_noise/B₀)

steps at B. The mean of this ratio over the windows of the run is the factor for updates. Its
inverse is the factor for the learning rate, so that the sum of the learning rates (how far a run
travels) does not change. The ratio lies between B₀/B and 1 for every B_noise, so its interval has
two finite ends even if the noise scale has no upper bound.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from operator import mul
from typing import Any

import numpy as np

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import LEVEL, Estimate
from gradiometer.measurement.uncertainty.arithmetic import average, product, transform
from gradiometer.measurement.uncertainty.means import median


def relative_updates(noise_scales: Sequence[Estimate], present: int, other: int) -> Estimate:
    """Updates to the same loss at another batch size, against those at the present one.

    Args:
        noise_scales: B_noise in windows of equal length along the run, or that of now alone.
        present: B₀, the batch size of the run.
        other: B.

    Source: McCandlish et al. (2018), An Empirical Model of Large-Batch Training, eq. 2.7 for one
        step; the mean over a run: app. D, S = ∫ (1 + B_noise/B) ds, with ds = 1/(1 + B_noise/B₀)
        for each step of this run.

    Example:
        >>> from gradiometer import Estimate
        >>> scale = Estimate.interval(96.0, 80.0, 120.0, level=0.9, method="Fieller", samples=200)
        >>> print(relative_updates([scale], present=32, other=64))
        0.625 [0.605, 0.643]
    """
    for name, value in (("present", present), ("other", other)):
        if not value >= 1:
            raise BadArgument(f"`{name}` must be at least 1 example, got {value}.")
    if present == other:
        return Estimate.exact(1.0)
    return average(
        [transform(scale, lambda noise: _ratio(noise, present, other)) for scale in noise_scales]
    )


def _ratio(noise_scale: float, present: int, other: int) -> float:
    if not math.isfinite(noise_scale):
        # without noise all batches need the same updates
        return present / other if noise_scale > 0 else 1.0
    noise_scale = max(noise_scale, 0.0)
    return (1 + noise_scale / other) / (1 + noise_scale / present)


@dataclass(frozen=True)
class BatchRow:
    """One batch size against the present one, to the same loss.

    Args:
        batch_size: B.
        learning_rate: η advised at B if the present η is right at the present batch.
        updates, examples: Relative to the present batch.
        time: Time, relative to the present batch; None if step times were not measured.
    """

    batch_size: int
    learning_rate: Estimate
    updates: Estimate
    examples: Estimate
    time: Estimate | None = None


@dataclass(frozen=True)
class BatchTable:
    """Batch sizes against the present one.

    Args:
        present: The present batch size.
        rows: In increasing order of batch size.
    """

    present: int
    rows: tuple[BatchRow, ...]

    @classmethod
    def of(
        cls,
        noise_scales: Sequence[Estimate],
        sizes: Sequence[int],
        *,
        present: int,
        learning_rate: float,
        relative_times: Mapping[int, Estimate] | None = None,
    ) -> "BatchTable":
        """The table of the given batch sizes.

        Args:
            noise_scales: As in `relative_updates`.
            sizes: Batch sizes, see `batch_sizes`.
            present: The present batch size.
            learning_rate: η at the present batch.
            relative_times: Time of a step at each size, relative to the present batch.

        Example:
            >>> from gradiometer import Estimate
            >>> scale = Estimate.interval(96.0, 80.0, 120.0, level=0.9, method="Fieller", samples=200)
            >>> table = BatchTable.of([scale], batch_sizes(32), present=32, learning_rate=0.1)
            >>> for row in table.rows[3:6]:
            ...     print(row.batch_size, row.updates, "updates,", row.examples, "examples")
            16 1.75 [1.71, 1.79] updates, 0.875 [0.857, 0.895] examples
            32 1.00 updates, 1.00 examples
            64 0.625 [0.605, 0.643] updates, 1.25 [1.21, 1.29] examples
        """
        times, rows = relative_times or {}, []
        for size in sorted(sizes):
            updates, time = relative_updates(noise_scales, present, size), times.get(size)
            rows.append(
                BatchRow(
                    batch_size=size,
                    learning_rate=transform(
                        updates, lambda factor: learning_rate / factor, unit="learning rate"
                    ),
                    updates=updates,
                    examples=transform(updates, partial(mul, size / present)),
                    time=None if time is None else product(updates, time),
                )
            )
        return cls(present, tuple(rows))

    @property
    def fastest(self) -> tuple[BatchRow, ...]:
        """The row of least time, then those whose intervals overlap with its own. Empty without
        step times."""
        timed = [
            (row.time, row)
            for row in self.rows
            if row.time is not None and math.isfinite(row.time.value)
        ]
        if not timed:
            return ()
        least = min((time for time, _ in timed), key=lambda time: time.value)
        first = next(row for time, row in timed if time is least)
        return (first, *(row for time, row in timed if row is not first and time.low <= least.high))

    @property
    def cheapest(self) -> tuple[BatchRow, ...]:
        """The row of fewest examples (in this model always the smallest batch), then those within a
        tenth of it."""
        known = [row for row in self.rows if math.isfinite(row.examples.value)]
        if not known:
            return ()
        first = min(known, key=lambda row: row.examples.value)
        # 1.1: A batch is called cheap if it needs at most a tenth more examples than the cheapest
        # of the table.
        most = 1.1 * first.examples.value
        return (first, *(row for row in known if row is not first and row.examples.value <= most))

    def to_dict(self) -> dict[str, Any]:
        """The rows, and the batch sizes that are fastest and cheapest, as `--json` prints them."""
        return {
            **asdict(self),
            "fastest": [row.batch_size for row in self.fastest],
            "cheapest": [row.batch_size for row in self.cheapest],
        }


def batch_sizes(present: int, examples: int | None = None) -> tuple[int, ...]:
    """The present batch times powers of two, from a 16th to 16 times: at least 2, at most the
    training set.

    A batch of 1 is left out: it shows no spread, and BatchNorm has no statistics of a single
    example.

    Example:
        >>> batch_sizes(32, examples=1000)
        (2, 4, 8, 16, 32, 64, 128, 256, 512)
    """
    most = math.inf if examples is None else examples
    powers = [present * 2.0**exponent for exponent in range(-4, 5)]
    return tuple(
        int(size) for size in powers if size == int(size) and (2 <= size <= most or size == present)
    )


# Range of the power p of the best learning rate ∝ B^p below the critical batch size, by family of
# optimizers.
#
# Measured with SGD with momentum and with AdamW, on a character transformer and a small
# convolutional network, with tuned rates. The range is of these trials, not a confidence interval.
POWERS = {"sgd": (0.5, 0.9), "adaptive": (-0.03, 0.63)}

# Name of the gauge of the noise scale under an adaptive optimizer.
PRECONDITIONED = "preconditioned_noise"


@dataclass(frozen=True)
class RateBracket:
    """The learning rates to try at one batch size.

    Args:
        batch_size: B.
        low, high: The smallest and the largest η.
    """

    batch_size: int
    low: float
    high: float


def rate_brackets(
    family: str, rate: float, present: int, sizes: Sequence[int]
) -> tuple[RateBracket, ...]:
    """Learning rates to try at other batch sizes, from η at the present one, for optimizers with
    known `POWERS`.

    >>> rate_brackets("adaptive", 1e-3, present=32, sizes=(32, 64))[1]
    RateBracket(batch_size=64, low=0.00097..., high=0.00154...)
    """
    powers = POWERS[family]
    return tuple(
        RateBracket(size, *sorted(rate * (size / present) ** power for power in powers))
        for size in sizes
    )


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
    level: float = LEVEL,
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
    if not seconds > 0:
        raise BadArgument(f"`seconds` must be positive, got {seconds}.")
    began, rounds = clock(), list[list[float]]()
    while len(rounds) <= MOST_ROUNDS and (
        len(rounds) <= FEWEST_ROUNDS or clock() - began < seconds
    ):
        times_of_round = []
        for size in sizes:
            before = clock()
            step(size)
            times_of_round.append(clock() - before)
        rounds.append(times_of_round)
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
