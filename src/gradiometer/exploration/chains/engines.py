"""Engines: two ways to compute the gradients of M independent runs, with the same result up to rounding."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradiometer.exploration.chains.stacked import OnlyCalled, StackedSequential, why_not_stacked
from gradiometer.exploration.chains.state import Function, StackedModels
from gradiometer.measurement.batch import Batch, batch_size, take
from gradiometer.measurement.loss import Loss
from gradiometer.measurement.traits import Traits

BatchAt = Callable[[Int[Tensor, " chosen"]], Batch]
"""The training examples at these positions, as a batch."""


class Engine(ABC):
    """Computes gradients of all chains. All engines share one state, so that the engine can change at any step."""

    name: ClassVar[str]

    def __init__(self, state: StackedModels, loss: Loss, batch_at: BatchAt, traits: Traits) -> None:
        self.state, self.loss, self.batch_at, self.traits = state, loss, batch_at, traits

    @classmethod
    def why_not(cls, state: StackedModels, loss: Loss, batch: Batch, traits: Traits) -> str | None:
        """Why this engine cannot run these chains, or None."""
        return None

    @abstractmethod
    def gradients(self, index: Int[Tensor, "chains examples"]) -> Sequence[Tensor]:
        """The gradients of all chains, each on its own batch: [chains, *parameter] for every parameter."""

    def step(self, index: Int[Tensor, "chains examples"]) -> None:
        """One step of all chains, each on its own batch."""
        self.state.update(self.gradients(index))

    def values(self, function: Function, batch: Batch) -> Float[Tensor, "chains ..."]:
        """A function of every chain's model on one batch, without gradients."""
        return self.state.values(function, batch)


class Sequential(Engine):
    """A loop over the chains. Runs every model."""

    name: ClassVar[str] = "sequential"

    def __init__(self, state: StackedModels, loss: Loss, batch_at: BatchAt, traits: Traits) -> None:
        super().__init__(state, loss, batch_at, traits)
        self.random_states = [torch.Generator().manual_seed(seed).get_state() for seed in state.seeds]

    def gradients(self, index: Int[Tensor, "chains examples"]) -> Sequence[Tensor]:
        """Forward and backward of each chain in turn."""
        columns = zip(*map(self._gradient, range(len(index)), index), strict=True)
        return [torch.stack(column) for column in columns]

    def step(self, index: Int[Tensor, "chains examples"]) -> None:
        """Forward, backward and update of each chain in turn, with the gradients of one chain at a time in memory."""
        for place, chosen in enumerate(index):
            self.state.update_one(place, self._gradient(place, chosen))

    def _gradient(self, place: int, chosen: Int[Tensor, " examples"]) -> Sequence[Tensor]:
        with self._random_state_of(place):
            loss = self.loss(self.state.models[place], self.batch_at(chosen)).mean()
        return torch.autograd.grad(loss, self.state.of_one[place], allow_unused=True, materialize_grads=True)

    @contextmanager
    def _random_state_of(self, place: int) -> Iterator[None]:
        """A model that draws random numbers draws them from its chain's own generator."""
        if not self.traits.random:
            yield
            return
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.random_states[place])
            yield
            self.random_states[place] = torch.get_rng_state()


class Stacked(Engine):
    """One network of batched products, for linear layers and elementwise functions."""

    name: ClassVar[str] = "stacked"

    def __init__(self, state: StackedModels, loss: Loss, batch_at: BatchAt, traits: Traits) -> None:
        super().__init__(state, loss, batch_at, traits)
        self.model = StackedSequential(state.models[0], state.stacked)

    @classmethod
    def why_not(cls, state: StackedModels, loss: Loss, batch: Batch, traits: Traits) -> str | None:
        """The model has another layer, or the loss has no value per example, or looks into the model."""
        if (reason := why_not_stacked(state.models[0])) is not None:
            return reason
        if not traits.fixed:
            return "the loss draws random numbers or couples the examples of a batch"
        if not loss(state.models[0], batch).dim():
            return "the loss is a mean, one value per example is needed: build it with reduction='none'"
        copies = take(batch, torch.arange(batch_size(batch)).repeat(len(state)))
        try:
            loss(StackedSequential(state.models[0], state.stacked), copies)
        except OnlyCalled as error:
            return str(error)
        return None

    def gradients(self, index: Int[Tensor, "chains examples"]) -> Sequence[Tensor]:
        """One forward and backward for all chains."""
        losses = self.loss(self.model, self.batch_at(index.reshape(-1)))
        total = losses.view(len(index), -1).mean(1).sum()
        return torch.autograd.grad(total, self.state.leaves, allow_unused=True, materialize_grads=True)

    def values(self, function: Function, batch: Batch) -> Float[Tensor, "chains ..."]:
        """One call for all chains, on a copy of the batch for each."""
        size, chains = batch_size(batch), len(self.state)
        copies = take(batch, torch.arange(size).repeat(chains))
        try:
            with torch.no_grad():
                values = function(self.model, copies).double()
        except OnlyCalled:
            return super().values(function, batch)
        return values.view(chains, size) if values.dim() else super().values(function, batch)


ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in (Stacked, Sequential)}
