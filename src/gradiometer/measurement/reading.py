"""The numbers that a gauge reads off training steps, and how the batches were drawn.

This module needs no torch, so that a run can be read on another machine.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import LEVEL, Estimate

if TYPE_CHECKING:  # a run is read without scipy
    import gradiometer.measurement.uncertainty.power_law

# The g that is meant: that of the training set, or that of the distribution from which it was
# drawn.
GradientOf = Literal["train", "population"]


def check_gradient_of(gradient_of: str) -> None:
    """Refuse a name that is neither "train" nor "population"."""
    if gradient_of not in ("train", "population"):
        raise BadArgument(f"`gradient_of` must be 'train' or 'population', got {gradient_of!r}.")


class Draw(StrEnum):
    """How the examples of a batch are drawn.

    Attributes:
        FRESH: Never seen before: independent draws from the population.
        REPLACEMENT: Independent draws from the training set, with replacement.
        RESHUFFLED: Epochs over the training set in random order. Within a batch, no example occurs
            twice.
    """

    FRESH = "fresh"
    REPLACEMENT = "replacement"
    RESHUFFLED = "reshuffled"


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
        if not (self.examples is None or self.examples >= 1):
            raise BadArgument(f"`examples` must be at least 1, got {self.examples}.")

    def to_dict(self) -> dict[str, str | int | None]:
        """Plain values, for `run.toml`."""
        return {"draw": str(self.draw), "examples": self.examples}

    def one_over_examples(self, gradient_of: GradientOf) -> float:
        """1/N if batches are drawn without replacement from N examples whose gradient is meant; 0
        otherwise.

        Two different examples of such a batch have the covariance −S/N, with S the covariance of
        the N examples with divisor N − 1. So the mean of ⟨ĝ_1, ĝ_2⟩ over disjoint parts is ‖g‖² −
        tr S/N, and the covariance of ĝ is S(1/B − 1/N).

        Args:
            gradient_of: "train": the gradient of the training set. "population": that of the
                distribution from which the training set was drawn, for which the examples are
                independent.

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
                "`sampling` is reshuffled, over a training set of unknown size: give "
                "its number of `examples`, or use `gradient_of='population'`."
            )
        return 1 / self.examples


