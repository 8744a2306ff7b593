"""Loss functions: their signature, checks of what they return, and the usual one for (input,
target) batches."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from gradiometer.errors import UserCodeFailed
from gradiometer.measurement.batch import Batch, batch_size

# Called as `loss(model, batch)`. Returns one value per example, shape [examples], or their mean,
# shape [].
Loss = Callable[[nn.Module, Batch], Tensor]


def checked_loss(value: Any, batch: Batch) -> Tensor:
    """The value that a loss returned for this batch, if it is a mean or one value per example.

    Raises:
        UserCodeFailed: The value is not a floating-point tensor, or has another shape.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise UserCodeFailed(f"`loss` returned {got}: return a tensor of floating-point numbers.")
    if value.dim() and tuple(value.shape) != (batch_size(batch),):
        raise UserCodeFailed(
            f"`loss` returned shape {list(value.shape)}: expected the mean, [], or one value per "
            f"example, [{batch_size(batch)}]."
        )
    return value


def with_graph(loss: Tensor) -> Tensor:
    """The loss, if it depends on the parameters.

    Raises:
        UserCodeFailed: It does not.
    """
    if not loss.requires_grad:
        raise UserCodeFailed(
            "`loss` does not depend on any trainable parameter, or was computed without a graph "
            "(`no_grad`, `.item()`, argmax): return a tensor that `backward` can follow."
        )
    return loss


def supervised(criterion: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """The loss of (input, target) batches: `criterion(model(input), target)`.

    >>> import torch
    >>> from torch import nn
    >>> from gradiometer import supervised
    >>> loss = supervised(nn.MSELoss(reduction="none"))
    >>> loss(nn.Flatten(0), (torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 5.0])))
    tensor([1., 9.])
    """

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        return criterion(model(inputs), targets)

    return loss
