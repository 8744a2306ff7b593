"""SWA and SWAG: the mean of the weights of several models, their variance, and models drawn from
this Gaussian."""

import copy
import math
from collections import deque

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from gradiometer.errors import BadArgument
from gradiometer.measurement.gradient_graph import flat


class SWAG:
    """Mean, variance and last deviations of the weights of a stream of models, in one pass.

    The mean is stochastic weight averaging (torch's `AveragedModel`). Mean, diagonal variance and
    deviations are the Gaussian of SWAG. With the snapshots of a run they cost no training.
    BatchNorm's statistics are those of the first
    model: re-estimate them with `refresh_batch_norm` before you use the average or a drawn model.

    This describes one basin. The average of models from different basins lies on the barrier
    between them, and the Gaussian does not cover the posterior outside of the region that SGD
    visited.

    Args:
        model: A model of the stream's architecture. It is not changed.
        rank: Number of last deviations that are kept.

    Example:
        >>> import torch
        >>> from gradiometer.exploration.ensembles import SWAG
        >>> swag = SWAG(torch.nn.Linear(1, 1, bias=False))
        >>> for weight in (1.0, 2.0, 3.0):
        ...     model = torch.nn.Linear(1, 1, bias=False)
        ...     _ = torch.nn.init.constant_(model.weight, weight)
        ...     swag.update(model)
        >>> swag.mean.tolist(), swag.variance.tolist()
        ([2.0], [0.6666666666666666])

    Source: Izmailov et al. (2018), Averaging Weights Leads to Wider Optima; Maddox et al. (2019), A
    Simple Baseline for Bayesian Uncertainty in Deep Learning, algorithm 1.
    """

    def __init__(self, model: nn.Module, rank: int = 20) -> None:
        if not rank >= 2:
            raise BadArgument(
                f"`rank` must be at least 2, got {rank}: one deviation has no variance."
            )
        self.average = AveragedModel(model)
        self.models = 0
        size = sum(parameter.numel() for parameter in model.parameters())
        self._mean = torch.zeros(size, dtype=torch.float64)
        self._squares = torch.zeros(size, dtype=torch.float64)
        self._deviations: deque[Tensor] = deque(maxlen=rank)

    def update(self, model: nn.Module) -> None:
        """Add one more model."""
        self.average.update_parameters(model)
        self.models += 1
        weights = flat(parameter.detach().double().cpu() for parameter in model.parameters())
        before = weights - self._mean
        self._mean += before / self.models
        # Welford: no difference of two large numbers
        self._squares += before * (weights - self._mean)
        self._deviations.append(weights - self._mean)

    @property
    def mean(self) -> Float[Tensor, " params"]:
        """Mean of each weight."""
        return self._mean.clone()

    @property
    def variance(self) -> Float[Tensor, " params"]:
        """Variance of each weight, divided by the number of models as in SWAG."""
        return self._squares / max(self.models, 1)

    def draw(self, generator: torch.Generator, scale: float = 1.0) -> nn.Module:
        """Draw a model from the Gaussian: θ̄ + √scale (Σ_diag^½ z₁ + D z₂/√(K − 1))/√2.

        Args:
            generator: Generator of the random numbers z₁ and z₂.
            scale: Factor of the covariance; 0 gives the average.

        Raises:
            BadArgument: There were fewer than two models.
        """
        if not self.models >= 2:
            raise BadArgument(
                f"`draw` needs at least 2 models, got {self.models}: call `update` with more."
            )
        if not 0 <= scale < math.inf:
            raise BadArgument(f"`scale` must be at least 0 and finite, got {scale}.")
        deviations = torch.stack(list(self._deviations))
        diagonal = torch.randn(len(self._mean), dtype=torch.float64, generator=generator)
        low_rank = torch.randn(len(deviations), dtype=torch.float64, generator=generator)
        noise = self.variance.sqrt() * diagonal
        if len(deviations) > 1:
            noise += low_rank @ deviations / math.sqrt(len(deviations) - 1)
        drawn = copy.deepcopy(self.average.module)
        parameters = list(drawn.parameters())
        weights = (self._mean + math.sqrt(scale / 2) * noise).split([p.numel() for p in parameters])
        with torch.no_grad():
            for parameter, values in zip(parameters, weights, strict=True):
                parameter.copy_(values.reshape(parameter.shape))
        return drawn
