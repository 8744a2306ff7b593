"""The optimizers of a watched loop: their settings, and if each step is one update of theirs."""

import operator
from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from gradiometer.integrations.watch.subject import Subject
from gradiometer.measurement.optimizer.groups import Changes, groups_of
from gradiometer.measurement.optimizer.several import bare_optimizer

NAMES = ("lr", "momentum", "betas", "nesterov", "weight_decay")


class Settings:
    """Reads the settings of the optimizers, and records them when they have changed.

    Args:
        subject: The training. An optimizer that trains in place of another replaces it in
            `subject.optimizers`.
        warn: Takes a warning.
    """

    def __init__(self, subject: Subject, warn: Callable[[str], None]) -> None:
        self._subject = subject
        self._optimizers = subject.optimizers
        self._warn = warn
        self._changes: Changes | None = None
        self._hook: Any = None
        self._sought: tuple[Callable[[torch.optim.Optimizer], None], Callable[[], None]] | None = (
            None
        )
        self._kept: list[object] = []
        self.next_look = 0
        """The next step at which `stepped` has something to do."""

    def attach(self, changes: Changes) -> None:
        """Record changes from now on."""
        self._changes = changes
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
        if sought is None or not (known or groups_of([optimizer], self._subject.own)):
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
            now = self._objects()
            # The same objects have the same values, which is quick to see. A tensor may be changed
            # in place.
            is_same = len(now) == len(self._kept) and all(map(operator.is_, now, self._kept))
            if is_same and not any(isinstance(one, Tensor) for one in now):
                self._changes.pass_over(step)
            else:
                self._kept = now
                self._changes.look(step, self._subject.groups)
        self.next_look = self._changes.next_look

    def _objects(self) -> list[object]:
        """The optimizers, their groups and their settings."""
        found: list[object] = []
        for optimizer in self._optimizers:
            found.append(optimizer)
            for group in optimizer.param_groups:
                found.append(group)
                found += map(group.get, NAMES)
        return found

    def note(self, step: int) -> None:
        """Record the settings now, which are those of this coming step, if there is one."""
        planned = self._subject.budget.planned
        if self._changes is not None and (planned is None or step < planned):
            self._changes.look(step, self._subject.groups)


A_FEW = 3
"""Number of updates in a row with too few backwards after which that is no exception."""

A_WHILE = 32
"""Number of steps after which the updates are counted."""


class Pace:
    """Checks that each step of a watch is one update of its optimizer.

    Args:
        warn: Takes one warning, if that is not so.
        search: Looks for another optimizer that makes the updates, and calls its argument if there
            is one.
    """

    def __init__(
        self, warn: Callable[[str], None], search: Callable[[Callable[[], None]], None]
    ) -> None:
        self._tell = warn
        self._told = False
        self._search = search
        self._doubt = ""
        self._from: int | None = None
        self.updates = 0
        """Updates since the last check."""
        self._sought = False
        self._short = 0
        self._short_at = -1

    def count_steps_inside(
        self, optimizer: Optimizer, steps: Callable[[], int]
    ) -> list[RemovableHandle]:
        """Count each step as an update if several are made in one call of the optimizer, as by the
        closure of LBFGS."""
        closure = signature(optimizer.step).parameters.get("closure")
        if closure is None or closure.default is not Parameter.empty:
            return []  # other optimizers pay for no hook
        began_at = 0

        def begin(*_: object) -> None:
            nonlocal began_at
            began_at = steps()

        def end(*_: object) -> None:
            self.updates += max(steps() - began_at - 1, 0)

        return [optimizer.register_step_pre_hook(begin), optimizer.register_step_post_hook(end)]

    def missed(self) -> None:
        """A step was not followed by an update: see who makes the next one, unless this was done a
        while ago."""
        if not (self._sought or self._told):
            self._sought = True
            self._search(self._found)

    def fell_short(self, step: int, made: int, expected: int) -> None:
        """Count an update with fewer backwards than expected. A few are normal, such as the end of
        an epoch."""
        self._short = self._short + 1 if step == self._short_at + 1 else 1
        self._short_at = step
        if self._short == A_FEW:
            self._tell(
                f"`accumulation` is {expected}, but {A_FEW} updates in a row took {made} "
                f"backward{'s' if made > 1 else ''}: such steps are not measured; give the number "
                "of backwards that an update takes"
            )

    def at(self, steps: int) -> None:
        """Check the steps so far, if there were enough since the last check. A scaler may skip some
        updates.

        Args:
            steps: Number of steps so far.
        """
        if self._from is None:
            self._from = steps - 1
        self._tell_doubt()
        made = steps - self._from
        if made < A_WHILE:
            return
        if self.updates <= made / 2 and not self._told:
            self._doubt = (
                f"`optimizer` made {self.updates} updates in {made} steps up to {steps:,}: batch "
                "size and learning rate are not those of an update; give the number of backwards "
                "per update as `accumulation`, call `step` once for each, and start a new `watch` "
                "with another optimizer"
            )
            self._search(self._found)
        self._from = steps
        self.updates = 0
        self._sought = False

    def end(self, steps: int) -> None:
        """Check the last steps. There is no time left to search."""
        self.at(steps)
        self._tell_doubt()

    def _found(self) -> None:
        self._doubt = ""

    def _tell_doubt(self) -> None:
        if self._doubt:
            self._tell(self._doubt)
            self._doubt = ""
            self._told = True
