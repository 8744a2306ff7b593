"""From the gradients of micro-batches, one at a time, to their spread."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.measurement.spread import Spread

RUN, LONG = 1024, 2**15
"""Numbers summed in single precision, and how many a gradient must have for that to pay."""


@dataclass
class SpreadBuilder:
    """Collects a `Spread` one gradient at a time; keeps numbers only, and leaves them on their device until the end.

    Args:
        layer_of: Position of each parameter's layer.
    """

    layer_of: Sequence[int]
    sizes: list[int] = field(default_factory=list)
    squared: list[Float[Tensor, "rows parameters"]] = field(default_factory=list)

    def add(self, size: int, gradients: Sequence[Tensor]) -> None:
        """Take in the gradient of one micro-batch."""
        self.add_norms(size, squared_norms(gradients))

    def add_norms(self, size: int, squared: Float[Tensor, "1 parameters"]) -> None:
        """Take in the squared norms of the gradient of one micro-batch."""
        self.sizes.append(size)
        self.squared.append(squared)

    def add_each(self, gradients: Sequence[Tensor]) -> None:
        """Take in the gradients of single examples: each tensor has shape [examples, *parameter]."""
        self.sizes.extend([1] * gradients[0].shape[0])
        self.squared.append(torch.stack([_rows_squared(gradient) for gradient in gradients], dim=1))

    def finish(self, mean: Sequence[Tensor]) -> Spread:
        """The spread, given the mean gradient over all examples taken in."""
        return self.finish_from(squared_norms(mean))

    def finish_from(self, mean: Float[Tensor, "1 parameters"]) -> Spread:
        """The same, given the squared norms of the mean gradient."""
        squared = torch.cat([*self.squared, mean]).cpu().numpy()
        *parts, whole = [np.bincount(self.layer_of, weights=row) for row in squared]
        return Spread(np.array(self.sizes), np.stack(parts), whole)


def squared_norms(gradients: Sequence[Tensor]) -> Float[Tensor, "1 parameters"]:
    """‖·‖² of every parameter's gradient, summed in double precision, in one pass over all of them."""
    norms = torch._foreach_norm([_condensed(gradient) for gradient in gradients], dtype=torch.float64)
    return torch.stack([norm.to(norms[0].device) for norm in norms]).square().unsqueeze(0)


def inner_products(first: Sequence[Tensor], second: Sequence[Tensor]) -> Float[Tensor, " parameters"]:
    """⟨·, ·⟩ of two lists of one tensor a parameter, summed in double precision, in runs of their own on a CPU."""
    return torch.stack([_inner_product(a, b) for a, b in zip(first, second, strict=True)])


def _inner_product(a: Tensor, b: Tensor) -> Float[Tensor, ""]:
    if a.device.type != "cpu" or a.dtype != b.dtype or a.dtype not in (torch.float32, torch.float64):
        return (a.double() * b.double()).sum()
    # BLAS is three times as fast as a sum in double, and errs by 1e-8 of the sum of sizes over so long a run.
    if a.numel() <= LONG:
        return torch.dot(a.reshape(-1), b.reshape(-1)).double()
    runs = [torch.dot(x, y) for x, y in zip(a.reshape(-1).split(LONG), b.reshape(-1).split(LONG), strict=True)]
    return torch.stack(runs).sum(dtype=torch.float64)


def _condensed(gradient: Tensor) -> Tensor:
    """A shorter tensor of the same norm, if the gradient is long, in single precision and on a CPU; else itself.

    Runs of 1,024 numbers are summed in their own precision, three times as fast as in double. The relative error
    of the norm stays below 1e-7, that of the gradient's own numbers.
    """
    size = gradient.numel()
    if size < LONG or gradient.device.type != "cpu" or gradient.dtype != torch.float32 or not gradient.is_contiguous():
        return gradient
    flat, left = gradient.view(-1), size % RUN
    runs: Tensor = torch.linalg.vector_norm(flat[: size - left].view(-1, RUN), dim=1)
    return runs if not left else torch.cat([runs, flat[size - left :]])


def _rows_squared(gradient: Tensor) -> Float[Tensor, " examples"]:
    norms: Tensor = torch.linalg.vector_norm(gradient.reshape(len(gradient), -1), dim=1, dtype=torch.float64)
    return norms.square()
