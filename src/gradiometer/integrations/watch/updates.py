"""What the optimizer of a watched loop is about to do, for the gauges that look back: the moment before it does it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.measurement.motion import Motion, Origin, update_of, velocity_of
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.reading import Draw, Sampling


@dataclass(frozen=True)
class Following:
    """A step as gauges with steps of their own see it: where Φ is before the update, whatever its gradient."""

    objective: Objective
    index: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class Rule:
    """What all parameters have to share for one heat balance to hold."""

    lr: float
    momentum: float
    nesterov: bool


class Updates:
    """Follows plain SGD, with momentum or without, from one measured step to another.

    The origin that positions are measured from is one more copy of the parameters. It is not in the watch's state,
    which holds no tensors: a run that goes on measures from where training stands then.

    Args:
        optimizers: Those of the loop; one is followed.
        objective: The model that it trains.
        sampling: How batches are drawn.

    Raises:
        BadArgument: The balance is not known for this training.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], objective: Objective, sampling: Sampling) -> None:
        if len(optimizers) > 1:
            raise BadArgument(
                f"`gauges` names temperature, whose balance is that of one update, and `optimizer` has "
                f"{len(optimizers)}: train all parameters by one, or leave temperature out."
            )
        if sampling.draw is Draw.RESHUFFLED and sampling.examples is None:
            raise BadArgument(
                "`sampling` draws without replacement from a training set of unknown size: give its `examples`, or "
                "leave temperature out."
            )
        self._optimizer, self._objective = optimizers[0], objective
        if type(self._optimizer) is not torch.optim.SGD:
            raise BadArgument(
                f"`optimizer` is a {type(self._optimizer).__name__}, and the heat balance is that of torch.optim.SGD "
                "itself: leave temperature out of `gauges`."
            )
        self._refuse_parameters_of_others()
        self._begun_with = self._rule()
        self._origin = Origin()

    def pass_by(self, index: int) -> None:
        """Training stands at a step that is looked at: where it does so first after a power of two is the origin."""
        self._origin.motion(self._objective.parameters, index)

    def motion(self, made: Float[Tensor, " parameters"], *, index: int, learning_rate: float) -> Motion:
        """How training moves at this step; to be asked when `.grad` is as the update will see it.

        Args:
            made: ‖ĝ‖² of every parameter, as `backward` made it.
            index: The step's number.
            learning_rate: η, as it was when the backward was made.

        Raises:
            BadArgument: The update is of another kind than the balance knows.
        """
        rule, begun = self._rule(), self._begun_with
        if (rule.momentum, rule.nesterov) != (begun.momentum, begun.nesterov):
            raise BadArgument(
                f"`optimizer` began with momentum {begun.momentum:g} and now has {rule.momentum:g}: the balance is "
                "that of one momentum (OneCycleLR: cycle_momentum=False)."
            )
        if rule.lr != learning_rate:
            raise BadArgument(
                f"`optimizer` had the learning rate {learning_rate:g} when `step` was called, and {rule.lr:g} at the "
                "update: change it after the update."
            )
        parameters, optimizer = self._objective.parameters, self._optimizer
        update = update_of(optimizer, parameters, made, scale=_scale_left_to(optimizer))
        velocity = velocity_of(optimizer, parameters) if rule.momentum else None
        return self._origin.motion(parameters, index, velocity, update)

    def _rule(self) -> Rule:
        own = {id(parameter) for parameter in self._objective.parameters}
        groups = [group for group in self._optimizer.param_groups if any(id(p) in own for p in group["params"])]
        for name, plain in (("dampening", 0), ("maximize", False)):
            for group in groups:
                if group[name] != plain:
                    raise BadArgument(
                        f"`optimizer` has {name} {group[name]}, of which no heat balance is known: set it to {plain}, "
                        "or leave temperature out."
                    )
        rules = list(dict.fromkeys(Rule(float(g["lr"]), float(g["momentum"]), bool(g["nesterov"])) for g in groups))
        if len(rules) > 1:
            raise BadArgument(
                f"`optimizer` has groups of parameters with {rules[0]} and {rules[1]}: the heat balance is that of one "
                "(weight decay may differ); leave temperature out."
            )
        return rules[0]

    def _refuse_parameters_of_others(self) -> None:
        trained = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        for name, parameter in zip(self._objective.names, self._objective.parameters, strict=True):
            if id(parameter) not in trained:
                raise BadArgument(
                    f"`optimizer` leaves out {name}, which then has noise and no motion: freeze it with "
                    "requires_grad_(False), or leave temperature out of `gauges`."
                )


A_WHILE = 32
"""Steps after which it is looked whether each was an update."""


class Pace:
    """Looks whether the steps of a watch are updates of its optimizer.

    Args:
        warn: Told once where they are not, in a sentence.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn: Callable[[str], None] | None = warn
        self._steps = 0
        self.updates = 0
        """Of late."""

    def stepped(self, steps: int) -> None:
        """One more step was made, of so many; a scaler may skip the updates of some."""
        self._steps += 1
        if self._steps < A_WHILE:
            return
        if self.updates <= A_WHILE / 2 and self._warn is not None:
            self._warn(
                f"`optimizer` made {self.updates} updates in {A_WHILE} steps up to {steps:,}: batch size and learning "
                "rate are not those of an update; say how many backwards make one with `accumulation`, call `step` "
                "once for each, and begin a new `watch` where the optimizer is another"
            )
            self._warn = None
        self._steps = self.updates = 0


def before_the_update(look: Callable[[], None]) -> Callable[[torch.optim.Optimizer, Any, Any], Any]:
    """A pre-hook of `optimizer.step` that looks when `.grad` is final: after the closure, where one is given."""

    def hook(_: torch.optim.Optimizer, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        closure = named.get("closure", arguments[1] if len(arguments) > 1 else None)
        if closure is None:
            look()
            return None

        def closure_and_look() -> Any:
            value = closure()
            look()
            return value

        return arguments[:1], {**named, "closure": closure_and_look}

    return hook


def _scale_left_to(optimizer: torch.optim.Optimizer) -> float:
    """What a fused optimizer divides gradients by itself, as a GradScaler tells it; 1 of others."""
    scale = getattr(optimizer, "grad_scale", None)
    if scale is None:
        return 1.0
    skipped = getattr(optimizer, "found_inf", None)
    return math.nan if skipped is not None and float(skipped) else float(scale)
