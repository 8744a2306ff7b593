"""`Alternative`: a named change to how training continues; and the changes of the rate, the batch
and the update."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from gradiometer.arguments import check_number, check_whole
from gradiometer.convergence.formulas.number import Amount
from gradiometer.convergence.plateau.noise_floor import CUT
from gradiometer.errors import BadArgument
from gradiometer.loop.horizon import FINEST

if TYPE_CHECKING:  # a run is read on a machine without torch
    import gradiometer.convergence.schedules.schedule
    from gradiometer.loop.loop import Loop


class Alternative(ABC):
    """A named change to how training continues. A frozen dataclass; `a & b` makes both changes.

    It is called with a `Loop`, a copy of the training, which it changes.

    >>> from gradiometer.loop import Momentum, Rate
    >>> (Rate(2) & Momentum(0.95)).name
    'rate 2x & momentum 0.95'
    """

    # The name, with the settings in braces.
    form: ClassVar[str]

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]
            if "check" in each.metadata:
                each.metadata["check"](each.name, getattr(self, each.name))

    @property
    def name(self) -> str:
        """The alternative in a few words, such as "rate 2x"."""
        return self.form.format(**vars(self))

    @abstractmethod
    def __call__(self, loop: "Loop") -> None:
        """Change how training continues, before its first update.

        Raises:
            BadArgument: The change names something that this training does not have.
        """

    def __and__(self, other: "Alternative") -> "Alternative":
        if not isinstance(other, Alternative):
            return NotImplemented
        return Together(self, other)

    def __str__(self) -> str:
        return self.name

    def to_dict(self) -> dict[str, Any]:
        """The name of its class and its settings, as JSON types."""
        stored = {
            name: value.to_dict() if hasattr(value, "to_dict") else value
            for name, value in vars(self).items()
        }
        return {"kind": type(self).__name__, **stored}


@dataclass(frozen=True)
class GoOn(Alternative):
    """No change: the baseline that all others are compared with."""

    form: ClassVar[str] = "go on"

    def __call__(self, loop: "Loop") -> None:
        """Change nothing."""


@dataclass(frozen=True)
class Together(Alternative):
    """Two changes, one after the other; made by `a & b`.

    Args:
        first: The first change.
        second: The second one.
    """

    form: ClassVar[str] = "{first} & {second}"

    first: Alternative
    second: Alternative

    def __call__(self, loop: "Loop") -> None:
        """Make both changes."""
        self.first(loop)
        self.second(loop)


def times(factor: Amount) -> str:
    """A factor as text, such as 2x or 0.333x."""
    return f"{factor:.3g}x"


def check_below_one(name: str, value: Any) -> None:
    """Raise unless `value` is a number, at least 0 and less than 1."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 <= value < 1):
        raise BadArgument(f"`{name}` must be at least 0 and less than 1, got {value!r}.")


def check_share(name: str, value: Any) -> None:
    """Raise unless `value` is a positive number less than 1."""
    check_number(name, value, positive=True)
    check_below_one(name, value)


# What a setting of an alternative must be.
POSITIVE = {"check": partial(check_number, positive=True)}
SHARE = {"check": check_share}


@dataclass(frozen=True)
class Rate(Alternative):
    """The learning rate times a factor, in every parameter group. The schedule keeps its shape.

    Args:
        factor: The factor.

    >>> from gradiometer.loop import Rate
    >>> Rate(0.5).name
    'rate 0.5x'
    """

    form: ClassVar[str] = "rate {factor:.3g}x"

    factor: Amount = field(metadata=POSITIVE)

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

    factor: Amount = field(metadata=POSITIVE)
    rate: Amount | Literal["sqrt", "linear"] | None = "sqrt"

    def __post_init__(self) -> None:
        super().__post_init__()
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

    form: ClassVar[str] = "follow {schedule!r}"

    schedule: "gradiometer.convergence.schedules.schedule.Schedule"

    def __post_init__(self) -> None:
        from gradiometer.convergence.schedules.schedule import Schedule  # noqa: PLC0415 (no other needs it)

        if not isinstance(self.schedule, Schedule):
            raise BadArgument(f"`schedule` must be a Schedule, got {type(self.schedule).__name__}.")

    def __call__(self, loop: "Loop") -> None:
        """Replace the schedule of training."""
        loop.follow(self.schedule)


