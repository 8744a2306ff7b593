"""What a batch buys: updates, examples and time to the same loss at other batch sizes, each with its interval.

A model, not a measurement. One step of SGD at the rate that gains most lowers the loss by a gain ∝ 1/(1 + B_noise/B),
at a rate ∝ the same. A run of B thus needs updates ∝ the mean of 1 + B_noise/B over its path, where B_noise grows as
the loss falls. Against the run that is made at the present B₀, each of its steps becomes

    (1 + B_noise/B) / (1 + B_noise/B₀)

steps at B: the mean of that over the windows of the run is the factor, and its inverse is the factor for the rate,
so that the sum of the rates, how far a run travels, stays. The ratio lies between B₀/B and 1 whatever B_noise is, and
its interval has two ends even where the noise scale has no upper one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.arithmetic import average, product, transformed

LARGEST_FACTOR = 16
"""The table goes from a 16th of the present batch to 16 times as much."""

A_TENTH = 1.1
"""Batches are called cheap that cost at most a tenth more examples than the cheapest of the table."""


def relative_updates(noise_scales: Sequence[Estimate], present: int, other: int) -> Estimate:
    """Updates to the same loss at another batch size, against those at the present one.

    Args:
        noise_scales: B_noise in each of equally long windows of the run, or of the latest window alone.
        present: B₀, at which the run was made.
        other: B.

    Source: McCandlish et al. (2018), An Empirical Model of Large-Batch Training, eq. 2.7 for one step; the mean over
        a run: app. D, S = ∫ (1 + B_noise/B) ds, where each step of this run has ds = 1/(1 + B_noise/B₀).
    """
    for name, value in (("present", present), ("other", other)):
        if not value >= 1:
            raise BadArgument(f"`{name}` must be at least 1 example, got {value}.")
    if present == other:
        return Estimate.exact(1.0)
    return average([transformed(scale, lambda noise: _ratio(noise, present, other)) for scale in noise_scales])


def _ratio(noise_scale: float, present: int, other: int) -> float:
    if not math.isfinite(noise_scale):
        return present / other if noise_scale > 0 else 1.0  # below zero there is no noise scale: as if it were none
    noise_scale = max(noise_scale, 0.0)
    return (1 + noise_scale / other) / (1 + noise_scale / present)


@dataclass(frozen=True)
class BatchRow:
    """One batch size against the present one, to the same loss.

    Args:
        batch_size: B.
        learning_rate: η advised at B, given that the present one is right at the present batch.
        updates: Updates, relative to the present batch.
        examples: Examples, relative to the present batch.
        time: Time, relative to the present batch; None where step times were not measured.
    """

    batch_size: int
    learning_rate: Estimate
    updates: Estimate
    examples: Estimate
    time: Estimate | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as `--json` prints them."""
        estimates = {name: getattr(self, name) for name in ("learning_rate", "updates", "examples", "time")}
        made = {name: None if estimate is None else estimate.to_dict() for name, estimate in estimates.items()}
        return {"batch_size": self.batch_size, **made}


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
        """The table of these batch sizes.

        Args:
            noise_scales: As in `relative_updates`.
            sizes: Batch sizes, see `batch_sizes`.
            present: The present batch size.
            learning_rate: η at the present batch.
            relative_times: Time of a step at each of the sizes, against the present batch.
        """
        times = {} if relative_times is None else relative_times
        return cls(
            present,
            tuple(_row(noise_scales, size, present, learning_rate, times.get(size)) for size in sorted(sizes)),
        )

    @property
    def fastest(self) -> tuple[BatchRow, ...]:
        """The row of least time, and after it those whose time cannot be told from it; empty without step times."""
        timed = [(row.time, row) for row in self.rows if row.time is not None and math.isfinite(row.time.value)]
        if not timed:
            return ()
        least = min((time for time, _ in timed), key=lambda time: time.value)
        first = next(row for time, row in timed if time is least)
        return (first, *(row for time, row in timed if row is not first and time.low <= least.high))

    @property
    def cheapest(self) -> tuple[BatchRow, ...]:
        """The row of fewest examples, in this model always the smallest batch, and those within a tenth of it."""
        known = [row for row in self.rows if math.isfinite(row.examples.value)]
        if not known:
            return ()
        first = min(known, key=lambda row: row.examples.value)
        within = (row for row in known if row is not first)
        return (first, *(row for row in within if row.examples.value <= A_TENTH * first.examples.value))

    def to_dict(self) -> dict[str, Any]:
        """Rows and which of them are fastest and cheapest, as `--json` prints them."""
        return {
            "present": self.present,
            "rows": [row.to_dict() for row in self.rows],
            "fastest": [row.batch_size for row in self.fastest],
            "cheapest": [row.batch_size for row in self.cheapest],
        }


def _row(
    noise_scales: Sequence[Estimate], size: int, present: int, learning_rate: float, relative_time: Estimate | None
) -> BatchRow:
    updates = relative_updates(noise_scales, present, size)
    return BatchRow(
        batch_size=size,
        learning_rate=transformed(updates, lambda factor: learning_rate / factor, unit="learning rate"),
        updates=updates,
        examples=transformed(updates, lambda factor: factor * size / present),
        time=None if relative_time is None else product(updates, relative_time),
    )


def batch_sizes(present: int, examples: int | None = None) -> tuple[int, ...]:
    """The present batch times powers of two, from a 16th to 16 times: at least 2, at most the training set.

    Below 2 nothing is offered, since a batch of one shows no spread, and batch statistics of one are none.
    """
    if not present >= 1:
        raise BadArgument(f"`present` must be at least 1 example, got {present}.")
    most = present * LARGEST_FACTOR if examples is None else min(present * LARGEST_FACTOR, examples)
    powers = [present * 2.0**exponent for exponent in range(-4, 5)]
    return tuple(int(size) for size in powers if size == int(size) and (2 <= size <= most or size == present))
