"""Two ways to compute the gradients of M independent chains, with the same result up to rounding,
and the state that they advance."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import Batch, batch_size, take
from gradiometer.measurement.objective import Loss, Traits
from gradiometer.measurement.untouched import in_eval_mode
from gradiometer.randomness import untouched_randomness
from gradiometer_lab.samplers.sampler import Sampler

# A function of a model and a batch. It returns one number per example, or their mean.
Function = Callable[[nn.Module, Batch], Tensor]


@dataclass
class ChainState:
    """M models whose parameters are the rows of stacked tensors, with one sampler each.

    Args:
        models: Models of one architecture. Their parameters become views of the stack.
        seeds: Seed of each chain.
        samplers: The sampler of each model's trainable parameters.
        before_step: Called with the position of the chain, and its gradients, before every step.
    """

    models: Sequence[nn.Module]
    seeds: Sequence[int]
    samplers: Sequence[Sampler]
    before_step: Callable[[int, Sequence[Tensor]], None] | None = None

    def __post_init__(self) -> None:
        # All parameters, under every name they have, and the models' parameters as rows of them.
        self.stacked = dict[str, Tensor]()
        stack_of = dict[int, Tensor]()
        # A shared parameter has several names, and must stay one tensor.
        for name, parameter in self.models[0].named_parameters(remove_duplicate=False):
            if id(parameter) not in stack_of:
                own = [model.get_parameter(name) for model in self.models]
                stack_of[id(parameter)] = torch.stack([each.detach() for each in own])
                for row, each in zip(stack_of[id(parameter)], own, strict=True):
                    each.data = row
            self.stacked[name] = stack_of[id(parameter)]
        names = [
            name for name, parameter in self.models[0].named_parameters() if parameter.requires_grad
        ]
        self.leaves = [self.stacked[name].requires_grad_() for name in names]
        self.of_one = [[model.get_parameter(name) for name in names] for model in self.models]

    def __len__(self) -> int:
        return len(self.models)

    def update(self, place: int, gradients: Sequence[Tensor]) -> None:
        """One step of one chain."""
        for parameter, gradient in zip(self.of_one[place], gradients, strict=True):
            parameter.grad = gradient
        if self.before_step is not None:
            self.before_step(place, gradients)
        self.samplers[place].advance()


@torch.no_grad()
def chain_means(
    models: Sequence[nn.Module], function: Function, batch: Batch
) -> Float[np.ndarray, " chains"]:
    """The mean of a function over a batch for every chain's model, in eval mode."""
    with in_eval_mode(*models):
        values = torch.stack([function(model, batch).double() for model in models])
    return values.reshape(len(models), -1).mean(1).cpu().numpy()


def make_models(make: Callable[[], nn.Module], seeds: Sequence[int]) -> list[nn.Module]:
    """A new model for each seed, made from torch's global random numbers."""
    models = []
    for seed in seeds:
        with untouched_randomness(seed, []):
            models.append(make())
    # One model for all seeds would be trained by all chains at once.
    if len({id(model) for model in models}) < len(models):
        raise BadArgument(
            "`model` must make a new model each time, got the same one twice: write model=lambda: "
            "...."
        )
    return models


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters of a model."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


# Layers that treat every number, and so every chain, in the same way.
ELEMENTWISE = (
    nn.ReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.LeakyReLU,
    nn.Softplus,
    nn.Identity,
)

Layer = Callable[
    [Float[Tensor, "chains examples features"]], Float[Tensor, "chains examples features"]
]


class OnlyCalled(Exception):
    """A loss or a function has asked a stacked network for more than its outputs."""


