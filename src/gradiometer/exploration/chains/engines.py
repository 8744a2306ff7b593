"""Ways to compute the gradients of M independent runs: one after the other, by vmap, or as one batched network."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gradiometer.exploration.chains.stacked import StackedSequential, why_not_stacked
from gradiometer.exploration.chains.state import ChainState
from gradiometer.measurement.batch import Batch, batch_size, example_axes, mapped, take
from gradiometer.measurement.objective import Loss, Traits

Function = Callable[[nn.Module, Batch], Tensor]
"""Of a model and a batch: a number an example, or their mean."""


class Engine(ABC):
    """Makes steps of all chains. All engines work on one state: any of them goes on where another left off."""

    name: ClassVar[str]

    def __init__(self, state: ChainState, loss: Loss, data: Batch) -> None:
        self.state, self.loss, self.data = state, loss, data

    @classmethod
    @abstractmethod
    def why_not(cls, state: ChainState, loss: Loss, batch: Batch, traits: Traits) -> str | None:
        """Why it cannot run these chains, or None."""

    @abstractmethod
    def step(self, index: Int[Tensor, "chains examples"]) -> None:
        """A step of all chains, each on its batch."""

    def values(self, function: Function, batch: Batch) -> Float[Tensor, "chains ..."]:
        """A function of every chain's model on one batch, without gradients."""
        with torch.no_grad():
            return torch.stack([function(model, batch) for model in self.state.models])


class Sequential(Engine):
    """One chain after the other, as anyone writes it. Runs everything."""

    name: ClassVar[str] = "sequential"

    def __init__(self, state: ChainState, loss: Loss, data: Batch, random: bool = False) -> None:
        super().__init__(state, loss, data)
        # A model that draws random numbers goes on from random states of its own chain.
        seeded = [torch.Generator().manual_seed(seed).get_state() for seed in state.seeds]
        self.random_states = seeded if random else []

    @classmethod
    def why_not(cls, state: ChainState, loss: Loss, batch: Batch, traits: Traits) -> str | None:
        """It can."""
        return None

    def step(self, index: Int[Tensor, "chains examples"]) -> None:
        """Forward, backward and update of each chain in turn."""
        for place, model in enumerate(self.state.models):
            with self._random_state_of(place):
                batch = take(self.data, index[place])
                loss = self.loss(model, batch).mean()
            gradients = torch.autograd.grad(loss, self.state.of_one[place], allow_unused=True, materialize_grads=True)
            self.state.update_one(place, gradients)

    @contextmanager
    def _random_state_of(self, place: int) -> Iterator[None]:
        if not self.random_states:
            yield
            return
        before = torch.get_rng_state()
        torch.set_rng_state(self.random_states[place])
        try:
            yield
            self.random_states[place] = torch.get_rng_state()
        finally:
            torch.set_rng_state(before)


class Stacked(Engine):
    """One network of batched products, for linear layers and elementwise functions."""

    name: ClassVar[str] = "stacked"

    def __init__(self, state: ChainState, loss: Loss, data: Batch) -> None:
        super().__init__(state, loss, data)
        self.model = StackedSequential(state.models[0], state.stacked)

    @classmethod
    def why_not(cls, state: ChainState, loss: Loss, batch: Batch, traits: Traits) -> str | None:
        """Another layer, or a loss that does not tell examples apart."""
        if (reason := why_not_stacked(state.models[0])) is not None:
            return reason
        if not traits.fixed:
            return "the loss draws random numbers or couples the examples of a batch"
        if not loss(state.models[0], batch).dim():
            return "the loss is a mean, which does not tell chains apart: build it with reduction='none'"
        return None

    def step(self, index: Int[Tensor, "chains examples"]) -> None:
        """All at once."""
        batch = take(self.data, index.reshape(-1))
        losses = self.loss(self.model, batch)
        total = losses.view(len(index), -1).mean(1).sum()
        leaves = self.state.leaves
        self.state.update(torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True))

    def values(self, function: Function, batch: Batch) -> Float[Tensor, "chains examples"]:
        """All at once, on a copy of the batch a chain."""
        size, chains = batch_size(batch), len(self.state)
        copies = take(batch, torch.arange(size).repeat(chains))
        with torch.no_grad():
            return function(self.model, copies).view(chains, size)


class Vmapped(Engine):
    """By `torch.func.vmap`, for any model whose layers have a batching rule."""

    name: ClassVar[str] = "vmap"

    def __init__(self, state: ChainState, loss: Loss, data: Batch) -> None:
        super().__init__(state, loss, data)
        model = state.models[0]
        self.model = model
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        chosen = {id(leaf) for leaf in state.leaves}
        fixed = {name: tensor for name, tensor in state.stacked.items() if id(tensor) not in chosen}
        buffers = {
            name: torch.stack([other.get_buffer(name) for other in state.models]) for name, _ in model.named_buffers()
        }
        self.fixed = {**fixed, **buffers}

    @classmethod
    def why_not(cls, state: ChainState, loss: Loss, batch: Batch, traits: Traits) -> str | None:
        """A layer has no batching rule, or one changes its buffers."""
        if traits.random:
            return "the loss draws random numbers, which vmap would draw otherwise"
        if traits.coupled:
            return "the loss couples the examples of a batch, by batch statistics that vmap cannot keep"
        few = min(2, len(state))  # as many as it takes to see whether it works
        alike = mapped(batch, lambda tensor: torch.stack([tensor] * few) if tensor.dim() else tensor)
        try:
            with warnings.catch_warnings():
                # Where a layer lacks a rule, torch may warn and loop over the chains inside: slower than our loop.
                warnings.filterwarnings("error", ".*batching rule.*", UserWarning)
                cls(state, loss, batch)._gradients(alike, few)
        except (RuntimeError, ValueError, NotImplementedError, UserWarning) as error:
            return str(error).partition("\n")[0].partition(" (Triggered")[0].rstrip(".")
        return None

    def step(self, index: Int[Tensor, "chains examples"]) -> None:
        """All at once."""
        taken = take(self.data, index.reshape(-1))
        batch = mapped(taken, lambda tensor: tensor.unflatten(0, index.shape) if tensor.dim() else tensor)
        gradients = self._gradients(batch, len(index))
        self.state.update([gradients[name] for name in self.names])

    def _gradients(self, batch: Batch, chains: int) -> dict[str, Tensor]:
        def loss_of_one(leaves: dict[str, Tensor], fixed: dict[str, Tensor], part: Batch) -> Tensor:
            return self._called(self.loss, {**leaves, **fixed}, part).mean()

        axes = (0, 0, example_axes(batch))
        leaves = {name: leaf.detach()[:chains] for name, leaf in zip(self.names, self.state.leaves, strict=True)}
        fixed = {name: tensor[:chains] for name, tensor in self.fixed.items()}
        gradients: dict[str, Tensor] = vmap(grad(loss_of_one), in_dims=axes)(leaves, fixed, batch)
        return gradients

    def _called(self, function: Function, named: dict[str, Tensor], batch: Batch) -> Tensor:
        placed = {f"model.{name}": tensor for name, tensor in named.items()}
        value: Tensor = functional_call(_Function(self.model, function), placed, (batch,))
        return value


class _Function(nn.Module):
    """A function of a model as the forward of a module, so that torch can put other parameters in place."""

    def __init__(self, model: nn.Module, function: Function) -> None:
        super().__init__()
        self.model = model
        self._function = (function,)

    def forward(self, batch: Batch) -> Tensor:
        return self._function[0](self.model, batch)


ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in (Stacked, Vmapped, Sequential)}
