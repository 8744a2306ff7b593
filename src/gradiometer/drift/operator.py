"""A symmetric matrix that is known only by its products, and the random vectors it is asked about."""

from collections.abc import Callable, Iterator
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Law = Literal["gaussian", "rademacher"]


@runtime_checkable
class Symmetric(Protocol):
    """H, symmetric, d × d, known by its products."""

    @property
    def dimension(self) -> int:
        """d."""

    @property
    def like(self) -> Tensor:
        """A tensor of the type and on the device that vectors are to have."""

    def products(self, vectors: Float[Tensor, "probes params"]) -> Float[Tensor, "probes params"]:
        """H v for every row v."""


@runtime_checkable
class Mean(Symmetric, Protocol):
    """A symmetric matrix that is a mean of others, as a Hessian is of those of the parts of its examples."""

    def parts(self) -> Iterator[tuple[float, Symmetric]]:
        """Each part with its share; the shares sum to 1."""


class Product:
    """A symmetric operator of a function: H v for every row v.

    Args:
        products: Takes and gives [probes, params].
        like: One vector, [params]: its length, type and device are the operator's.
    """

    def __init__(self, products: Callable[[Tensor], Tensor], like: Float[Tensor, " params"]) -> None:
        self._products = products
        self.like = like

    @property
    def dimension(self) -> int:
        """d."""
        return len(self.like)

    def products(self, vectors: Float[Tensor, "probes params"]) -> Float[Tensor, "probes params"]:
        """H v for every row v."""
        return self._products(vectors)


def random_vectors(
    operator: Symmetric, count: int, generator: torch.Generator, law: Law = "gaussian"
) -> Float[Tensor, "probes params"]:
    """Independent vectors of entries with mean 0 and variance 1, the same on every device."""
    shape = (count, operator.dimension)
    if law == "rademacher":
        drawn = torch.randint(2, shape, generator=generator, dtype=torch.int8, device="cpu").mul_(2).sub_(1)
        return drawn.to(operator.like)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(operator.like)


def orthogonalised(
    vectors: Float[Tensor, "probes params"], basis: Float[Tensor, "basis params"]
) -> Float[Tensor, "probes params"]:
    """What is left of each row once its part in the span of orthonormal rows is taken away; twice, for rounding."""
    for _ in range(2):
        vectors = vectors - (vectors @ basis.T) @ basis
    return vectors
