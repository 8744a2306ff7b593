"""The state of M independent chains of a sampler: their parameters in one tensor each, their
update, their draws."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.exploration.samplers.sampler import Sampler
from gradiometer.measurement.batch import Batch
from gradiometer.measurement.untouched import in_eval_mode
from gradiometer.randomness import untouched_randomness

Function = Callable[[nn.Module, Batch], Tensor]
"""A function of a model and a batch. It returns one number per example, or their mean."""


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
        self.stacked = _stack(self.models)
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


class DrawRecorder:
    """Records functions of every chain's model during the run, in eval mode.

    Args:
        functions: For every name, a function of (model, batch) and the batch.
    """

    def __init__(self, functions: Mapping[str, tuple[Function, Batch]]) -> None:
        self.functions = functions
        self._draws: dict[str, list[np.ndarray]] = {name: [] for name in functions}

    @torch.no_grad()
    def look(self, models: Sequence[nn.Module]) -> None:
        """One draw of each function."""
        with in_eval_mode(*models):
            for name, (function, batch) in self.functions.items():
                values = torch.stack([function(model, batch).double() for model in models])
                self._draws[name].append(values.reshape(len(models), -1).mean(1).cpu().numpy())

    def draws(self) -> dict[str, Float[np.ndarray, "draws chains"]]:
        """All draws, by function."""
        return {name: np.stack(values) for name, values in self._draws.items() if values}


def make_models(make: Callable[[], nn.Module], seeds: Sequence[int]) -> list[nn.Module]:
    """A new model for each seed, made from torch's global random numbers."""
    models = []
    for seed in seeds:
        with untouched_randomness(seed, []):
            models.append(make())
    if len({id(model) for model in models}) < len(models):
        raise BadArgument(
            "`model` must make a new model each time, got the same one twice: write model=lambda: "
            "...."
        )
    return models


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters of a model."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _stack(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """All parameters, stacked, under every name they have. The models' parameters become rows of
    the stack."""
    stacked: dict[str, Tensor] = {}
    of: dict[int, Tensor] = {}
    for name, parameter in models[0].named_parameters(remove_duplicate=False):
        if id(parameter) not in of:
            of[id(parameter)] = torch.stack(
                [model.get_parameter(name).detach() for model in models]
            )
            for row, model in zip(of[id(parameter)], models, strict=True):
                model.get_parameter(name).data = row
        stacked[name] = of[id(parameter)]
    return stacked
