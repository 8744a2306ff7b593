"""A recipe: a training as its author published it, as settings that a change replaces."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler as schedulers

from recipes.data import Data, Rows

Loss = Callable[[nn.Module, Rows], Tensor]
Schedule = Callable[[float], float]
"""The factor of the rate at a part of the schedule, from 0 to 1."""


def constant(part: float) -> float:
    """No schedule."""
    return 1.0


def linear(part: float) -> float:
    """Straight down to zero."""
    return 1.0 - part


def cosine(part: float) -> float:
    """Half a cosine down to zero."""
    return (1.0 + math.cos(math.pi * part)) / 2


def one_cycle(part: float) -> float:
    """PyTorch's OneCycleLR by default: up from 1/25 for 30 % of the run, then down to 4e-6.

    It leaves the momentum as it is.
    """
    if part < 0.3:
        return 1 / 25 + (1 - 1 / 25) * (1 - cosine(part / 0.3))
    return cosine((part - 0.3) / 0.7) * (1 - 4e-6) + 4e-6


def drops(factor: float, *at: float) -> Schedule:
    """The rate times `factor` at each of these parts of the run."""

    def schedule(part: float) -> float:
        return factor ** sum(part >= place for place in at)

    return schedule


def stairs(factor: float, epochs: int) -> Schedule:
    """The rate times `factor` after each of `epochs` equal parts of the run."""
    return drops(factor, *(epoch / epochs for epoch in range(1, epochs)))


@dataclass(frozen=True)
class Recipe:
    """A training.

    Args:
        name: Its name in tables and sets.
        published: Where its settings are from.
        data: Loads the rows. Those of a recipe that carries its state are loaded for a batch.
        network: Makes the network; called with the dropout.
        loss: The mean loss of a batch; called with the network in training.
        held_out_loss: The loss that is judged, if it is not the one of training.
        optimizer: "sgd", "adam", "adamw", "rmsprop" or "adadelta".
        rate: The largest learning rate.
        updates: Updates of the run.
        batch: Rows of an update.
        schedule: The shape of the rate, or None for a rate that is divided by 4 when an evaluation
            is no better than the best so far (ten evaluations a run).
        schedule_end: The part of the run at whose end the schedule ends.
        lowest: The factor at the end of the schedule.
        warm_up: The part of the run in which the rate rises from zero.
        every: Updates between two steps of the scheduler; each still stands for one update.
        clip: The largest norm of the gradient, or None.
        dropout: Dropout of the network; None for a network that has none.
        shuffled: False for rows in the order of `Data.order`.
        whole: True if every update has all rows.
        carries_state: True for a network that goes on from the state after the batch before.
        floor: A level that the loss can't go below.
    """

    name: str
    published: str
    data: Callable[..., Data]
    network: Callable[[float], nn.Module]
    loss: Loss
    optimizer: str
    rate: float
    updates: int
    batch: int
    schedule: Schedule | None = constant
    schedule_end: float = 1.0
    lowest: float = 0.0
    warm_up: float = 0.0
    every: int = 1
    momentum: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float | None = None
    dropout: float | None = None
    shuffled: bool = True
    whole: bool = False
    carries_state: bool = False
    held_out_loss: Loss | None = None
    floor: float = 0.0

    def rows(self) -> Data:
        """The data."""
        return self.data(columns=self.batch) if self.carries_state else self.data()

    def factor(self, step: int) -> float:
        """The rate after `step` steps of the scheduler, as a part of the largest one."""
        part = min(step / (self.updates * self.schedule_end), 1.0)
        shape = constant if self.schedule is None else self.schedule
        warm = min((step + 1) / (self.warm_up * self.updates), 1.0) if self.warm_up else 1.0
        return warm * (self.lowest + (1 - self.lowest) * shape(part))


def optimizer_of(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a recipe."""
    settings: dict[str, Any] = {"lr": recipe.rate, "weight_decay": recipe.weight_decay}
    parameters = model.parameters()
    match recipe.optimizer:
        case "sgd":
            return torch.optim.SGD(
                parameters, momentum=recipe.momentum, nesterov=recipe.nesterov, **settings
            )
        case "adam":
            return torch.optim.Adam(parameters, betas=recipe.betas, **settings)
        case "adamw":
            return torch.optim.AdamW(parameters, betas=recipe.betas, **settings)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, **settings)
        case "adadelta":
            return torch.optim.Adadelta(parameters, **settings)
    raise ValueError(f"`optimizer` must be one of PyTorch's that is listed, got {recipe.optimizer}")


def scheduler_of(recipe: Recipe, optimizer: torch.optim.Optimizer) -> Any:
    """One of PyTorch's schedulers."""
    if recipe.schedule is None:
        return schedulers.ReduceLROnPlateau(optimizer, factor=0.25, patience=0, threshold=0.0)
    return schedulers.LambdaLR(optimizer, recipe.factor)
