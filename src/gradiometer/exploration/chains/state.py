"""The state of M independent runs: their parameters in one tensor each, and the update of all or of one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.exploration.samplers.heat import Heat

MEMORY, BURN_IN = 1000, 1000
"""As of a sampler: steps the own heat is averaged over, and steps before it may refuse."""


@dataclass
class ChainState:
    """M models whose parameters are the rows of stacked tensors, so that all and one are updated in the same memory.

    Args:
        models: Of one architecture; their parameters are moved into the stack.
        rates: η of each chain.
        temperatures: T of each chain in posterior units; 0 for SGD, above it SGLD that holds it.
        momentum: μ of SGD's heavy ball, for all.
        weight_decay: λ, for all.
        examples: N.
        seeds: Of each chain's noise.
    """

    models: Sequence[nn.Module]
    rates: Sequence[float]
    temperatures: Sequence[float]
    momentum: float
    weight_decay: float
    examples: int
    seeds: Sequence[int]
    stacked: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.stacked = _stack(self.models)
        trainable = [name for name, p in self.models[0].named_parameters() if p.requires_grad]
        self.leaves = [self.stacked[name].requires_grad_() for name in trainable]
        self.velocities = [torch.zeros_like(leaf) for leaf in self.leaves] if self.momentum else []
        self.of_one = [[model.get_parameter(name) for name in trainable] for model in self.models]
        self.rows = [[leaf.detach()[place] for leaf in self.leaves] for place in range(len(self.models))]
        self.velocity_rows = [[v[place] for v in self.velocities] for place in range(len(self.models))]
        like = self.leaves[0]
        self.dimension = sum(row.numel() for row in self.rows[0])
        self.heats = [Heat(MEMORY) for _ in self.models]
        self.generators = [torch.Generator(like.device).manual_seed(seed) for seed in self.seeds]
        self._rates = torch.tensor(self.rates, dtype=like.dtype, device=like.device)
        self._same_rate = self.rates[0] if len(set(self.rates)) == 1 else None
        self.hot = [place for place, temperature in enumerate(self.temperatures) if temperature > 0]
        # Noise of the chains that are cold stays zero.
        self._noise = like.new_zeros((len(self.models), self.dimension if self.hot else 0))

    def __len__(self) -> int:
        return len(self.models)

    def update(self, gradients: Sequence[Tensor]) -> None:
        """A step of all chains, from stacked gradients."""
        with torch.no_grad():
            steps = self._with_decay(list(gradients), self.leaves)
            noise = self._noise_of_all(steps) if self.hot else []
            if self.momentum:
                torch._foreach_mul_(self.velocities, self.momentum)
                torch._foreach_add_(self.velocities, steps)
                steps = self.velocities
            if self._same_rate is not None:
                torch._foreach_add_(self.leaves, steps, alpha=-self._same_rate)
            else:
                torch._foreach_sub_(self.leaves, [_per_chain(self._rates, step) * step for step in steps])
            if noise:
                torch._foreach_add_(self.leaves, noise)

    def update_one(self, place: int, gradients: Sequence[Tensor]) -> None:
        """A step of one chain."""
        rows, rate = self.rows[place], self.rates[place]
        with torch.no_grad():
            steps = self._with_decay(list(gradients), rows)
            scale = 0.0
            if self.temperatures[place] > 0:
                norms = torch.stack(torch._foreach_norm(steps))
                scale = self._noise_scale(place, float(norms @ norms))
            if self.momentum:
                velocities = self.velocity_rows[place]
                torch._foreach_mul_(velocities, self.momentum)
                torch._foreach_add_(velocities, steps)
                steps = velocities
            torch._foreach_add_(rows, steps, alpha=-rate)
            if self.temperatures[place] > 0:
                torch._foreach_add_(rows, self._pieces(self._drawn(place, scale)))

    def _with_decay(self, gradients: list[Tensor], params: list[Tensor]) -> list[Tensor]:
        if not self.weight_decay:
            return gradients
        return list(torch._foreach_add(gradients, params, alpha=self.weight_decay))

    def _noise_of_all(self, gradients: list[Tensor]) -> list[Tensor]:
        """What is added to every chain, scaled."""
        squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0).tolist()
        for place in self.hot:
            self._drawn(place, self._noise_scale(place, squares[place]))
        sizes = [row.numel() for row in self.rows[0]]
        pieces = self._noise.split(sizes, dim=1)
        return [piece.view(leaf.shape) for piece, leaf in zip(pieces, self.leaves, strict=True)]

    def _drawn(self, place: int, scale: float) -> Float[Tensor, " params"]:
        """New noise of one chain, in its row."""
        return self._noise[place].normal_(std=scale, generator=self.generators[place])

    def _pieces(self, flat: Float[Tensor, " params"]) -> list[Tensor]:
        rows = self.rows[0]
        return [piece.view(row.shape) for piece, row in zip(flat.split([r.numel() for r in rows]), rows, strict=True)]

    def _noise_scale(self, place: int, squared_gradient: float) -> float:
        """√(2ηT'/N), with T' = T less the own heat, as SGLD has it."""
        rate, temperature, heat = self.rates[place], self.temperatures[place], self.heats[place]
        judge = heat.add(self.examples * squared_gradient / (2 * self.dimension), rate)
        if judge and heat.readings > BURN_IN and heat.above(temperature):
            raise BadArgument(
                f"`temperature` {temperature:g} cannot be held by the chain of seed {self.seeds[place]}: SGD by itself "
                f"heats to {heat.estimate()} at a learning rate of {rate:g}; take one below "
                f"{rate * temperature / heat.estimate().value:.3g}, or a larger batch."
            )
        return math.sqrt(2 * rate * max(temperature - heat.temperature, 0.0) / self.examples)


def _stack(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """All parameters by every name they have, stacked; the models' own become rows of the stack."""
    stacked: dict[str, Tensor] = {}
    of: dict[int, Tensor] = {}
    for name, parameter in models[0].named_parameters(remove_duplicate=False):
        if id(parameter) not in of:
            of[id(parameter)] = torch.stack([model.get_parameter(name).detach() for model in models])
            for row, model in zip(of[id(parameter)], models, strict=True):
                model.get_parameter(name).data = row
        stacked[name] = of[id(parameter)]
    return stacked


def _per_chain(values: Float[Tensor, " chains"], like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))
