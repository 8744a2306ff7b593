"""What a watch follows: the loop of a person, or a training of `gradiometer train`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.integrations.fsdp import is_sharded
from gradiometer.integrations.watch.data import Batches
from gradiometer.measurement.motion import Origin
from gradiometer.measurement.objective import Objective
from gradiometer.measurement.optimizer.groups import Group, groups_of
from gradiometer.measurement.reading import Spread
from gradiometer.run.budget import Budget
from gradiometer.run.ranks import Ranks


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """The training that is watched, and what was said about it.

    Args:
        objective: The bare model and its loss.
        called: The model as the loop calls it: wrapped or compiled.
        optimizers: The optimizers of the loop. One that trains in place of another replaces it in
            this list.
        batches: How batches are drawn.
        budget: The account of the run.
        ranks: The processes that call the watch together.
        tell: Takes the text of every warning.
        has_loss: True if the objective can be run.
        accumulation: Number of backwards per update on each process.
        scaler: The GradScaler, if there is one: gradients are then read scaled.
        seed: Seed of the random numbers that measuring draws.
        spread: Returns the spread of the micro-batches that made the gradient of the step at hand,
            None if it has none; None for a training whose spread is read by the watch.
        origin: The earlier parameters that gauges measure from, if they are in the checkpoints of
            the training.
        is_own: True for a training of ours: its loss is the one that is trained, it makes its run
            and ends it, and stops at an error of measuring.
    """

    objective: Objective
    called: nn.Module
    optimizers: list[torch.optim.Optimizer]
    batches: Batches
    budget: Budget
    ranks: Ranks
    tell: Callable[[str], object]
    has_loss: bool = True
    accumulation: int = 1
    scaler: Any = None
    seed: int = 0
    spread: Callable[[], Spread | None] | None = None
    origin: Origin | None = None
    is_own: bool = False

    @cached_property
    def sharded(self) -> bool:
        """True if the model is sharded (FSDP2)."""
        return is_sharded(self.objective.model)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters."""
        return self.objective.parameters

    @property
    def groups(self) -> tuple[Group, ...]:
        """The settings of all parameter groups of the model now."""
        return groups_of(self.optimizers, self.own)

    @cached_property
    def own(self) -> frozenset[int]:
        """`id` of every parameter that is trained."""
        return frozenset(map(id, self.parameters))

    def scale(self) -> Tensor:
        """The factor of the GradScaler, on the device; 1 without one."""
        one = torch.ones((), device=self.parameters[0].device)
        if self.scaler is None:
            return one
        scaled: Tensor = self.scaler.scale(one)
        return scaled
