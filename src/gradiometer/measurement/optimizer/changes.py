"""When the settings of an optimizer are read, and which of them are written."""

import math
from collections.abc import Callable
from typing import Any

from gradiometer.measurement.optimizer.groups import Group, written


class Changes:
    """Writes the settings of an optimizer when they have changed. A step between two looks costs
    one comparison.

    Args:
        append: Takes one line of the journal.

    >>> lines = []
    >>> changes = Changes(lines.append)
    >>> for step in range(300):
    ...     if step >= changes.next_look:
    ...         changes.look(step, (Group("SGD", "sgd", 0.1 if step < 200 else 0.01),))
    >>> [(line["step"], line["learning_rate"]) for line in lines]
    [(0, 0.1), (201, 0.01)]
    """

    def __init__(self, append: Callable[[dict[str, Any]], None]) -> None:
        self._append = append
        self._last: tuple[Group, ...] = ()
        # The next step at which the settings should be read.
        self.next_look = 0

    def look(self, step: int, groups: tuple[Group, ...]) -> None:
        """Note the settings at this step, and choose the next step to read them."""
        self.pass_over(step)
        if (
            groups
            and groups != self._last
            and all(math.isfinite(group.learning_rate) for group in groups)
        ):
            self._last = groups
            self._append({"kind": "hyperparameters", "step": int(step), **written(groups)})

    def pass_over(self, step: int) -> None:
        """Choose the next step to read them, if they are known to be unchanged at this one."""
        # At least once in 64 steps of the first 4,096, and then once in a 64th of the steps so far.
        self.next_look = step + max(1, step >> 6)

    def restart(self, step: int) -> None:
        """Read and write the settings again at this step, at which a run is continued."""
        self._last = ()
        self.next_look = step
