"""The settings of the optimizers of a watched loop, read as training goes on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from gradiometer.measurement.objective import Objective
from gradiometer.measurement.optimizer.groups import Changes, Group, groups_of
from gradiometer.measurement.optimizer.several import bare_optimizer

RAW = ("lr", "momentum", "betas", "nesterov", "weight_decay")


class Settings:
    """Reads the settings of the optimizers, and records them when they have changed.

    Args:
        optimizers: The optimizers of the loop. One that trains in place of another replaces it in
            this list.
        objective: The model that they train. Groups without any of its parameters are left out.
        warn: Takes a warning.
        next_step: Returns the number of steps so far.
        planned: Returns the number of steps of the whole training, if it is known.
    """

    def __init__(
        self,
        optimizers: list[torch.optim.Optimizer],
        objective: Objective,
        warn: Callable[[str], None],
        next_step: Callable[[], int],
        planned: Callable[[], int | None],
    ) -> None:
        self._warn = warn
        self._next_step = next_step
        self._planned = planned
        self._optimizers = optimizers
        self._own = frozenset(map(id, objective.parameters))
        self._changes: Changes | None = None
        self._hook: Any = None
        self._sought: tuple[Callable[[torch.optim.Optimizer], None], Callable[[], None]] | None = (
            None
        )
        self._raw: tuple[Any, ...] = ()
        self._kept: list[
            tuple[torch.optim.Optimizer, list[tuple[dict[str, Any], list[tuple[str, Any]]]]]
        ] = []
        self.next_look = 0
        """The next step at which `stepped` has something to do."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """The settings of all parameter groups now."""
        return groups_of(self._optimizers, self._own)

    def attach(self, changes: Changes) -> None:
        """Record changes from now on."""
        self._changes = changes
        self._raw = ()
        self._kept = []
        self.next_look = 0

    def search(
        self, follow: Callable[[torch.optim.Optimizer], None], found: Callable[[], None]
    ) -> None:
        """Look at every optimizer that makes an update, until one of the known ones or another of
        this model does.

        Args:
            follow: Called with the other one, which has replaced those of the same parameters by
                then.
            found: Called after that.
        """
        self._sought = follow, found
        if self._hook is None:
            self._hook = register_optimizer_step_post_hook(self._was_updated)

    def end(self) -> None:
        """End a search."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._sought = None

    def _was_updated(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        optimizer, sought = bare_optimizer(optimizer), self._sought
        known = any(optimizer is one for one in self._optimizers)
        if sought is None or not (known or groups_of([optimizer], self._own)):
            return
        self._sought, self.next_look = None, 0  # the hook itself is removed at the next step
        if known:
            return
        # such as the base optimizer of SAM, which makes its updates
        is_inside = any(
            optimizer is value for one in self._optimizers for value in vars(one).values()
        )
        taken = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self._optimizers[:] = [
            optimizer,
            *(one for one in self._optimizers if not groups_of([one], taken)),
        ]
        follow, found = sought
        follow(optimizer)
        found()
        if not is_inside:
            self._warn(
                f"`optimizer` no longer trains the model: {type(optimizer).__name__} does, which "
                "is followed now"
            )

    def stepped(self, step: int) -> None:
        """Read the settings of this step if it is time to. Call it before the update."""
        if step < self.next_look:
            return
        if self._hook is not None and self._sought is None:
            self.end()
        if self._changes is None:
            return
        if step >= self._changes.next_look:
            if self._are_the_same() or (raw := self._raw_now()) == self._raw:
                self._changes.pass_over(step)
            else:
                self._raw = raw
                self._kept = [
                    (one, [(group, _kept(group)) for group in one.param_groups])
                    for one in self._optimizers
                ]
                self._changes.look(step, self.groups)
        self.next_look = self._changes.next_look

    def _are_the_same(self) -> bool:
        """True if all settings are the same objects as when they were read, which is
        quick to see."""
        if len(self._kept) != len(self._optimizers):
            return False
        for optimizer, (known, groups) in zip(self._optimizers, self._kept, strict=True):
            if optimizer is not known or len(optimizer.param_groups) != len(groups):
                return False
            for group, (same, values) in zip(optimizer.param_groups, groups, strict=True):
                if group is not same:
                    return False
                for name, value in values:
                    if group.get(name, value) is not value or isinstance(value, Tensor):
                        return False
        return True

    def _raw_now(self) -> tuple[Any, ...]:
        """The optimizers and their settings as they are in `param_groups`: quick to compare.
        Tensors are copied."""
        raw: list[Any] = []
        for optimizer in self._optimizers:
            raw.append(type(optimizer))
            for group in optimizer.param_groups:
                raw += [
                    value.item() if isinstance(value, Tensor) else value
                    for value in map(group.get, RAW)
                ]
        return tuple(raw)

    def note(self) -> None:
        """Record the settings now, which are those of the next step, if there is one."""
        step, planned = self._next_step(), self._planned()
        if self._changes is not None and (planned is None or step < planned):
            self._changes.look(step, self.groups)


def _kept(group: dict[str, Any]) -> list[tuple[str, Any]]:
    """The settings of a group, by name."""
    return [(name, group[name]) for name in RAW if name in group]