@dataclass(frozen=True)
class CoolNow(Alternative):
    """Cut the rate now. With the tail of the fork it then falls to zero.

    Args:
        factor: Factor of the cut, below 1.
    """

    factor: Amount = field(default=CUT, metadata=SHARE)

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

    form: ClassVar[str] = "restart hot {factor:.3g}x"

    factor: Amount = field(metadata=POSITIVE)

    def __call__(self, loop: "Loop") -> None:
        """Multiply the rate and empty the optimizer's state."""
        loop.factor *= self.factor
        loop.forget()


@dataclass(frozen=True)
class Momentum(Alternative):
    """Another momentum: μ of SGD and RMSprop, β₁ of Adam and its kind. The momentum gathered so far
    stays.

    Args:
        value: The momentum, from 0 up to 1.
    """

    form: ClassVar[str] = "momentum {value:g}"

    value: Amount = field(metadata={"check": check_below_one})

    def __call__(self, loop: "Loop") -> None:
        """Set it in every parameter group, whatever a scheduler does with it."""
        groups = loop.optimizer.param_groups
        if all("momentum" in group for group in groups):
            loop.fix("momentum", [self.value] * len(groups))
        elif all(isinstance(group.get("betas"), tuple | list) for group in groups):
            loop.fix("betas", [(self.value, *group["betas"][1:]) for group in groups])
        else:
            _refuse("momentum", loop)


@dataclass(frozen=True)
class WeightDecay(Alternative):
    """Another weight decay. Parameter groups without any keep none, unless all groups have none.

    Args:
        value: The weight decay, as the optimizer defines it.
    """

    form: ClassVar[str] = "weight decay {value:g}"

    value: Amount = field(metadata={"check": check_number})

    def __call__(self, loop: "Loop") -> None:
        """Set it in the parameter groups."""
        groups = loop.optimizer.param_groups
        if not all("weight_decay" in group for group in groups):
            _refuse("weight decay", loop)
        decays = [float(group["weight_decay"]) for group in groups]
        some = any(decays)
        loop.fix("weight_decay", [self.value if decay or not some else decay for decay in decays])


@dataclass(frozen=True)
class Clip(Alternative):
    """Clip the gradient: if the norm of all gradients together is above a value, they are scaled
    down to it.

    Args:
        norm: The largest norm. Clipping that training does itself is done as well.
    """

    form: ClassVar[str] = "clip {norm:g}"

    norm: Amount = field(metadata=POSITIVE)

    def __call__(self, loop: "Loop") -> None:
        """Clip before every update."""
        loop.clip = min(self.norm, math.inf if loop.clip is None else loop.clip)


@dataclass(frozen=True)
class Shorter(Alternative):
    """The same training on a share of the examples; the tail of the rate ends there.

    It is what a larger batch is compared with: one that needs 1.3 times the examples to the same
    loss should end below a training on 1/1.3 of the examples.

    Args:
        share: The share of the length of the branch, below 1.

    >>> from gradiometer.loop import Shorter
    >>> Shorter(0.75).name
    'shorter 0.75x'
    """

    form: ClassVar[str] = "shorter {share:.3g}x"

    share: Amount = field(metadata=SHARE)

    def __call__(self, loop: "Loop") -> None:
        """Shorten the branch."""
        loop.share *= self.share


@dataclass(frozen=True)
class Skip(Alternative):
    """Leave out the batches of some updates. Schedule and data go on as if they had been trained
    on.

    Args:
        start: Index of the first update that is left out, counted as training counts them.
        stop: Index after the last one.
    """

    form: ClassVar[str] = "skip {start}:{stop}"

    start: int
    stop: int

    def __post_init__(self) -> None:
        check_whole("start", self.start, 0)
        check_whole("stop", self.stop, self.start + 1)

    def __call__(self, loop: "Loop") -> None:
        """Leave them out of the stream."""
        if not self.start >= loop.index:
            raise BadArgument(
                f"`start` {self.start:,} is before the fork: its first update has index "
                f"{loop.index:,}."
            )
        loop.stream.skip(self.start - loop.index, self.stop - loop.index)


def _refuse(what: str, loop: "Loop") -> None:
    keys = ", ".join(
        key for key in loop.optimizer.param_groups[0] if key not in ("params", "initial_lr")
    )
    raise BadArgument(
        f"`alternatives` changes the {what}, but `optimizer` {type(loop.optimizer).__name__} has "
        f"none: its settings are {keys}."
    )
