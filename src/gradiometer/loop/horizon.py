"""The length of a branch, written as "500 updates", "2 epochs", "64_000 examples", "10
s" or "25%"."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gradiometer.errors import BadArgument

# Largest number of parts that a batch is cut into.
FINEST = 64

# Written in place of a length: to the end of the training.
END = "end"

UNITS = {
    "example": "examples",
    "examples": "examples",
    "update": "updates",
    "updates": "updates",
    "step": "updates",
    "steps": "updates",
    "epoch": "epochs",
    "epochs": "epochs",
    "s": "seconds",
    "seconds": "seconds",
    "min": "minutes",
    "minutes": "minutes",
    "%": "percent",
}
FORMS = "'500 updates', '2 epochs', '64_000 examples', '10 s' or '25%'"


@dataclass(frozen=True)
class Horizon:
    """A length of training.

    Args:
        amount: How much.
        unit: One of "examples", "updates", "epochs", "seconds", "minutes", "percent" (of what is
            left).

    >>> from gradiometer.loop.horizon import Horizon
    >>> Horizon.parse("2 epochs").examples(batch=10, epoch=1_000)
    2000
    """

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: Any, name: str = "horizon") -> "Horizon":
        """The length in a text.

        Args:
            text: Such as "500 updates".
            name: Name of the argument, for messages.

        Raises:
            BadArgument: It is none.
        """
        written = text if isinstance(text, str) else ""
        found = re.fullmatch(r"\s*([\d_,]{0,99}\.?\d{1,99}(?:e\d{1,9})?)\s*([a-z]+|%)\s*", written)
        if found is None or found[2] not in UNITS:
            raise BadArgument(
                f"`{name}` must be a length with its unit, such as {FORMS}, got {text!r}."
            )
        amount = float(re.sub("[_,]", "", found[1]))
        if not 0 < amount < math.inf:
            raise BadArgument(f"`{name}` must be above zero and finite, got {text!r}.")
        return cls(amount, UNITS[found[2]])

    def examples(
        self,
        *,
        batch: int,
        epoch: int | None = None,
        left: int | None = None,
        seconds_per_update: Callable[[], float] | None = None,
        name: str = "horizon",
    ) -> int:
        """The length in examples: whole updates of the original training, unless it is in epochs or
        all that is left.

        Args:
            batch: Examples in one update of the original training.
            epoch: Examples in an epoch.
            left: Examples left in the training.
            seconds_per_update: Measures the time of an update; called for a length in seconds.
            name: Name of the argument, for messages.

        Raises:
            BadArgument: What the unit needs is not known.
        """
        match self.unit:
            case "examples":
                amount = self.amount
            case "updates":
                amount = self.amount * batch
            case "epochs":
                if epoch is None:
                    raise BadArgument(
                        f"`{name}` is in epochs, and the size of one is not known: give it in "
                        "updates."
                    )
                amount = self.amount * epoch
            case "percent":
                if left is None:
                    raise BadArgument(
                        f"`{name}` is a share of what is left of the training: give `left`, such "
                        "as left='4000 updates'."
                    )
                amount = self.amount / 100 * left
            case _:
                if seconds_per_update is None:
                    raise BadArgument(f"`{name}` cannot be in seconds here: give it in updates.")
                seconds = self.amount * (60 if self.unit == "minutes" else 1)
                amount = seconds / seconds_per_update() * batch
        if not amount < 2**63:
            raise BadArgument(f"`{name}` is {amount:.3g} examples: give a length below 2^63.")
        if self.unit == "epochs":
            return max(round(amount), batch)
        whole = max(round(amount / batch), 1) * batch  # a last batch of a few examples helps nobody
        # Rounding must not ask for more than is left: the last batch of an epoch may be smaller.
        return (
            min(whole, left)
            if self.unit == "percent" and left is not None and amount <= left
            else whole
        )
