"""The numbers that a gauge read at training steps, and how the batches were drawn.

Nothing here needs torch: a run can be read on another machine, a year later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from jaxtyping import Float, Int

from gradiometer.errors import BadArgument


class Draw(StrEnum):
    """How the examples of a batch were chosen."""

    FRESH = "fresh"
    """Never seen before: independent draws from the population."""
    REPLACEMENT = "replacement"
    """Independent draws from the training set; an example may come twice."""
    RESHUFFLED = "reshuffled"
    """Epochs over the training set in random order: within a batch, no example comes twice."""


@dataclass(frozen=True)
class Sampling:
    """How batches are drawn, and from how many examples.

    Args:
        draw: The way examples are chosen.
        examples: N, the size of the training set; None where it is unknown or there is none (fresh data).
    """

    draw: Draw
    examples: int | None = None

    def __post_init__(self) -> None:
        if self.examples is not None and not self.examples >= 1:
            raise BadArgument(f"`examples` must be at least 1, got {self.examples}.")


Moments = Mapping[str, float | list[float]]
"""What a gauge keeps of one step: named numbers, each unbiased and additive over steps."""


@dataclass(frozen=True)
class Reading:
    """One gauge's moments at one step of training."""

    gauge: str
    step: int
    batch_size: int
    learning_rate: float
    moments: Moments


@dataclass(frozen=True)
class Series:
    """One gauge's readings over a window of steps, as arrays, oldest first.

    Args:
        gauge: Name of the gauge.
        steps: Step of each reading, in increasing order.
        batch_size: B at each reading.
        learning_rate: η at each reading.
        moments: Every moment, stacked: shape [steps], or [steps, layers] for a moment taken per layer.
        sampling: How the batches were drawn.
        layers: Names of the layers, in the order of the moments taken per layer.
        reached: Step that training had come to when the readings were asked for; 0 where that is not known.
    """

    gauge: str
    steps: Int[np.ndarray, " steps"]
    batch_size: Int[np.ndarray, " steps"]
    learning_rate: Float[np.ndarray, " steps"]
    moments: Mapping[str, Float[np.ndarray, "steps ..."]]
    sampling: Sampling
    layers: tuple[str, ...] = ()
    reached: int = 0

    @classmethod
    def of(cls, readings: Sequence[Reading], sampling: Sampling, layers: tuple[str, ...] = ()) -> "Series":
        """Stack readings of one gauge. At least one reading is needed."""
        if not readings:
            raise BadArgument("`readings` is empty: a series needs at least one reading.")
        return cls(
            gauge=readings[0].gauge,
            steps=np.array([reading.step for reading in readings], dtype=np.int64),
            batch_size=np.array([reading.batch_size for reading in readings], dtype=np.int64),
            learning_rate=np.array([reading.learning_rate for reading in readings], dtype=np.float64),
            moments={
                name: np.array([reading.moments[name] for reading in readings], dtype=np.float64)
                for name in readings[0].moments
            },
            sampling=sampling,
            layers=layers,
        )

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, window: slice) -> "Series":
        """The readings in a window of positions, not of steps: `series[-200:]` is the last 200."""
        return replace(
            self,
            steps=self.steps[window],
            batch_size=self.batch_size[window],
            learning_rate=self.learning_rate[window],
            moments={name: values[window] for name, values in self.moments.items()},
        )

    @property
    def spacing(self) -> float:
        """Training steps from one reading to the next, on average."""
        if len(self) > 1:
            return float(self.steps[-1] - self.steps[0]) / (len(self) - 1)
        return float(max(self.steps[-1] + 1, self.reached))  # one reading: all the steps there have been
