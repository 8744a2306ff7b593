"""SWA and SWAG: the mean of a stream of weights, their spread, and models drawn from it."""

import copy
import math
from collections import deque

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from gradiometer.errors import BadArgument


class WeightMoments:
    """Mean, variance and last deviations of the weights of a stream of models, in one pass.

    The mean is stochastic weight averaging (torch's own `AveragedModel`); mean, diagonal variance and the deviations
    are the Gaussian of SWAG. Fed with the snapshots of a run they cost no training. BatchNorm's statistics are those of
    the first model: re-estimate them with `refresh_batch_norm` before the average or a draw is used.

    A description of one basin: the average of models from different basins is a point on the hill between them, and
    the Gaussian knows nothing of the posterior outside of what SGD visited.

    Args:
        model: Of the architecture of the stream; it is not changed.
        rank: How many of the last deviations are kept.

    Source: Izmailov et al. (2018), Averaging Weights Leads to Wider Optima; Maddox et al. (2019), A Simple Baseline for
    Bayesian Uncertainty in Deep Learning, algorithm 1.
    """

    def __init__(self, model: nn.Module, rank: int = 20) -> None:
        if not rank >= 2:
            raise BadArgument(f"`rank` must be at least 2, got {rank}: one deviation has no spread.")
        self.average = AveragedModel(model)
        self.models = 0
        size = sum(parameter.numel() for parameter in model.parameters())
        self._mean = torch.zeros(size, dtype=torch.float64)
        self._squares = torch.zeros(size, dtype=torch.float64)
        self._deviations: deque[Tensor] = deque(maxlen=rank)

    def update(self, model: nn.Module) -> None:
        """Take in one more model."""
        self.average.update_parameters(model)
        self.models += 1
        weights = _weights(model)
        before = weights - self._mean
        self._mean += before / self.models
        self._squares += before * (weights - self._mean)  # Welford: no difference of two large numbers
        self._deviations.append(weights - self._mean)

    @property
    def mean(self) -> Float[Tensor, " params"]:
        """The average of the weights."""
        return self._mean.clone()

    @property
    def variance(self) -> Float[Tensor, " params"]:
        """Of each weight over the stream, as SWAG has it: divided by the number of models."""
        return self._squares / max(self.models, 1)

    def draw(self, generator: torch.Generator, scale: float = 1.0) -> nn.Module:
        """A model drawn from the Gaussian: θ̄ + √scale (Σ_diag^½ z₁ + D z₂/√(K − 1))/√2.

        Args:
            generator: Of the random numbers z₁ and z₂.
            scale: Of the covariance; 0 gives the average.

        Raises:
            BadArgument: Fewer than two models have been taken in.
        """
        if not self.models >= 2:
            raise BadArgument(f"`draw` needs at least 2 models in the stream, got {self.models}.")
        if not 0 <= scale < math.inf:
            raise BadArgument(f"`scale` must be at least 0 and finite, got {scale}.")
        deviations = torch.stack(list(self._deviations))
        diagonal = torch.randn(len(self._mean), dtype=torch.float64, generator=generator)
        low_rank = torch.randn(len(deviations), dtype=torch.float64, generator=generator)
        noise = self.variance.sqrt() * diagonal
        if len(deviations) > 1:
            noise += low_rank @ deviations / math.sqrt(len(deviations) - 1)
        drawn = copy.deepcopy(self.average.module)
        _put(drawn, self._mean + math.sqrt(scale / 2) * noise)
        return drawn


def _weights(model: nn.Module) -> Float[Tensor, " params"]:
    return torch.cat([parameter.detach().reshape(-1).double().cpu() for parameter in model.parameters()])


def _put(model: nn.Module, weights: Float[Tensor, " params"]) -> None:
    parameters = list(model.parameters())
    with torch.no_grad():
        for parameter, values in zip(parameters, weights.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(values.reshape(parameter.shape))
