"""Alternatives that change the update: momentum, weight decay, clipping, skipped batches."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradiometer.arguments import check_number, check_whole
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument
from gradiometer.forks.alternatives.alternative import Alternative, check_in, times

if TYPE_CHECKING:  # a run is read on a machine without torch
    from gradiometer.forks.continuation import Continuation


@dataclass(frozen=True)
class Momentum(Alternative):
    """Another momentum: μ of SGD and RMSprop, β₁ of Adam and its kind. The momentum gathered so far stays.

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

    def change(self, going: "Continuation") -> None:
        """Set it in every parameter group, whatever a scheduler does with it."""
        groups = going.optimizer.param_groups
        if all("momentum" in group for group in groups):
            going.fix("momentum", [self.value] * len(groups))
        elif all(isinstance(group.get("betas"), tuple | list) for group in groups):
            going.fix("betas", [(self.value, *group["betas"][1:]) for group in groups])
        else:
            _refuse("momentum", going)


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

    def change(self, going: "Continuation") -> None:
        """Set it in the parameter groups."""
        groups = going.optimizer.param_groups
        if not all("weight_decay" in group for group in groups):
            _refuse("weight decay", going)
        decays = [float(group["weight_decay"]) for group in groups]
        some = any(decays)
        going.fix("weight_decay", [self.value if decay or not some else decay for decay in decays])


@dataclass(frozen=True)
class Clip(Alternative):
    """Clip the gradient: if the norm of all gradients together is above a value, they are scaled down to it.

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

    def change(self, going: "Continuation") -> None:
        """Clip before every update."""
        going.clip = min(self.norm, math.inf if going.clip is None else going.clip)


@dataclass(frozen=True)
class Shorter(Alternative):
    """The same training on a share of the examples; the tail of the rate ends there.

    It is what a larger batch is compared with: one that needs 1.3 times the examples to the same loss should end below
    a training on 1/1.3 of the examples.

    Args:
        share: The share of the length of the branch, below 1.

    >>> from gradiometer.forks import Shorter
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

    def change(self, going: "Continuation") -> None:
        """Shorten the branch."""
        going.share *= self.share


@dataclass(frozen=True)
class Skip(Alternative):
    """Leave out the batches of some updates. Schedule and data go on as if they had been trained on.

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

    def change(self, going: "Continuation") -> None:
        """Leave them out of the stream."""
        if self.start < going.step:
            raise BadArgument(f"`start` {self.start:,} is before the fork: its first update has index {going.step:,}.")
        going.stream.skip(self.start - going.step, self.stop - going.step)


def _refuse(what: str, going: "Continuation") -> None:
    keys = ", ".join(key for key in going.optimizer.param_groups[0] if key not in ("params", "initial_lr"))
    raise BadArgument(
        f"`alternatives` changes the {what}, but `optimizer` {type(going.optimizer).__name__} has none: its settings "
        f"are {keys}."
    )
