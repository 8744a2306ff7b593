"""The settings of the optimizers of a watched loop, read as training goes on."""

from collections.abc import Sequence

import torch

from gradiometer.measurement.objective import Objective
from gradiometer.measurement.optimizer.changes import Changes
from gradiometer.measurement.optimizer.groups import Group, groups_of


class Settings:
    """Reads the settings of the optimizers, and records them when they have changed.

    Args:
        optimizers: The optimizers of the loop.
        objective: The model that they train. Groups without any of its parameters are left out.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], objective: Objective) -> None:
        self._optimizers, self._own = optimizers, frozenset(map(id, objective.parameters))
        self._changes: Changes | None = None
        self._step = 0

    @property
    def groups(self) -> tuple[Group, ...]:
        """The settings of all parameter groups now."""
        return groups_of(self._optimizers, self._own)

    def attach(self, changes: Changes, step: int) -> None:
        """Record changes from this step on."""
        self._changes, self._step = changes, step

    def stepped(self, step: int) -> None:
        """Read the settings of this step if it is time to. Call it at the end of every step, before the update."""
        self._step = step + 1
        if self._changes is not None and step >= self._changes.next_look:
            self._changes.look(step, self.groups)

    def note(self) -> None:
        """Record the settings now, which are those of the next step."""
        if self._changes is not None:
            self._changes.look(self._step, self.groups)
