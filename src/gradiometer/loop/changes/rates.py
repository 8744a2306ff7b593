"""Alternatives that change the rate: a factor, another schedule, a cut, a restart; and another
batch with its rate."""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from gradiometer.arguments import check_number
from gradiometer.convergence.formulas.number import Amount
from gradiometer.convergence.plateau.noise_floor import CUT
from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.errors import BadArgument
from gradiometer.loop.changes.alternative import Alternative, check_in, times
from gradiometer.loop.horizon import FINEST

if TYPE_CHECKING:  # a run is read on a machine without torch
    from gradiometer.loop.loop import Loop


@dataclass(frozen=True)
class Rate(Alternative):
    """The learning rate times a factor, in every parameter group. The schedule keeps its shape.

    Args:
        factor: The factor.

    >>> from gradiometer.loop import Rate
    >>> Rate(0.5).name
    'rate 0.5x'
    """

    factor: Amount

    def __post_init__(self) -> None:
        check_number("factor", self.factor, positive=True)

    @property
    def name(self) -> str:
        """Such as "rate 2x"."""
        return f"rate {times(self.factor)}"

    def __call__(self, loop: "Loop") -> None:
        """Multiply the rate."""
        loop.factor *= self.factor


@dataclass(frozen=True)
class BatchSize(Alternative):
    """The batch times a factor, with the rate that goes with it. A schedule continues in units of
    the original batch.

    Args:
        factor: The factor, rounded to a fraction p/q with q ≤ 64. A batch of 2x is two consecutive
            batches.
        rate: Factor of the rate: a number, "sqrt" for √factor, "linear" for the factor itself, None
            for no change.

    >>> from gradiometer.loop import BatchSize
    >>> BatchSize(2).name, BatchSize(4, rate="linear").name, BatchSize(2, rate=None).name
    ('batch 2x, rate 1.41x', 'batch 4x, rate 4x', 'batch 2x')
    """

    factor: Amount
    rate: Amount | Literal["sqrt", "linear"] | None = "sqrt"

    def __post_init__(self) -> None:
        check_number("factor", self.factor, positive=True)
        if not Fraction(self.factor).limit_denominator(FINEST):
            raise BadArgument(f"`factor` must be at least 1/{FINEST}, got {self.factor}.")
        if isinstance(self.rate, str) and self.rate not in ("sqrt", "linear"):
            raise BadArgument(
                f"`rate` must be a factor, 'sqrt', 'linear' or None, got {self.rate!r}."
            )
        if self.rate is not None and not isinstance(self.rate, str):
            check_number("rate", self.rate, positive=True)

    @property
    def rate_factor(self) -> float:
        """Factor of the rate."""
        if self.rate == "sqrt":
            return math.sqrt(self.factor)
        rate = self.factor if self.rate == "linear" else self.rate
        return 1.0 if rate is None else float(rate)

    @property
    def name(self) -> str:
        """Such as "batch 2x, rate 1.41x"."""
        rate = "" if self.rate is None else f", rate {times(self.rate_factor)}"
        return f"batch {times(self.factor)}{rate}"

    def __call__(self, loop: "Loop") -> None:
        """Multiply the batch and the rate."""
        loop.batch_factor *= Fraction(self.factor).limit_denominator(FINEST)
        loop.factor *= self.rate_factor


@dataclass(frozen=True)
class Following(Alternative):
    """Another schedule from here on: its step counts updates of the original batch from the fork.

    The group with the largest rate follows it; the others keep their ratio to it.

    Args:
        schedule: The learning rate at every step.

    >>> from gradiometer.convergence.schedules import Cosine
    >>> from gradiometer.loop import Following
    >>> Following(Cosine(0.1, steps=500)).name
    'follow Cosine(initial=0.1, steps=500, final=0.0, power=1.0)'
    """

    schedule: Schedule

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise BadArgument(f"`schedule` must be a Schedule, got {type(self.schedule).__name__}.")

    @property
    def name(self) -> str:
        """Such as "follow Constant(value=0.1)"."""
        return f"follow {self.schedule!r}"

    def __call__(self, loop: "Loop") -> None:
        """Replace the schedule of training."""
        loop.follow(self.schedule)


@dataclass(frozen=True)
class CoolNow(Alternative):
    """Cut the rate now. With the tail of the fork it then falls to zero.

    Args:
        factor: Factor of the cut, below 1.
    """

    factor: Amount = CUT

    def __post_init__(self) -> None:
        check_number("factor", self.factor, positive=True)
        check_in("factor", self.factor, 0, 1)

    @property
    def name(self) -> str:
        """ "cool now", and the factor if it is not 0.1."""
        return "cool now" if self.factor == CUT else f"cool now {times(self.factor)}"

    def __call__(self, loop: "Loop") -> None:
        """Multiply the rate."""
        loop.factor *= self.factor


@dataclass(frozen=True)
class Hold(Alternative):
    """Keep the rate for a share of the branch; from there it falls linearly to zero, whatever the
    tail of the fork.

    Args:
        share: The share, from 0 to 1. With 1 the rate does not fall.

    >>> from gradiometer.loop import Hold
    >>> Hold(0.8).name
    'hold 80%'
    """

    share: Amount

    def __post_init__(self) -> None:
        check_number("share", self.share)
        if not self.share <= 1:
            raise BadArgument(f"`share` must be at most 1, got {self.share}.")

    @property
    def name(self) -> str:
        """Such as "hold 80%"."""
        return f"hold {100 * self.share:.3g}%"

    def __call__(self, loop: "Loop") -> None:
        """Start the tail later."""
        loop.hold = float(self.share)


@dataclass(frozen=True)
class RestartHot(Alternative):
    """A restart: the rate times a factor, and an optimizer that forgets its momentum and its
    averages.

    Args:
        factor: Factor of the rate, usually above 1.

    Source: Loshchilov & Hutter (2017), SGDR: Stochastic Gradient Descent with Warm Restarts.
    """

    factor: Amount

    def __post_init__(self) -> None:
        check_number("factor", self.factor, positive=True)

    @property
    def name(self) -> str:
        """Such as "restart hot 10x"."""
        return f"restart hot {times(self.factor)}"

    def __call__(self, loop: "Loop") -> None:
        """Multiply the rate and empty the optimizer's state."""
        loop.factor *= self.factor
        loop.forget()
