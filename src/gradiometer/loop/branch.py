"""`Branch`: one alternative, trained from one state on one order of the data; its result, and the
file form of both."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from gradiometer.loop.changes.alternative import Alternative
from gradiometer.loop.readout import Readout, pack_values, unpack_values
from gradiometer.storage.journal import plain, restored

# A number in a file.
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]

# How the rate ends. linear: it falls to zero over the whole horizon. half, third: over its last
# half or third. none: it does not.
Tail = Literal["linear", "half", "third", "none"]

# Share of the horizon before the rate starts to fall.
HELD: dict[Tail, float] = {"linear": 0.0, "half": 0.5, "third": 2 / 3, "none": 1.0}


def tail_factor(
    tail: Tail, start: int, stop: int, horizon: int, hold: float | None = None
) -> float:
    """The factor of the tail on the rate of an update, in the middle of its examples.

    The middle makes the sum over a branch the same for all batch sizes.

    Args:
        tail: How the rate ends.
        start: Examples before the update.
        stop: Examples after it.
        horizon: Examples of the whole branch.
        hold: Share of the horizon before the rate falls to zero, in place of that of `tail`; see
            `Hold`.

    >>> from gradiometer.loop.branch import tail_factor
    >>> [tail_factor("linear", start, start + 1, 4) for start in range(4)]
    [0.875, 0.625, 0.375, 0.125]
    """
    held = HELD[tail] if hold is None else hold
    if held >= 1:
        return 1.0
    left = 1 - (start + stop) / (2 * horizon)
    return max(min(left / (1 - held), 1.0), 0.0)


@dataclass(frozen=True)
class Branch:
    """One alternative, trained from one state on one order of the data to one horizon.

    Args:
        alternative: How training continues.
        replicate: Number of the data order and of the random draws; the same number is common to
            all alternatives.
        horizon: Length in examples.
        tail: How the rate ends.

    >>> from gradiometer.loop import Rate
    >>> from gradiometer.loop.branch import Branch
    >>> Branch(Rate(2), replicate=0, horizon=6_400).name
    'rate 2x, replicate 0, 6,400 examples, tail linear'
    """

    alternative: Alternative
    replicate: int
    horizon: int
    tail: Tail = "linear"

    @property
    def name(self) -> str:
        """The branch in a few words, different for every branch of a fork."""
        return (
            f"{self.alternative.name}, replicate {self.replicate}, {self.horizon:,} examples, tail "
            f"{self.tail}"
        )


@dataclass(frozen=True, eq=False)
class BranchResult:
    """What came of a branch.

    Args:
        alternative: Name of the alternative.
        replicate: Number of the data order.
        horizon: Length in examples, as it was asked for.
        updates: Number of updates that were made.
        examples: How far the data went on, skipped examples included.
        seconds: Time of the updates, without the readouts.
        curve: Examples so far and the mean loss of the updates since the point before, at most 48
            points.
        readouts: The readouts at the end, by name; empty if the branch diverged.
        diverged: Why it did; None if it did not.
        highest: The highest loss of one update; NaN if it is not known.
    """

    alternative: str
    replicate: Count
    horizon: Count
    updates: Count
    examples: Count
    # a file of another program may have any number
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    curve: tuple[tuple[Count, float], ...]
    readouts: Mapping[str, Readout] = field(default_factory=dict)
    diverged: str | None = None
    highest: float = math.nan

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON types."""
        stored: dict[str, Any] = plain(msgspec.to_builtins(self, enc_hook=pack_values))
        return stored

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "BranchResult":
        """The result from the result of `to_dict`.

        Raises:
            ValidationError: A field is missing, or has another type.
        """
        return msgspec.convert(restored(stored), cls, dec_hook=unpack_values)
