"""The words and numbers a measurement leaves behind: readings, estimates with intervals, findings.

Nothing here knows a model or a tensor library: a run is read on another machine, a year later.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gradiometer.errors import BadArgument


class Issue(StrEnum):
    """The four issues of SGD: each gauge belongs to one."""

    ESTIMATION = "estimation"
    DRIFT = "drift"
    CONVERGENCE = "convergence"
    EXPLORATION = "exploration"


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


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. There is no way to make one without.

    Made by `Estimate.interval`, `Estimate.exact` or `Estimate.bound`.

    Attributes:
        value: The point estimate; NaN where there is none to give.
        low, high: Ends of the interval; an end may be infinite, and that is an answer.
        level: Confidence level of the interval, between 0 and 1; 1 for an exact value or a proven bound.
        method: How the interval was made, in the field's words.
        samples: Number of readings it rests on.
        unit: Unit of value, low and high; empty for a pure number.
        needed: Where the data cannot tell yet, about how many more training steps would; None where
            they can, and where no number can be given.
    """

    value: float
    low: float
    high: float
    level: float
    method: str
    samples: int
    unit: str = ""
    needed: int | None = None

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise BadArgument(f"`low` must not exceed `high`, got [{self.low}, {self.high}].")
        if not 0 < self.level <= 1:
            raise BadArgument(f"`level` must lie between 0 and 1, got {self.level}.")

    @classmethod
    def interval(
        cls,
        value: float,
        low: float,
        high: float,
        *,
        level: float,
        method: str,
        samples: int,
        unit: str = "",
        needed: int | None = None,
    ) -> "Estimate":
        """A point estimate within a confidence interval."""
        if not level < 1:
            raise BadArgument(f"`level` of a confidence interval must be below 1, got {level}.")
        return cls(value, low, high, level, method, samples, unit, needed)

    @classmethod
    def exact(cls, value: float, *, unit: str = "") -> "Estimate":
        """A number known exactly: a setting, a count, a closed form."""
        value = float(value)  # of numpy's numbers the comparisons are numpy's too
        return cls(value, value, value, 1.0, "exact", 0, unit)

    @classmethod
    def bound(cls, value: float, *, low: float, high: float, method: str, samples: int, unit: str = "") -> "Estimate":
        """A number between proven bounds: they hold always, not at a level."""
        return cls(value, low, high, 1.0, method, samples, unit)

    @classmethod
    def unknown(
        cls, *, level: float, method: str, samples: int, unit: str = "", needed: int | None = None
    ) -> "Estimate":
        """Nothing can be said yet: the interval is the whole line."""
        return cls.interval(
            math.nan,
            -math.inf,
            math.inf,
            level=level,
            method=method,
            samples=samples,
            unit=unit,
            needed=needed,
        )

    @property
    def tells(self) -> bool:
        """Whether both ends are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as they are written in a run and printed by `--json`."""
        return asdict(self)

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.method == "exact":
            return f"{significant(self.value)}{unit}"
        if not math.isfinite(self.high) and math.isfinite(self.low):
            return f"at least {significant(self.low)}{unit} ({self.level:.0%})"
        if not self.tells:
            return "cannot tell yet"
        return f"{significant(self.value)} [{significant(self.low)}, {significant(self.high)}]{unit}"


Estimates = Mapping[str, Estimate]
"""Estimates by name. One of a single layer is named `quantity/layer`."""


class State(StrEnum):
    """What a finding asks of its reader, from least to most."""

    OK = "ok"
    CANNOT_TELL = "cannot tell"
    LOOK = "look"
    ACT = "act"

    @property
    def symbol(self) -> str:
        """A sign for the state, so that nothing is said by colour alone."""
        return {"ok": "✓", "cannot tell": "?", "look": "◆", "act": "▲"}[self.value]


@dataclass(frozen=True)
class Finding:
    """What a gauge's estimates say to a person.

    Args:
        gauge: Name of the gauge.
        issue: Which of the four issues it is about.
        state: What it asks of the reader.
        seen: What was seen: one sentence, with its numbers.
        means: What it would mean.
        advice: What to try, as a command or a line of code; empty where there is nothing to do.
        caveat: What could make it wrong.
    """

    gauge: str
    issue: Issue
    state: State
    seen: str
    means: str
    advice: str = ""
    caveat: str = ""
    estimates: Sequence[str] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as they are written in a run and printed by `--json`."""
        return asdict(self)

    def __str__(self) -> str:
        return " ".join(part for part in (self.seen, self.means, self.advice, self.caveat) if part)


def significant(value: float, digits: int = 3) -> str:
    """A number in few digits, the way a person writes it: 450, 0.0123, 1,200, 3.4e-07, inf.

    Args:
        value: Any float.
        digits: Significant digits, at least 1.
    """
    if math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -4 or magnitude > 7:
        text = f"{value:.{digits - 1}e}"
    else:
        decimals = max(digits - 1 - magnitude, 0)
        rounded = round(value, digits - 1 - magnitude)
        text = f"{rounded:,.{decimals}f}"
    return text.replace("-", "−", 1) if value < 0 else text


def counted(number: int, noun: str) -> str:
    """A number of things: 1 step, 4,500 steps."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
