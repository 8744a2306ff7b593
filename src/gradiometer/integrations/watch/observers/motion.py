"""The motion of plain SGD from one measured step to the next, for the heat balance."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import BadArgument, Unsupported
from gradiometer.integrations.watch.subject import Subject
from gradiometer.measurement.motion import Motion, Origin, update_of, velocity_of
from gradiometer.measurement.optimizer.steps import trained_ids
from gradiometer.measurement.reading import Draw


@dataclass(frozen=True)
class UpdateSettings:
    """Settings that all parameters must share for one heat balance to hold."""

    lr: float
    momentum: float
    nesterov: bool


class MotionReader:
    """Follows plain SGD, with momentum or without, from one measured step to the next.

    The origin that positions are measured from is one more copy of the parameters. It is not part
    of the watch's state, which holds no tensors: a continued run takes a new origin where training
    then is.

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