class StackedSequential(nn.Module):
    """M networks of linear layers and elementwise functions, called with M batches one after the
    other.

    Takes the examples of all chains along the first axis, [chains · examples, ...], and returns the
    outputs in the same order. So any per-example loss that calls the model works without change. It
    has no parameters or parts to look at: a loss that reads them, such as one with a penalty of its
    own, gets `OnlyCalled` and not an empty list.

    Args:
        model: One of the networks: an `nn.Sequential`, nested or not.
        stacked: Parameters of all networks by name, [chains, *parameter].

    Source: the batched product: torch.baddbmm; the idea: `torch.func.stack_module_state`, without
    its vmap.
    """

    def __init__(self, model: nn.Module, stacked: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._chains = len(next(iter(stacked.values())))
        self._layers = list(_layers(model, stacked))

    def forward(self, inputs: Float[Tensor, "all ..."]) -> Float[Tensor, "all ..."]:
        """The output for every example by the network of its chain."""
        hidden = inputs.unflatten(0, (self._chains, -1))
        for layer in self._layers:
            hidden = layer(hidden)
        return torch.flatten(hidden, 0, 1)

    def __getattr__(self, name: str) -> Any:
        raise OnlyCalled(name)

    def named_modules(self, *_: Any, **__: Any) -> Any:
        """A loss that asks for parts gets an error, and not an empty list."""
        raise OnlyCalled("the parameters or parts of the model")

    named_children = state_dict = named_modules


def is_stackable(model: nn.Module) -> bool:
    """True if every part of a model has a batched form here."""
    for _, module in _leaves(model):
        # A subclass may do anything in its forward, and a Flatten may keep some axes.
        linear = type(module) is nn.Linear and not module._forward_pre_hooks
        if type(module) is nn.Flatten:
            linear = (module.start_dim, module.end_dim) == (1, -1)
        elementwise = isinstance(module, ELEMENTWISE) and not any(True for _ in module.parameters())
        if not (linear or elementwise):
            return False
    return not any(module._forward_hooks for module in model.modules())


def _leaves(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers with their names, in the order of the calls."""
    if type(model) is not nn.Sequential:
        yield prefix, model
        return
    for name, module in model.named_children():
        yield from _leaves(module, f"{prefix}.{name}".lstrip("."))


def _layers(model: nn.Module, stacked: Mapping[str, Tensor]) -> Iterator[Layer]:
    for name, module in _leaves(model):
        weight, bias = (stacked.get(f"{name}.{part}".lstrip(".")) for part in ("weight", "bias"))
        if weight is None:
            yield nn.Flatten(2) if isinstance(module, nn.Flatten) else module
        elif bias is None:
            yield partial(torch.bmm, mat2=weight.transpose(1, 2))
        else:
            yield partial(torch.baddbmm, bias.unsqueeze(1), batch2=weight.transpose(1, 2))


# The training examples at these positions, as a batch.
BatchAt = Callable[[Int[Tensor, " chosen"]], Batch]


@dataclass
class Engine(ABC):
    """Computes gradients of all chains."""

    state: ChainState
    loss: Loss
    batch_at: BatchAt
    traits: Traits

    @abstractmethod
    def gradients(self, index: Int[Tensor, "chains examples"]) -> Sequence[Tensor]:
        """The gradients of all chains, each on its own batch: [chains, *parameter] for every
        parameter."""

    @abstractmethod
    def step(self, index: Int[Tensor, "chains examples"]) -> None:
        """One step of all chains, each on its own batch."""


class Sequential(Engine):
    """One chain after the other. Runs every model."""

    @cached_property
    def random_states(self) -> list[Tensor]:
        """The state of the generator of each chain."""
        return [torch.Generator().manual_seed(seed).get_state() for seed in self.state.seeds]

    def gradients(self, index: Int[Tensor, "chains examples"]) -> Sequence[Tensor]:
        """Forward and backward of each chain in turn."""
        columns = zip(*map(self._gradient, range(len(index)), index), strict=True)
        return [torch.stack(column) for column in columns]

    def step(self, index: Int[Tensor, "chains examples"]) -> None:
        """Forward, backward and update of each chain in turn, with the gradients of one chain at a
        time in memory."""
        for place, chosen in enumerate(index):
            self.state.update(place, self._gradient(place, chosen))

    def _gradient(self, place: int, chosen: Int[Tensor, " examples"]) -> Sequence[Tensor]:
        if self.traits.random:
            # A model that draws random numbers draws them from its chain's own generator.
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(self.random_states[place])
                loss = self.loss(self.state.models[place], self.batch_at(chosen)).mean()
                self.random_states[place] = torch.get_rng_state()
        else:
            loss = self.loss(self.state.models[place], self.batch_at(chosen)).mean()
        return torch.autograd.grad(
            loss, self.state.of_one[place], allow_unused=True, materialize_grads=True
        )


class Stacked(Engine):
    """One network of batched products, for linear layers and elementwise functions."""

    @cached_property
    def model(self) -> StackedSequential:
        """The network of all chains."""
        return StackedSequential(self.state.models[0], self.state.stacked)

    @classmethod
    def can_run(cls, state: ChainState, loss: Loss, batch: Batch, traits: Traits) -> bool:
        """False if the model has another layer, or the loss has no value per example, or looks into
        the model."""
        if not (
            is_stackable(state.models[0]) and traits.fixed and loss(state.models[0], batch).dim()
        ):
            return False
        # Only a call shows if the loss looks into the model.
        copies = take(batch, torch.arange(batch_size(batch)).repeat(len(state)))
        try:
            loss(StackedSequential(state.models[0], state.stacked), copies)
        except OnlyCalled:
            return False
        return True

    def gradients(self, index: Int[Tensor, "chains examples"]) -> Sequence[Tensor]:
        """One forward and backward for all chains."""
        # The batches of all chains lie one after the other, so the loss is called once.
        losses = self.loss(self.model, self.batch_at(index.reshape(-1)))
        return torch.autograd.grad(
            losses.view(len(index), -1).mean(1).sum(),
            self.state.leaves,
            allow_unused=True,
            materialize_grads=True,
        )

    def step(self, index: Int[Tensor, "chains examples"]) -> None:
        """One forward and backward for all chains, and the update of each."""
        gradients = self.gradients(index)
        for place in range(len(index)):
            self.state.update(place, [gradient[place] for gradient in gradients])


def faster_engine(
    state: ChainState, loss: Loss, batch_at: BatchAt, batch: Batch, traits: Traits
) -> Engine:
    """`Stacked` for a small network that it can run, else `Sequential`.

    It depends on the model only, so that the same seeds give the same bits.
    """
    # With 25,450 parameters and fewer `Stacked` was 0.9 to 3.6 times as fast as the loop; with
    # 101,770 the loop was 1.1 to 1.4 times as fast (benchmarks/results/chains.md).
    small = sum(leaf[0].numel() for leaf in state.leaves) <= 50_000
    if small and Stacked.can_run(state, loss, batch, traits):
        return Stacked(state, loss, batch_at, traits)
    return Sequential(state, loss, batch_at, traits)
