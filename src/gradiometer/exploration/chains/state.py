"""The state of M independent runs: their parameters in one tensor each, and the update of all runs or of one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.exploration.samplers.sampler import Sampler
from gradiometer.measurement.batch import Batch

Function = Callable[[nn.Module, Batch], Tensor]
"""A function of a model and a batch. It returns one number per example, or their mean."""


@dataclass
class StackedModels(ABC):
    """M models whose parameters are the rows of stacked tensors, so that updates of all and of one share memory.

    Args:
        models: Models of one architecture. Their parameters become views of the stack.
        seeds: Seed of each chain.
    """

    models: Sequence[nn.Module]
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        self.stacked = _stack(self.models)
        trainable = [name for name, p in self.models[0].named_parameters() if p.requires_grad]
        self.leaves = [self.stacked[name].requires_grad_() for name in trainable]
        self.of_one = [[model.get_parameter(name) for name in trainable] for model in self.models]

    def __len__(self) -> int:
        return len(self.models)

    def values(self, function: Function, batch: Batch) -> Float[Tensor, "chains ..."]:
        """A function of every chain's model on one batch, without gradients."""
        with torch.no_grad():
            return torch.stack([function(model, batch).double() for model in self.models])

    def update(self, gradients: Sequence[Tensor]) -> None:
        """One step of all chains, from stacked gradients."""
        for place in range(len(self)):
            self.update_one(place, [gradient[place] for gradient in gradients])

    @abstractmethod
    def update_one(self, place: int, gradients: Sequence[Tensor]) -> None:
        """One step of one chain."""


@dataclass
class SGDChains(StackedModels):
    """Chains of SGD, updated together.

    Args:
        rates: η of each chain.
        momentum: μ of the heavy ball, for all chains.
        weight_decay: λ, for all chains.
    """

    rates: Sequence[float]
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.velocities = [torch.zeros_like(leaf) for leaf in self.leaves] if self.momentum else []
        self._rates = torch.tensor(self.rates, dtype=self.leaves[0].dtype, device=self.leaves[0].device)

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor]) -> None:
        """One step of all chains, from stacked gradients."""
        steps = self._steps(gradients, self.leaves, self.velocities)
        if len(set(self.rates)) == 1:
            torch._foreach_add_(self.leaves, steps, alpha=-self.rates[0])
        else:
            rates = [self._rates.view(-1, *[1] * (step.dim() - 1)) for step in steps]
            torch._foreach_sub_(self.leaves, torch._foreach_mul(rates, steps))

    @torch.no_grad()
    def update_one(self, place: int, gradients: Sequence[Tensor]) -> None:
        """One step of one chain."""
        params: list[Tensor] = list(self.of_one[place])
        steps = self._steps(gradients, params, [velocity[place] for velocity in self.velocities])
        torch._foreach_add_(params, steps, alpha=-self.rates[place])

    def _steps(self, gradients: Sequence[Tensor], params: list[Tensor], velocities: list[Tensor]) -> list[Tensor]:
        """The gradients with weight decay and momentum."""
        steps = list(gradients)
        if self.weight_decay:
            steps = list(torch._foreach_add(steps, params, alpha=self.weight_decay))
        if not self.momentum:
            return steps
        torch._foreach_mul_(velocities, self.momentum)
        torch._foreach_add_(velocities, steps)
        return velocities


@dataclass
class SampledChains(StackedModels):
    """Chains with one sampler each.

    Args:
        samplers: The sampler of each model's trainable parameters.
        before_step: Called with the position of the chain, and its gradients, before every step.
    """

    samplers: Sequence[Sampler]
    before_step: Callable[[int, Sequence[Tensor]], None] | None = None

    def update_one(self, place: int, gradients: Sequence[Tensor]) -> None:
        """One step of one chain."""
        for parameter, gradient in zip(self.of_one[place], gradients, strict=True):
            parameter.grad = gradient
        if self.before_step is not None:
            self.before_step(place, gradients)
        self.samplers[place].advance()


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters of a model."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _stack(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """All parameters, stacked, under every name they have. The models' parameters become rows of the stack."""
    stacked: dict[str, Tensor] = {}
    of: dict[int, Tensor] = {}
    for name, parameter in models[0].named_parameters(remove_duplicate=False):
        if id(parameter) not in of:
            of[id(parameter)] = torch.stack([model.get_parameter(name).detach() for model in models])
            for row, model in zip(of[id(parameter)], models, strict=True):
                model.get_parameter(name).data = row
        stacked[name] = of[id(parameter)]
    return stacked
