"""What can be seen exactly in a loop: trained and untrained parameters, dropout, modes, and what
`backward` finds."""

import gc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.integrations.backwards import Listener
from gradiometer.integrations.gradients import gradients_of
from gradiometer.integrations.watch.shield import Hook, Shield
from gradiometer.integrations.watch.triage.batches import compared_by
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.optimizer.several import bare_optimizer

SENSITIVE = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""Layers that act otherwise in eval mode."""

TOTALS = ("total_steps", "T_max", "total_iters")
"""Attributes in which torch's schedulers keep the length of what they plan."""


def facts_of(objective: Objective, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """What does not change along a training, for the event of a run."""
    trained = {
        id(p)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    }
    kinds = {
        id(parameter): type(module).__name__
        for module in objective.model.modules()
        for parameter in module.parameters(recurse=False)
    }
    parameters = objective.parameters
    names = objective.names
    return {
        "tensors": list(names),
        "sizes": [parameter.numel() for parameter in parameters],
        "axes": [parameter.dim() for parameter in parameters],
        "rows": [len(parameter) if parameter.dim() else 1 for parameter in parameters],
        "layers": [kinds.get(id(parameter), "") for parameter in parameters],
        "untrained": [
            name for name, one in zip(names, parameters, strict=True) if id(one) not in trained
        ],
        "dropout": max(
            (float(p) for p in map(dropout_of, objective.model.modules()) if p is not None),
            default=0.0,
        ),
    }


def dropout_of(module: nn.Module) -> float | None:
    """The share that a module drops in training; None if it drops nothing."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p
    share = getattr(module, "dropout", None)
    return share if isinstance(share, float) else None


def sensitive_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that act otherwise in eval mode."""
    return [module for module in model.modules() if isinstance(module, SENSITIVE)]


class BackwardsOfStep:
    """Listens to the backwards of one update: their number, `.grad` before the first and after the
    last of them.

    A backward of another model, such as the critic of a generator, does not count: it leaves these
    gradients alone. If gradients are set to None between two backwards, as in SAM, only those after
    that count.

    Args:
        parameters: The trainable parameters.
        shield: Takes errors.
        optimizers: Those that clear the gradients. Gradients of parameters that none of them has
            are left to lie.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        optimizers: Sequence[torch.optim.Optimizer],
        shield: Shield,
    ) -> None:
        self._parameters = parameters
        self._shield = shield
        trained = {
            id(p)
            for optimizer in optimizers
            for group in optimizer.param_groups
            for p in group["params"]
        }
        self._cleared = [parameter for parameter in parameters if id(parameter) in trained]
        self._listener: Listener | None = None
        self._reads_loss = False
        self.count = 0
        self.stale: Tensor | None = None
        """‖.grad‖ before the first backward; None if it was empty."""
        self.roots: list[Tensor] = []
        """What each backward was called on."""
        self.compared: tuple[Tensor, Tensor] | None = None
        """The outputs and labels that the newest loss has compared; None if they are not known."""
        self._made: Tensor | None = None
        self._marks: list[tuple[int, int]] = []

    @property
    def made(self) -> Tensor:
        """‖.grad‖ of every parameter after the last backward, before anything clipped it."""
        return self._norms() if self._made is None else self._made

    def start(self, *, reads_loss: bool) -> None:
        """Listen to the coming update.

        Args:
            reads_loss: True to look for what the loss compares.
        """
        self.stop()
        self._reads_loss = reads_loss
        self.count = 0
        self.stale = None
        self.roots = []
        self._made = None
        self._listener = Listener(
            Hook(self._shield, self._before), Hook(self._shield, self._after)
        ).start()

    def stop(self) -> None:
        """Do not listen any longer."""
        if self._listener is not None:
            self._listener.remove()
        self._listener = None
        self.compared = None

    @torch.no_grad()
    def _before(self, loss: Tensor | None) -> None:
        held = [
            parameter.grad.detach() for parameter in self._cleared if parameter.grad is not None
        ]
        if not held:
            self.count = 0
            self.roots = []
        if self.count == 0:
            self.stale = together(torch._foreach_norm(held)).norm() if held else None
        self._marks = self._marked()
        if self._reads_loss and loss is not None:
            self.compared = compared_by(loss)

    @torch.no_grad()
    def _after(self, loss: Tensor | None) -> None:
        if self._marked() == self._marks:
            return
        self.count += 1
        if loss is not None:
            self.roots.append(loss)
        self._made = self._norms()

    def _marked(self) -> list[tuple[int, int]]:
        """Which tensor each `.grad` is, and how often it was written: what adds to it changes one
        of the two."""
        gradients = [parameter.grad for parameter in self._parameters]
        return [(0, 0) if one is None else (id(one), one._version) for one in gradients]

    def _norms(self) -> Tensor:
        return together(torch._foreach_norm(gradients_of(self._parameters)))


def schedulers_of(
    optimizers: Sequence[torch.optim.Optimizer], steps: int
) -> tuple[list[torch.optim.lr_scheduler.LRScheduler], str]:
    """The schedulers of the optimizers, and if they were stepped at each "update" or "epoch".

    A scheduler knows its optimizer, and not the other way round, so that the collector of garbage
    is asked for it.

    Args:
        optimizers: The optimizers.
        steps: Updates so far.
    """
    found = []
    for optimizer in optimizers:
        if not any("initial_lr" in group for group in optimizer.param_groups):
            continue
        known = [
            owner
            for owner in _owners(optimizer)
            if isinstance(owner, torch.optim.lr_scheduler.LRScheduler)
            and bare_optimizer(owner.optimizer) is optimizer
        ]
        # those that a chain or a sequence is made of are stepped by it
        inner = {id(part) for one in known for part in getattr(one, "_schedulers", ())}
        outer = [one for one in known if id(one) not in inner]
        if outer:
            found.append(max(outer, key=lambda one: one.last_epoch))
    each_update = all(2 * one.last_epoch >= steps for one in found)
    return found, "update" if each_update else "epoch"


def _owners(optimizer: torch.optim.Optimizer) -> list[Any]:
    """The objects that have an optimizer as an attribute, or a wrapper of it."""
    found = list[Any]()
    for holder in gc.get_referrers(optimizer):
        # Python keeps the attributes of an object in itself or in a dictionary
        owners = gc.get_referrers(holder) if isinstance(holder, dict) else [holder]
        found += owners
        for owner in owners:
            if isinstance(owner, torch.optim.Optimizer) and bare_optimizer(owner) is optimizer:
                found += _owners(owner) if owner is not optimizer else []
    return found


def planned_steps(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """The scheduler of the optimizers and the length that it plans, in its own steps; empty if none
    can be seen."""
    schedulers, _ = schedulers_of(optimizers, 0)
    if not schedulers:
        return {}
    scheduler = schedulers[0]
    totals = [
        getattr(scheduler, name)
        for name in TOTALS
        if isinstance(getattr(scheduler, name, None), int)
    ]
    return {"scheduler": type(scheduler).__name__, **({"scheduled": totals[0]} if totals else {})}


def together(numbers: Sequence[Tensor]) -> Tensor:
    """Single numbers as one tensor in single precision, on the device of the first."""
    device = numbers[0].device
    return torch.stack([number.to(device) for number in numbers]).float()
