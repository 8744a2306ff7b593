"""`Alternative`: a named change to how training continues."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument

if TYPE_CHECKING:  # a run is read on a machine without torch
    from gradiometer.loop.loop import Loop


class Alternative(ABC):
    """A named change to how training continues. A frozen dataclass; `a & b` makes both changes.

    It is called with a `Loop`, a copy of the training, which it changes.

    >>> from gradiometer.loop import Momentum, Rate
    >>> (Rate(2) & Momentum(0.95)).name
    'rate 2x & momentum 0.95'
    """

    # Every class by its name, to read alternatives from JSON.
    kinds: ClassVar[dict[str, type["Alternative"]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Alternative.kinds[cls.__name__] = cls

    @property
    @abstractmethod
    def name(self) -> str:
        """The alternative in a few words, such as "rate 2x"."""

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
        settings = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        stored = {
            name: value.to_dict() if hasattr(value, "to_dict") else value
            for name, value in settings.items()
        }
        return {"kind": type(self).__name__, **stored}


@dataclass(frozen=True)
class GoOn(Alternative):
    """No change: the baseline that all others are compared with."""

    @property
    def name(self) -> str:
        """Always "go on"."""
        return "go on"

    def __call__(self, loop: "Loop") -> None:
        """Change nothing."""


@dataclass(frozen=True)
class Together(Alternative):
    """Two changes, one after the other; made by `a & b`.

    Args:
        first: The first change.
        second: The second one.
    """

    first: Alternative
    second: Alternative

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.first.name} & {self.second.name}"

    def __call__(self, loop: "Loop") -> None:
        """Make both changes."""
        self.first(loop)
        self.second(loop)


def times(factor: Amount) -> str:
    """A factor as text, such as 2x or 0.333x."""
    return f"{factor:.3g}x"


def check_in(name: str, value: Any, least: Amount, below: Amount) -> None:
    """Raise unless `value` is a number, at least `least` and less than `below`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and least <= value < below):
        raise BadArgument(
            f"`{name}` must be at least {least:g} and less than {below:g}, got {value!r}."
        )
