"""The state of M independent runs: their parameters in one tensor each, and the update of all runs or of one."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.exploration.samplers.heat import Heat
from gradiometer.exploration.samplers.sampler import squared_norm
from gradiometer.measurement.batch import Batch

Function = Callable[[nn.Module, Batch], Tensor]
"""A function of a model and a batch. It returns one number per example, or their mean."""

MEMORY, BURN_IN = 1000, 1000
"""As in a sampler: steps over which SGD's own heat is averaged, and steps before a run may be refused."""


@dataclass
class StackedModels(ABC):
    """M models whose parameters are the rows of stacked tensors, so that updates of all and of one share memory.

    Args:
        models: Models of one architecture. Their parameters become views of the stack.
        seeds: Seed of each chain's noise.
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
class ChainState(StackedModels):
    """Chains of SGD, and of SGLD at a temperature, updated together.

    Args:
        rates: η of each chain.
        temperatures: T of each chain in posterior units: 0 for SGD, positive for SGLD at this temperature.
        momentum: μ of SGD's heavy ball, for all chains.
        weight_decay: λ, for all chains.
        examples: N.
    """

    rates: Sequence[float]
    temperatures: Sequence[float]
    momentum: float
    weight_decay: float
    examples: int

    def __post_init__(self) -> None:
        super().__post_init__()
        like, count = self.leaves[0], len(self.models)
        self.velocities = [torch.zeros_like(leaf) for leaf in self.leaves] if self.momentum else []
        self.rows = [[leaf.detach()[place] for leaf in self.leaves] for place in range(count)]
        self.velocity_rows = [[v[place] for v in self.velocities] for place in range(count)]
        self.dimension = sum(row.numel() for row in self.rows[0])
        self.heats = [Heat(MEMORY) for _ in self.models]
        self.generators = [torch.Generator(like.device).manual_seed(seed) for seed in self.seeds]
        self._rates = torch.tensor(self.rates, dtype=like.dtype, device=like.device)
        self._same_rate = self.rates[0] if len(set(self.rates)) == 1 else None
        self.hot = [place for place, temperature in enumerate(self.temperatures) if temperature > 0]
        # The noise of chains at temperature 0 stays zero.
        self._noise = like.new_zeros((count, self.dimension if self.hot else 0))

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor]) -> None:
        """One step of all chains, from stacked gradients."""
        steps = self._with_decay(gradients, self.leaves)
        if self.hot:
            squares = torch.stack([step.flatten(1).square().sum(1) for step in steps]).sum(0).tolist()
            for place in self.hot:
                self._draw_noise(place, squares[place])
        steps = self._with_momentum(steps, self.velocities)
        if self._same_rate is not None:
            torch._foreach_add_(self.leaves, steps, alpha=-self._same_rate)
        else:
            rates = [self._rates.view(-1, *[1] * (step.dim() - 1)) for step in steps]
            torch._foreach_sub_(self.leaves, torch._foreach_mul(rates, steps))
        if self.hot:
            torch._foreach_add_(self.leaves, self._pieces(self._noise))

    @torch.no_grad()
    def update_one(self, place: int, gradients: Sequence[Tensor]) -> None:
        """One step of one chain."""
        rows = self.rows[place]
        steps = self._with_decay(gradients, rows)
        if place in self.hot:
            self._draw_noise(place, squared_norm(steps))
        steps = self._with_momentum(steps, self.velocity_rows[place])
        torch._foreach_add_(rows, steps, alpha=-self.rates[place])
        if place in self.hot:
            torch._foreach_add_(rows, self._pieces(self._noise[place]))

    def _with_decay(self, gradients: Sequence[Tensor], params: list[Tensor]) -> list[Tensor]:
        if not self.weight_decay:
            return list(gradients)
        return list(torch._foreach_add(list(gradients), params, alpha=self.weight_decay))

    def _with_momentum(self, steps: list[Tensor], velocities: list[Tensor]) -> list[Tensor]:
        if not self.momentum:
            return steps
        torch._foreach_mul_(velocities, self.momentum)
        torch._foreach_add_(velocities, steps)
        return velocities

    def _pieces(self, flat: Float[Tensor, "*chains params"]) -> list[Tensor]:
        """A flat row, or one per chain, in the shapes of the parameters."""
        parts = flat.split([row.numel() for row in self.rows[0]], dim=-1)
        return [part.view((*flat.shape[:-1], *row.shape)) for part, row in zip(parts, self.rows[0], strict=True)]

    def _draw_noise(self, place: int, squared_gradient: float) -> None:
        """Fill one chain's noise with standard deviation √(2ηT'/N), T' = T less SGD's own heat, as in SGLD."""
        rate, temperature, heat = self.rates[place], self.temperatures[place], self.heats[place]
        judge = heat.add(self.examples * squared_gradient / (2 * self.dimension), rate)
        if judge and heat.readings > BURN_IN and heat.above(temperature):
            own = heat.estimate()
            raise BadArgument(
                f"`temperature` {temperature:g} is too low for the chain of seed {self.seeds[place]}: SGD alone heats "
                f"to {own} at a learning rate of {rate:g}. Use a learning rate below "
                f"{rate * temperature / own.value:.3g}, or a larger batch."
            )
        scale = math.sqrt(2 * rate * max(temperature - heat.temperature, 0.0) / self.examples)
        self._noise[place].normal_(std=scale, generator=self.generators[place])


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
