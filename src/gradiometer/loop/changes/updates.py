"""Alternatives that change the update: momentum, weight decay, clipping, skipped batches."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradiometer.arguments import check_number, check_whole
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument
from gradiometer.loop.changes.alternative import Alternative, check_in, times

if TYPE_CHECKING:  # a run is read on a machine without torch
    from gradiometer.loop.loop import Loop


@dataclass(frozen=True)
class Momentum(Alternative):
    """Another momentum: μ of SGD and RMSprop, β₁ of Adam and its kind. The momentum gathered so far
    stays.

    Args:
        value: The momentum, from 0 up to 1.
    """

    value: Amount

    def __post_init__(self) -> None:
        check_in("value", self.value, 0, 1)

    @property
    def name(self) -> str:
        """Such as "momentum 0.9"."""
        return f"momentum {self.value:g}"

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

    value: Amount

    def __post_init__(self) -> None:
        check_number("value", self.value)

    @property
    def name(self) -> str:
        """Such as "weight decay 0.01"."""
        return f"weight decay {self.value:g}"

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

    norm: Amount

    def __post_init__(self) -> None:
        check_number("norm", self.norm, positive=True)

    @property
    def name(self) -> str:
        """Such as "clip 1"."""
        return f"clip {self.norm:g}"

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

    share: Amount

    def __post_init__(self) -> None:
        check_number("share", self.share, positive=True)
        check_in("share", self.share, 0, 1)

    @property
    def name(self) -> str:
        """Such as "shorter 0.75x"."""
        return f"shorter {times(self.share)}"

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

    start: int
    stop: int

    def __post_init__(self) -> None:
        check_whole("start", self.start, 0)
        check_whole("stop", self.stop, self.start + 1)

    @property
    def name(self) -> str:
        """Such as "skip 1200:1205"."""
        return f"skip {self.start}:{self.stop}"

    def __call__(self, loop: "Loop") -> None:
        """Leave them out of the stream."""
        if self.start < loop.index:
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
