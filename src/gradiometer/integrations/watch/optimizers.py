"""The optimizers of a watched loop: their settings, if each step is one update, and the coming
update."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from gradiometer.errors import BadArgument, Unsupported
from gradiometer.integrations.watch.subject import Subject
from gradiometer.measurement.motion import Motion, Origin, update_of, velocity_of
from gradiometer.measurement.optimizer.groups import Changes, Group, groups_of, largest_rate
from gradiometer.measurement.optimizer.steps import bare_optimizer, trained_ids
from gradiometer.measurement.reading import Draw

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
        self._groups: tuple[Group, ...] = ()
        # The largest learning rate of the groups that `groups` has returned.
        self.rate = 0.0
        # The next step at which `stepped` has something to do.
        self.next_look = 0

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
            self._hook = register_optimizer_step_post_hook(self._on_update)

    def end(self) -> None:
        """End a search."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._sought = None

    def _on_update(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
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

    def stepped(self, step: int) -> None:
        """Read the settings of this step, from `next_look` on. Call it before the update."""
        if self._hook is not None and self._sought is None:
            self.end()
        if self._changes is None:
            return
        if step >= self._changes.next_look:
            self.groups(step)
        self.next_look = self._changes.next_look

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
            self.next_look = self._changes.next_look
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
        # Updates since the last check, and before it.
        self.updates = 0
        self._before = 0
        self._is_inside = False
        self._sought = False
        self._short = 0
        self._short_at = -1
        # Number of steps from which on `at` has something to do.
        self.next = 0

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
            self.updates += max(steps() - began_at - 1, 0)
            self._is_inside = False

        return [optimizer.register_step_pre_hook(begin), optimizer.register_step_post_hook(end)]

    def made(self) -> int:
        """The number of updates so far."""
        return self._before + self.updates

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

    def at(self, steps: int) -> None:
        """Check the steps so far, if there were enough since the last check. A scaler may skip some
        updates.

        Args:
            steps: Number of steps so far.
        """
        if self._from is None:
            self._from = steps - 1
        if self._is_inside:  # LBFGS may make all of a training in one call
            self.next = steps + A_WHILE
            return
        self.next = self._from + A_WHILE
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
            self._search(self._find)
        self._from = steps
        self.next = steps + (1 if self._doubt else A_WHILE)
        self._before += self.updates
        self.updates = 0
        self._sought = False

    def end(self, steps: int) -> None:
        """Check the last steps. There is no time left to search."""
        self.at(steps)
        self._tell_doubt()

    def _find(self) -> None:
        self._doubt = ""

    def _tell_doubt(self) -> None:
        if self._doubt:
            self._tell(self._doubt)
            self._doubt = ""
            self._told = True


@dataclass(frozen=True)
class UpdateSettings:
    """Settings that all parameters must share for one heat balance to hold."""

    lr: float
    momentum: float
    nesterov: bool


class Updates:
    """Follows plain SGD, with momentum or without, from one measured step to the next.

    The origin that positions are measured from is one more copy of the parameters. It is not part
    of the watch's
    state, which holds no tensors: a continued run takes a new origin where training then is.

    Args:
        subject: The training, which must have one optimizer. Its origin is by default a new one.

    Raises:
        BadArgument: The size of the training set is missing.
        Unsupported: The heat balance is not known for this training.
    """

    def __init__(self, subject: Subject) -> None:
        optimizers = subject.optimizers
        sampling = subject.batches.sampling
        if len(optimizers) > 1:
            raise Unsupported(
                "`gauges` names temperature, whose balance needs one optimizer, and `optimizer` "
                f"has {len(optimizers)}: train all parameters with one, or leave temperature out."
            )
        if sampling.draw is Draw.RESHUFFLED and sampling.examples is None:
            raise BadArgument(
                "`sampling` is reshuffled, over a training set of unknown size: give "
                "its `examples`, or leave temperature out."
            )
        self._optimizers = optimizers
        self._optimizer = optimizers[0]
        self._objective = subject.objective
        if type(self._optimizer) is not torch.optim.SGD:
            raise Unsupported(
                f"`optimizer` is a {type(self._optimizer).__name__}, and the heat balance is known "
                "for torch.optim.SGD only: leave temperature out of `gauges`."
            )
        trained = trained_ids(optimizers)
        for name, parameter in zip(self._objective.names, self._objective.parameters, strict=True):
            if id(parameter) not in trained:
                raise Unsupported(
                    f"`optimizer` does not train {name}, which then has noise and no motion: "
                    "freeze it with requires_grad_(False), or leave temperature out of `gauges`."
                )
        self._begun_with = self._rule()
        self._origin = subject.origin or Origin()

    def pass_by(self, index: int) -> None:
        """Note the position of training. The first position after each power of two becomes the
        origin."""
        self._origin.motion(self._objective.parameters, index)

    def motion(
        self, made: Float[Tensor, " parameters"], *, index: int, learning_rate: float
    ) -> Motion:
        """The motion of training at this step. Call it when `.grad` is final.

        Args:
            made: ‖ĝ‖² of every parameter, as `backward` made it.
            index: The step's number.
            learning_rate: η at the time of the backward.

        Raises:
            Unsupported: The balance does not know this kind of update.
        """
        if self._optimizers[0] is not self._optimizer:
            raise Unsupported(
                "`optimizer` was replaced by another, and the heat balance needs one for all steps."
            )
        rule, begun = self._rule(), self._begun_with
        if (rule.momentum, rule.nesterov) != (begun.momentum, begun.nesterov):
            raise Unsupported(
                f"`optimizer` started with momentum {begun.momentum:g} and now has "
                f"{rule.momentum:g}: the balance needs a constant momentum (OneCycleLR: "
                "cycle_momentum=False)."
            )
        if rule.lr != learning_rate:
            raise BadArgument(
                f"`optimizer` had the learning rate {learning_rate:g} when `step` was called, and "
                f"{rule.lr:g} at the update: change it after the update."
            )
        parameters, optimizer = self._objective.parameters, self._optimizer
        update = update_of(optimizer, parameters, made, scale=_scale_left_to(optimizer))
        velocity = velocity_of(optimizer, parameters) if rule.momentum else None
        return self._origin.motion(parameters, index, velocity, update)

    def _rule(self) -> UpdateSettings:
        own = {id(parameter) for parameter in self._objective.parameters}
        groups = [
            group
            for group in self._optimizer.param_groups
            if any(id(p) in own for p in group["params"])
        ]
        for name, plain in (("dampening", 0), ("maximize", False)):
            for group in groups:
                if group[name] != plain:
                    raise Unsupported(
                        f"`optimizer` has {name} {group[name]}, for which no heat balance is "
                        f"known: set it to {plain}, or leave temperature out."
                    )
        rules = list(
            dict.fromkeys(
                UpdateSettings(float(g["lr"]), float(g["momentum"]), bool(g["nesterov"]))
                for g in groups
            )
        )
        if len(rules) > 1:
            raise Unsupported(
                f"`optimizer` has parameter groups with {rules[0]} and {rules[1]}: the heat "
                "balance needs one rule (weight decay may differ); leave temperature out."
            )
        return rules[0]


def before_the_update(
    optimizer: torch.optim.Optimizer,
    look: Callable[[], None],
    shield: AbstractContextManager[object, bool | None],
) -> Any:
    """Hook `optimizer.step` so that it calls `look` when `.grad` is final: after the closure, if
    there is one.

    Returns:
        The handle that removes the hook.
    """

    def hook(_: torch.optim.Optimizer, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        closure = named.get("closure", arguments[1] if len(arguments) > 1 else None)
        if closure is None:
            with shield:
                look()
            return None

        def closure_and_look() -> Any:
            value = closure()
            with shield:
                look()
            return value

        return arguments[:1], {**named, "closure": closure_and_look}

    return optimizer.register_step_pre_hook(hook)


def _scale_left_to(optimizer: torch.optim.Optimizer) -> float:
    """The factor by which a fused optimizer divides the gradients itself, set by a GradScaler; else
    1."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return 1.0
    skipped = getattr(optimizer, "found_inf", None)
    return math.nan if skipped is not None and float(skipped) else float(scale)
