"""Models whose loss has a closed form."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.measurement.batch import Batch


class Predictor(nn.Module):
    """xᵀΦ, with Φ drawn from the prior N(0, I/τ), in double precision, as the parameter of this
    name."""

    def __init__(self, name: str, size: int, precision: float) -> None:
        super().__init__()
        self.register_parameter(
            name, nn.Parameter(torch.randn(size, dtype=torch.float64) / math.sqrt(precision))
        )

    def forward(self, inputs: Float[Tensor, "examples params"]) -> Float[Tensor, " examples"]:
        """The prediction of every example."""
        (weights,) = self.parameters()
        return inputs @ weights


def output_losses(model: nn.Module, batch: Batch) -> Float[Tensor, " examples"]:
    """The loss of a model whose output is the loss of each example."""
    losses: Tensor = model(batch)
    return losses
