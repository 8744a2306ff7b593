"""Symmetric operators, known only by their products with vectors, and random vectors for them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import UserCodeFailed
from gradiometer.interruption import heed

Law = Literal["gaussian", "rademacher"]


@runtime_checkable
class Symmetric(Protocol):
    """H, symmetric, d × d, known by its products."""

    @property
    def dimension(self) -> int:
        """d."""

    @property
    def like(self) -> Tensor:
        """A tensor with the type and device of the vectors."""

    def products(self, vectors: Float[Tensor, "probes params"]) -> Float[Tensor, "probes params"]:
        """H v for every row v."""


@runtime_checkable
class Mean(Symmetric, Protocol):
    """A weighted mean of symmetric operators, like a Hessian over parts of the examples."""

    def parts(self) -> Iterator[tuple[float, Symmetric]]:
        """The share and the operator of each part; the shares sum to 1."""


@dataclass(frozen=True)
class VectorProduct:
    """A symmetric operator from a function.

    Args:
        products: Computes H v for every row v, [probes, params] to [probes, params].
        like: A vector, [params], with the length, type and device of the operator.
    """

    products: Callable[[Tensor], Tensor]
    like: Float[Tensor, " params"]

    @property
    def dimension(self) -> int:
        """d."""
        return len(self.like)


def random_vectors(
    operator: Symmetric, count: int, generator: torch.Generator, law: Law = "gaussian"
) -> Float[Tensor, "probes params"]:
    """Independent vectors whose entries have mean 0 and variance 1, the same on every device."""
    shape, like = (count, operator.dimension), empty_rows(operator, 0)
    if law == "rademacher":
        drawn = (
            torch.randint(2, shape, generator=generator, dtype=torch.int8, device="cpu")
            .mul_(2)
            .sub_(1)
        )
        return drawn.to(like)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(like)


def empty_rows(operator: Symmetric, count: int) -> Float[Tensor, "probes params"]:
    """Memory for vectors, at least in single precision.

    In half precision, orthogonal vectors cannot be told from others: ε of bfloat16 is 1/128, and a
    random direction looks as if it lay in the span of the few before it.
    """
    wide = torch.promote_types(operator.like.dtype, torch.float32)
    return torch.empty((count, operator.dimension), dtype=wide, device=operator.like.device)


def images(
    operator: Symmetric, vectors: Float[Tensor, "probes params"]
) -> Float[Tensor, "probes params"]:
    """H v for every row v: a step of a numerical loop. The operator computes in its own type.

    Raises:
        UserCodeFailed: A product is not finite, so that no loop over products would come to an end.
        StopAsked: A stop was asked for, and the caller heeds it.
    """
    # A loop of hundreds of products is where a person waits for a stop.
    heed()
    found = operator.products(vectors.to(operator.like)).to(vectors)
    if not found.isfinite().all():
        raise UserCodeFailed(
            "`operator` has a product that is not finite: look for parameters that have diverged."
        )
    return found


def orthogonalise(
    vectors: Float[Tensor, "probes params"], basis: Float[Tensor, "basis params"]
) -> Float[Tensor, "probes params"]:
    """Each row minus its projection onto the span of orthonormal rows; done twice because of
    rounding."""
    for _ in range(2):
        vectors = vectors - (vectors @ basis.T) @ basis
    return vectors
