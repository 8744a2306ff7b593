"""The loop of all recipes: an ordinary PyTorch loop, watched or not."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from recipes.data import Data, Rows
from recipes.losses import carried_on
from recipes.recipe import Loss, Recipe, optimizer_of, scheduler_of

EVALUATIONS = 10


@dataclass
class Watching:
    """How a training is watched.

    Args:
        begin: Called with the model, the optimizer and the loss; gives a watch, entered as a
            context.
        with_batch: True if the watch also gets the batch: `w.step(loss, batch)`.
        begun: The watch, once a training has begun.
    """

    begin: Callable[[nn.Module, Optimizer, Loss], AbstractContextManager[Any]]
    with_batch: bool = False
    begun: Any = None


@dataclass
class Outcome:
    """How a training ended.

    Args:
        held_out: The mean loss on rows that the training never saw, at the end.
        losses: The losses of the batches.
        parameters: Numbers that are trained.
        seconds: Processor time.
    """

    held_out: float
    losses: list[float]
    parameters: int
    seconds: float = field(compare=False, default=0.0)

    @property
    def last(self) -> float:
        """The mean loss of the last tenth of the batches."""
        end = self.losses[-max(len(self.losses) // 10, 1) :]
        return sum(end) / len(end)


class Stream:
    """Batches in epochs, without end: shuffled, in the order of the file, or with a state.

    Args:
        state: What the network left after the batch before, if it carries its state.
    """

    def __init__(self, recipe: Recipe, data: Data, seed: int) -> None:
        self.recipe, self.data = recipe, data
        self.generator = torch.Generator().manual_seed(1_000 + seed)
        self.state: Rows | None = None

    def order(self) -> torch.Tensor:
        """The rows of an epoch, in their order."""
        if self.recipe.carries_state:
            return torch.arange(len(self.data.train[0]))
        if self.recipe.shuffled:
            return torch.randperm(len(self.data.train[0]), generator=self.generator)
        return self.data.order.argsort(stable=True)

    def __iter__(self) -> Iterator[Rows]:
        count = len(self.data.train[0])
        size = min(self.recipe.batch, count)
        while True:
            self.state = None
            for chosen in self.order()[: count - count % size].split(size):
                rows = tuple(part[chosen] for part in self.data.train)
                # As in PyTorch's example, the state is part of what the network is given.
                yield rows if self.state is None else rows + self.state


@torch.no_grad()
def held_out_loss(recipe: Recipe, model: nn.Module, data: Data) -> float:
    """The mean loss on the rows that are kept apart, in eval mode, with the same random numbers
    each time."""
    loss = recipe.held_out_loss or recipe.loss
    model.eval()
    total, count = 0.0, len(data.held_out[0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for begin in range(0, count, 500):
            rows = tuple(part[begin : begin + 500] for part in data.held_out)
            total += float(loss(model, rows)) * len(rows[0])
    model.train()
    return total / count


def train(recipe: Recipe, seed: int, watching: Watching | None = None) -> Outcome:
    """Train a recipe, watched or not."""
    return train_model(recipe, seed, watching)[1]


def train_model(
    recipe: Recipe, seed: int, watching: Watching | None = None
) -> tuple[nn.Module, Outcome]:
    """The trained network of a recipe, and how its training ended."""
    torch.manual_seed(seed)
    data = recipe.rows()
    model = recipe.network(recipe.dropout or 0.0)
    optimizer = optimizer_of(recipe, model)
    scheduler = scheduler_of(recipe, optimizer)
    stream = Stream(recipe, data, seed)
    batches = iter(stream)
    losses: list[float] = []
    began = time.process_time()

    model.train()
    begun = watching.begin(model, optimizer, recipe.loss) if watching else nullcontext()
    with begun as w:
        if watching is not None:
            watching.begun = w
        for step in range(recipe.updates):
            batch = next(batches)
            optimizer.zero_grad()
            if recipe.carries_state:
                loss, stream.state = carried_on(model, batch)
            else:
                loss = recipe.loss(model, batch)
            loss.backward()
            if watching is not None:
                w.step(loss, batch) if watching.with_batch else w.step(loss)
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                break
            if recipe.schedule is None:
                if (step + 1) % max(recipe.updates // EVALUATIONS, 1) == 0:
                    scheduler.step(held_out_loss(recipe, model, data))
            elif (step + 1) % recipe.every == 0:
                scheduler.step()

    ended = held_out_loss(recipe, model, data) if math.isfinite(losses[-1]) else math.nan
    parameters = sum(each.numel() for each in model.parameters() if each.requires_grad)
    return model, Outcome(ended, losses, parameters, time.process_time() - began)
