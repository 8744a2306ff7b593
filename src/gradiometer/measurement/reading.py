"""The numbers that a gauge reads off training steps, and how the batches were drawn.

This module needs no torch, so that a run can be read on another machine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from gradiometer.errors import BadArgument

GradientOf = Literal["train", "population"]
"""The g that is meant: that of the training set, or that of the distribution from which it was drawn."""


def check_gradient_of(gradient_of: str) -> None:
    """Refuse a name that is neither "train" nor "population"."""
    if gradient_of not in ("train", "population"):
        raise BadArgument(f"`gradient_of` must be 'train' or 'population', got {gradient_of!r}.")


class Draw(StrEnum):
    """How the examples of a batch are drawn."""

    FRESH = "fresh"
    """Never seen before: independent draws from the population."""
    REPLACEMENT = "replacement"
    """Independent draws from the training set, with replacement."""
    RESHUFFLED = "reshuffled"
    """Epochs over the training set in random order. Within a batch, no example occurs twice."""


@dataclass(frozen=True)
class Sampling:
    """How batches are drawn, and from how many examples.

    Args:
        draw: How the examples of a batch are drawn.
        examples: N, the size of the training set; None if it is unknown or the data are fresh.

    >>> from gradiometer import Draw, Sampling
    >>> Sampling(Draw.RESHUFFLED, 60_000)  # a DataLoader with shuffle=True
    Sampling(draw=<Draw.RESHUFFLED: 'reshuffled'>, examples=60000)
    """

    draw: Draw
    examples: int | None = None

    def __post_init__(self) -> None:
        if self.examples is not None and not self.examples >= 1:
            raise BadArgument(f"`examples` must be at least 1, got {self.examples}.")

    def to_dict(self) -> dict[str, str | int | None]:
        """Plain values, for `run.toml`."""
        return {"draw": str(self.draw), "examples": self.examples}

    def one_over_examples(self, gradient_of: GradientOf) -> float:
        """1/N if batches are drawn without replacement from N examples whose gradient is meant; 0 otherwise.

        Two different examples of such a batch have the covariance −S/N, with S the covariance of the N examples with
        divisor N − 1. So the mean of ⟨ĝ_1, ĝ_2⟩ over disjoint parts is ‖g‖² − tr S/N, and the covariance of ĝ is
        S(1/B − 1/N).

        Args:
            gradient_of: "train": the gradient of the training set. "population": that of the distribution from which
                the training set was drawn, for which the examples are independent.

        Raises:
            BadArgument: N is missing.

        Source: Cochran (1977), Sampling Techniques, th. 2.2.

        >>> from gradiometer import Draw, Sampling
        >>> Sampling(Draw.RESHUFFLED, 500).one_over_examples("train")
        0.002
        """
        if gradient_of == "population" or self.draw is not Draw.RESHUFFLED:
            return 0.0
        if self.examples is None:
            raise BadArgument(
                "`sampling` draws without replacement from a training set of unknown size: give its number of "
                "`examples`, or use `gradient_of='population'`."
            )
        return 1 / self.examples


@dataclass(frozen=True)
class Spread:
    """Squared norms of the gradients of the disjoint parts of one batch, and of their mean.

    Args:
        sizes: b_j, the number of examples in each part.
        squared_norms: ‖ĝ_j‖² of each part, by layer.
        mean_squared_norm: ‖ĝ‖² of the mean over all examples, by layer.
        preconditioned: The same under the preconditioner P of the optimizer: ‖√P ĝ_j‖² and ‖√P ĝ‖². None if P was not
            given, or is not known yet.
    """

    sizes: Int[np.ndarray, " parts"]
    squared_norms: Float[np.ndarray, "parts layers"]
    mean_squared_norm: Float[np.ndarray, " layers"]
    preconditioned: "Spread | None" = None


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
        moments: Every moment, stacked: shape [steps], or [steps, layers] for a moment per layer.
        sampling: How the batches were drawn.
        layers: Names of the layers, in the order of the moments per layer.
        reached: Last step of training so far; 0 if that is not known.
        earlier_peak: Highest η of the readings that a window leaves out.

    >>> from gradiometer import Draw, Reading, Sampling, Series
    >>> readings = [Reading("mine", step, 32, 0.1, {"loss": 2.0 - step / 10}) for step in (0, 5, 10)]
    >>> series = Series.of(readings, Sampling(Draw.FRESH))
    >>> len(series), series.spacing, series[-2:].moments["loss"].tolist()
    (3, 5.0, [1.5, 1.0])
    """

    gauge: str
    steps: Int[np.ndarray, " steps"]
    batch_size: Int[np.ndarray, " steps"]
    learning_rate: Float[np.ndarray, " steps"]
    moments: Mapping[str, Float[np.ndarray, "steps ..."]]
    sampling: Sampling
    layers: tuple[str, ...] = ()
    reached: int = 0
    earlier_peak: float = 0.0

    @classmethod
    def of(cls, readings: Sequence[Reading], sampling: Sampling, layers: tuple[str, ...] = ()) -> "Series":
        """Stack the readings of one gauge, at least one."""
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
        """The readings at these positions (not steps): `series[-200:]` is the last 200."""
        return replace(
            self,
            steps=self.steps[window],
            batch_size=self.batch_size[window],
            learning_rate=self.learning_rate[window],
            earlier_peak=self.peak_rate,
            moments={name: values[window] for name, values in self.moments.items()},
        )

    @property
    def peak_rate(self) -> float:
        """Highest η of all readings, also of those outside of this window."""
        return max(self.earlier_peak, float(self.learning_rate.max(initial=0.0)))

    @property
    def spacing(self) -> float:
        """Training steps from one reading to the next, on average. A single reading counts for all steps so far."""
        if len(self) > 1:
            return float(self.steps[-1] - self.steps[0]) / (len(self) - 1)
        return float(max(self.steps[-1] + 1, self.reached))