@dataclass(frozen=True)
class Spread:
    """Squared norms of the gradients of the disjoint parts of one batch, and of their mean.

    Args:
        sizes: b_j, the number of examples in each part.
        squared_norms: ‖ĝ_j‖² of each part, by layer.
        mean_squared_norm: ‖ĝ‖² of the mean over all examples, by layer.
        preconditioned: The same under the preconditioner P of the optimizer: ‖√P ĝ_j‖² and ‖√P ĝ‖².
            None if P was not given, or is not known yet.
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

    `mean` and `ratio` estimate from moments. Along training the moments drift, so a diagnosis asks
    for the values at the newest reading (`at_newest`). Otherwise they are those of the window:
    means over its readings.

    Args:
        gauge: Name of the gauge.
        steps: Step of each reading, in increasing order.
        batch_size: B at each reading.
        learning_rate: η at each reading.
        moments: Every moment, stacked: shape [steps], or [steps, layers] for a moment per layer.
        sampling: How the batches were drawn.
        layers: Names of the layers, in the order of the moments per layer.
        reached: Last step of training so far; 0 if that is not known.
        newest: True if estimates are about the newest reading, False if they are about the mean
            over the window.

    >>> from gradiometer import Draw, Sampling, Series
    >>> from gradiometer.measurement.reading import Reading
    >>> readings = [Reading("mine", step, 32, 0.1, {"loss": 2.0 - step / 10}) for step in (0, 5, 10, 15)]
    >>> series = Series.of(readings, Sampling(Draw.FRESH))
    >>> len(series), series.spacing, series[-2:].moments["loss"].tolist()
    (4, 5.0, [1.0, 0.5])
    >>> print(series.mean(series.moments["loss"]))
    1.25 [0.490, 2.01]
    """

    gauge: str
    steps: Int[np.ndarray, " steps"]
    batch_size: Int[np.ndarray, " steps"]
    learning_rate: Float[np.ndarray, " steps"]
    moments: Mapping[str, Float[np.ndarray, "steps ..."]]
    sampling: Sampling
    layers: tuple[str, ...] = ()
    reached: int = 0
    newest: bool = False

    @classmethod
    def of(
        cls, readings: Sequence[Reading], sampling: Sampling, layers: tuple[str, ...] = ()
    ) -> "Series":
        """Stack the readings of one gauge, at least one."""
        if not readings:
            raise BadArgument("`readings` is empty: a series needs at least one reading.")
        return cls(
            gauge=readings[0].gauge,
            steps=np.array([reading.step for reading in readings], dtype=np.int64),
            batch_size=np.array([reading.batch_size for reading in readings], dtype=np.int64),
            learning_rate=np.array(
                [reading.learning_rate for reading in readings], dtype=np.float64
            ),
            moments={
                name: np.array([reading.moments[name] for reading in readings], dtype=np.float64)
                for name in readings[0].moments
            },
            sampling=sampling,
            layers=layers,
        )

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(
        self, window: slice | Bool[np.ndarray, " steps"] | Int[np.ndarray, " _"]
    ) -> "Series":
        """The readings at these positions, a slice or a mask: `series[-200:]` is the last 200."""
        return replace(
            self,
            steps=self.steps[window],
            batch_size=self.batch_size[window],
            learning_rate=self.learning_rate[window],
            moments={name: values[window] for name, values in self.moments.items()},
        )

    def at_newest(self, by_layer: bool = True) -> "Series":
        """The same readings, for estimates of the values at the newest one.

        Args:
            by_layer: False to leave the estimates of single layers out, which take most of the
                time.
        """
        return replace(self, newest=True, layers=self.layers if by_layer else ())

    def mean(
        self,
        samples: Float[np.ndarray, " steps"],
        *,
        level: float = LEVEL,
        unit: str = "",
        prior: "gradiometer.measurement.uncertainty.power_law.Drift | None" = None,
        fourth_powers: bool = False,
    ) -> Estimate:
        """The mean of one number per reading: at the newest reading or over the window.

        Args:
            samples: One number per reading, made from the moments.
            level: Confidence level.
            unit: Unit of the samples.
            prior: How the quantity is expected to drift; by default as a moment of which little is
                known.
            fourth_powers: True if a reading is a fourth power of gradients. Then the estimate is
                unknown if few readings carry it, and that of a window has room for skewness.
        """
        return self._estimate([samples], level, unit, prior, fourth_powers)

    def ratio(
        self,
        numerator: Float[np.ndarray, " steps"],
        denominator: Float[np.ndarray, " steps"],
        *,
        level: float = LEVEL,
        unit: str = "",
        nonnegative: bool = True,
        prior: "gradiometer.measurement.uncertainty.power_law.Drift | None" = None,
        rare_noise: float | None = None,
        fourth_powers: bool = False,
    ) -> Estimate:
        """The ratio of two means: at the newest reading or over the window. It is never a mean of
        ratios.

        Args:
            numerator, denominator: One number per reading, each unbiased.
            level: Confidence level.
            unit: Unit of the ratio.
            nonnegative: True if both means are known not to be negative.
            prior: How denominator over numerator is expected to drift; by default as a moment of
                which little is known.
            rare_noise: See `ratio_now`; it is used for the value at the newest reading.
            fourth_powers: See `mean`. Then the estimate is also unknown if the denominator may be
                zero.
        """
        return self._estimate(
            [numerator, denominator],
            level,
            unit,
            prior,
            fourth_powers,
            nonnegative=nonnegative,
            rare_noise=rare_noise,
        )

    def _estimate(
        self,
        samples: Sequence[Float[np.ndarray, " steps"]],
        level: float,
        unit: str,
        prior: "gradiometer.measurement.uncertainty.power_law.Drift | None",
        fourth_powers: bool,
        *,
        nonnegative: bool = True,
        rare_noise: float | None = None,
    ) -> Estimate:
        """The mean of one number per reading, or the ratio of two means."""
        from gradiometer.measurement.uncertainty import means, now, skewed

        settings: dict[str, Any] = {"level": level, "unit": unit}
        if len(samples) > 1:
            settings["nonnegative"] = nonnegative
        if not self.newest:
            over_window: Any = means.ratio_of_means if len(samples) > 1 else means.mean
            estimate: Estimate = over_window(*samples, **settings, spacing=self.spacing)
        else:
            settings |= {"steps": self.steps, "learning_rate": self.learning_rate}
            settings["prior"] = prior or now.MOMENT_PRIOR
            if len(samples) > 1:
                estimate = now.ratio_now(*samples, **settings, rare_noise=rare_noise)
            else:
                estimate = now.mean_now(*samples, **settings)
        if fourth_powers:
            estimate = skewed.fourth_powers(estimate, *samples, newest=self.newest)
        if not self.newest:
            return estimate
        change = now.trend(*samples, steps=self.steps, now=estimate, level=level)
        step = int(self.steps[-1]) if len(self) else -1
        # The distance of a single reading from the next one is not in the readings.
        distance = self.spacing if len(self) == 1 else 1
        return replace(
            estimate,
            needed=estimate.needed and math.ceil(estimate.needed * distance),
            step=step if len(self) else None,
            earlier=(change.step, change.early.value) if change and change.direction else None,
            reached=self.reached if self.reached > step >= 0 else None,
        )

    def setting(self, values: Shaped[np.ndarray, " steps"], last: int = 1) -> float:
        """A setting, such as η or B: its median over the window, or over the `last` readings before
        the newest."""
        return float(np.median(values[-last:] if self.newest else values))

    @property
    def usual_batch_size(self) -> float:
        """B, whatever the size of an epoch's last batch."""
        return self.setting(self.batch_size, last=9)

    @property
    def spacing(self) -> float:
        """Training steps from one reading to the next, on average. A single reading counts for all
        steps so far."""
        if len(self) > 1:
            return float(self.steps[-1] - self.steps[0]) / (len(self) - 1)
        last = int(self.steps[-1]) if len(self) else 0
        return float(max(last + 1, self.reached))
