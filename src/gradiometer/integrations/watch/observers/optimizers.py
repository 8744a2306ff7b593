"""The optimizers of a watched loop: which one trains, its settings, and if each step is one update."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from gradiometer.integrations.watch.observers.observer import Observer, Start, Step
from gradiometer.integrations.watch.subject import Subject
from gradiometer.measurement.optimizer.groups import Changes, Group, groups_of, largest_rate
from gradiometer.measurement.optimizer.steps import bare_optimizer, trained_ids

NAMES = ("lr", "momentum", "betas", "nesterov", "weight_decay")


class Settings(Observer):
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
        self._groups: tuple[Group, ...] = ()
        # The largest learning rate of the groups that `groups` has returned.
        self.rate = 0.0
        self.next = 0

    def begin(self, start: Start) -> None:
        """Record changes from now on."""
        self._changes = start.recorder.settings
        self._kept = []
        self.next = 0

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
            self._hook = register_optimizer_step_post_hook(self._on_update)

    def close(self, error: BaseException | None) -> None:
        """End a search."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._sought = None

    def _on_update(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        optimizer, sought = bare_optimizer(optimizer), self._sought
        known = any(optimizer is one for one in self._optimizers)
        if sought is None or not (known or groups_of([optimizer], self._subject.own)):
            return
        # the hook itself is removed at the next step
        self._sought = None
        self.next = 0
        if known:
            return
        # such as the base optimizer of SAM, which makes its updates
        is_inside = any(
            optimizer is value for one in self._optimizers for value in vars(one).values()
        )
        taken = trained_ids([optimizer])
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

    def at_step(self, event: Step) -> None:
        """Read the settings of this step."""
        if self._hook is not None and self._sought is None:
            self.close(None)
        if self._changes is None:
            self.next = event.index + 1
            return
        if event.index >= self._changes.next_look:
            self.groups(event.index)
        self.next = self._changes.next_look

    def groups(self, step: int) -> tuple[Group, ...]:
        """The settings at this step. They are recorded, too, if they have changed."""
        now: list[object] = []
        for optimizer in self._optimizers:
            now.append(id(optimizer))
            for group in optimizer.param_groups:
                now.append(id(group))
                now += map(group.get, NAMES)
        # Compared by value: a scheduler gives an equal rate as a new number at each step.
        if now != self._kept:
            # A tensor may be changed in place.
            self._kept = [] if any(isinstance(one, Tensor) for one in now) else now
            self._groups = self._subject.groups
            self.rate = largest_rate(self._groups)
            if self._changes is not None:
                self._changes.look(step, self._groups)
        if self._changes is not None:
            self._changes.next_look = step + max(1, step >> 6)
            self.next = self._changes.next_look
        return self._groups

    def note(self, step: int) -> None:
        """Record the settings now, which are those of this coming step, if there is one."""
        planned = self._subject.budget.planned
        if self._changes is not None and (planned is None or step < planned):
            self.groups(step)


# Number of updates in a row with too few backwards after which that is no exception.
A_FEW = 3

# Number of steps after which the updates are counted.
A_WHILE = 32


class UpdateCounter(Observer):
    """Counts the updates, and checks that each step of a watch is one of them.

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
        # Number of updates so far, and at the last check.
        self.count = 0
        self._count_before = 0
        self._is_inside = False
        self._sought = False
        self._short = 0
        self._short_at = -1
        self.next = 0

    def made(self) -> None:
        """An update was made."""
        self.count += 1

    def at_step(self, event: Step) -> None:
        """Check the steps so far, if there were enough since the last check."""
        self._check(event.index + 1)

    def close(self, error: BaseException | None) -> None:
        """Say what is in doubt. There is no time left to search."""
        self._tell_doubt()

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
            self._is_inside = True

        def end(*_: object) -> None:
            self.count += max(steps() - began_at - 1, 0)
            self._is_inside = False

        return [optimizer.register_step_pre_hook(begin), optimizer.register_step_post_hook(end)]

    def missed(self) -> None:
        """A step was not followed by an update: see who makes the next one, unless this was done a
        while ago."""
        if not (self._sought or self._told):
            self._sought = True
            self._search(self._find)

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

    def _check(self, steps: int) -> None:
        """Compare the number of updates with that of the steps. A scaler may skip some updates."""
        if self._from is None:
            self._from = steps - 1
        if self._is_inside:  # LBFGS may make all of a training in one call
            self.next = steps + A_WHILE - 1
            return
        self.next = self._from + A_WHILE - 1
        self._tell_doubt()
        made = steps - self._from
        if made < A_WHILE:
            return
        updates = self.count - self._count_before
        if updates <= made / 2 and not self._told:
            self._doubt = (
                f"`optimizer` made {updates} updates in {made} steps up to {steps:,}: batch "
                "size and learning rate are not those of an update; give the number of backwards "
                "per update as `accumulation`, call `step` once for each, and start a new `watch` "
                "with another optimizer"
            )
            self._search(self._find)
        self._from = steps
        self.next = steps + (0 if self._doubt else A_WHILE - 1)
        self._count_before = self.count
        self._sought = False

    def _find(self) -> None:
        self._doubt = ""

    def _tell_doubt(self) -> None:
        if self._doubt:
            self._tell(self._doubt)
            self._doubt = ""
            self._told = True
