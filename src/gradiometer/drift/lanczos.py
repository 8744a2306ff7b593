"""Symmetric operators such as a Hessian, known only by their products with vectors, and their
largest and smallest eigenvalues by Lanczos; the residual of each bounds its error."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import BadArgument, Unsupported, UserCodeFailed
from gradiometer.interruption import heed
from gradiometer.measurement.estimate import Estimate

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
    # A sum is quicker, and is finite unless it overflows or a number is not.
    if not (found.sum().isfinite() or found.isfinite().all()):
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


UNIT = "loss / parameter²"

# Most numbers in the basis and its image, 1 GiB in single precision; a larger basis is restarted.
BASIS_NUMBERS = 2**28

# Vectors that a basis may always hold in addition to the wanted ones, whatever the memory.
SHORTEST_BASIS = 20


@dataclass(frozen=True)
class Eigenvalues:
    """The ends of a spectrum.

    Args:
        largest: The largest eigenvalues, in decreasing order. The interval of each is its value ±
            ‖Hv − λv‖, a proven bound on the distance to an eigenvalue.
        smallest: The smallest eigenvalues, in increasing order.
        vectors: Their unit eigenvectors, first of the largest, then of the smallest: [pairs,
            params].
        basis: Orthonormal rows Q that span nearly all large curvatures, for a trace with less
            noise.
        projected: QᵀHQ.
        products: Number of Hessian products.
        converged: True if every residual is below the tolerance.
    """

    largest: tuple[Estimate, ...]
    smallest: tuple[Estimate, ...]
    vectors: Float[Tensor, "pairs params"]
    basis: Float[Tensor, "basis params"]
    projected: Float[np.ndarray, "basis basis"]
    products: int
    converged: bool

    @property
    def sharpness(self) -> Estimate:
        """λ_max."""
        return self.largest[0]


def eigenvalues(
    operator: Symmetric,
    *,
    largest: int = 1,
    smallest: int = 0,
    tolerance: float = 1e-2,
    most_products: int = 400,
    start: Float[Tensor, "pairs params"] | None = None,
    generator: torch.Generator,
) -> Eigenvalues:
    """The largest and smallest eigenvalues of a symmetric operator.

    Every product extends an orthonormal basis by the residual Hv − λv of the first wanted pair that
    has not converged. From one random vector this is Lanczos' method with full reorthogonalisation;
    with `start` it starts warm. It stops when every residual is small, not when the values stop
    changing, which happens much earlier. A residual r bounds the distance of λ to an eigenvalue by
    r; if the next eigenvalue is at a distance Δ, the error is at most r²/Δ. A larger
    eigenvalue can be missed if the start lacks its direction: Lanczos may converge before it finds
    that direction, more easily if few eigenvalues are wanted. A random start practically never
    lacks one. If several eigenvalues are equal, possibly only one of them is found.

    Args:
        operator: H.
        largest, smallest: Number of eigenvalues at either end, at least one in total.
        tolerance: Residual to reach, relative to the largest curvature found.
        most_products: Stop after this number of products, with wider bounds.
        start: Vectors of an earlier measurement.
        generator: Random generator of the start.

    Source: Lanczos (1950); Parlett (1998), The Symmetric Eigenvalue Problem, th. 4.5.1 and ch. 13;
    expansion by the
    residual and restarts: Stathopoulos & Saad (1998), Restarting Techniques for the
    (Jacobi-)Davidson Methods.

    Example:
        >>> from gradiometer.drift.lanczos import VectorProduct
        >>> operator = VectorProduct(lambda vectors: vectors * torch.arange(50.0), like=torch.zeros(50))  # 0, 1, …, 49
        >>> ends = eigenvalues(operator, largest=2, smallest=1, generator=torch.Generator().manual_seed(0))
        >>> [round(end.value) for end in (*ends.largest, *ends.smallest)], ends.converged
        ([49, 48, 0], True)
    """
    wanted = largest + smallest
    if not (largest >= 0 and smallest >= 0 and wanted >= 1):
        raise BadArgument(
            f"`largest` and `smallest` must not be negative nor both 0, got {largest} and "
            f"{smallest}."
        )
    if not wanted <= operator.dimension:
        raise BadArgument(
            f"`largest` and `smallest` ask for {wanted} eigenvalues, but the model has "
            f"{operator.dimension} parameters."
        )
    if not 0 < tolerance < 1:
        raise BadArgument(
            f"`tolerance` must lie between 0 and 1, got {tolerance}: 0.01 is a residual of 1 %."
        )
    if not most_products >= wanted:
        raise BadArgument(
            f"`most_products` must be at least the {wanted} eigenvalues asked for, got "
            f"{most_products}."
        )
    basis = _Basis(operator, wanted, generator)
    if start is not None:
        fresh = random_vectors(operator, len(start), generator)
        # A random share finds the directions that a warm start lacks.
        for vector in start.to(fresh) + 1e-3 * fresh / fresh.norm(dim=1, keepdim=True):
            basis.add(vector)
    else:
        basis.add(random_vectors(operator, 1, generator)[0])
    # Products are rounded to the operator's type: no residual is much smaller than 4 ε of it.
    reachable = max(tolerance, 4 * basis.epsilon)
    while not basis.complete and basis.products < most_products:
        values, coefficients = np.linalg.eigh(basis.projected)
        bound = reachable * max(abs(values[0]), abs(values[-1]))
        residuals = (
            basis.residual(values[p], coefficients[:, p])
            for p in _ends(len(values), largest, smallest)
        )
        coarse = next((residual for residual in residuals if not residual.norm() <= bound), None)
        # A start inside of an invariant space has no residual long before all pairs are found.
        if coarse is None and basis.size >= wanted:
            return _result(basis, largest, smallest, converged=True)
        if basis.size == basis.capacity:
            basis.compress(coefficients, largest, smallest)
        basis.add(random_vectors(operator, 1, generator)[0] if coarse is None else coarse)
    return _result(basis, largest, smallest, converged=basis.complete)


class _Basis:
    """Orthonormal rows Q, their images HQ, and QᵀHQ."""

    def __init__(self, operator: Symmetric, wanted: int, generator: torch.Generator) -> None:
        room = max(BASIS_NUMBERS // (2 * operator.dimension), wanted + SHORTEST_BASIS)
        self.capacity = min(room, operator.dimension)
        self._operator = operator
        self._generator = generator
        self._vectors = empty_rows(operator, 0)
        self._images = self._vectors.clone()
        self.projected = np.zeros((0, 0))
        self.size = self.products = 0

    @property
    def epsilon(self) -> float:
        """ε of the type in which products are computed."""
        return float(torch.finfo(self._operator.like.dtype).eps)

    @property
    def complete(self) -> bool:
        return self.size == self._operator.dimension

    @property
    def vectors(self) -> Float[Tensor, "basis params"]:
        return self._vectors[: self.size]

    @property
    def images(self) -> Float[Tensor, "basis params"]:
        return self._images[: self.size]

    def add(self, direction: Float[Tensor, " params"]) -> None:
        """Add the new part of this direction as a row, or of a random direction if
        nothing is new."""
        vector = self._new_part(direction)
        vector = vector / vector.norm()
        # A small new part was mostly rounding before it got its length.
        vector = orthogonalise(vector, self.vectors)
        vector = vector / vector.norm()
        image = images(self._operator, vector)
        if self.size == len(self._vectors):
            # Room for more rows, in powers of two: a copy for every row would cost their square.
            more = min(max(self.size, 8), self.capacity - self.size)
            for rows in (self._vectors, self._images):
                rows.resize_(self.size + more, rows.shape[1])
        self._vectors[self.size], self._images[self.size] = vector[0], image[0]
        self.size += 1
        self.products += 1
        # Small matrices are in double precision on the CPU: they decide when to stop.
        row = (self.vectors @ image[0]).double().cpu().numpy()
        self.projected = np.pad(self.projected, (0, 1))
        self.projected[-1, :] = self.projected[:, -1] = row

    def _new_part(self, direction: Float[Tensor, " params"]) -> Float[Tensor, "1 params"]:
        # In all tests the first random direction was new, but the end must not depend on it.
        for _ in range(8):
            vector = orthogonalise(direction[None], self.vectors)
            if vector.norm() > 1e3 * torch.finfo(vector.dtype).eps * direction.norm():
                return vector
            direction = random_vectors(self._operator, 1, self._generator)[0]
        raise Unsupported(
            f"`operator` has {self._operator.dimension} parameters, and rounding in {vector.dtype} "
            f"leaves no direction beside {self.size} of them: use a wider type."
        )

    def residual(
        self, value: float, coefficients: Float[np.ndarray, " basis"]
    ) -> Float[Tensor, " params"]:
        """H v − λ v."""
        weights = torch.from_numpy(coefficients.copy()).to(self._vectors)
        return weights @ self.images - float(value) * (weights @ self.vectors)

    def compress(
        self, coefficients: Float[np.ndarray, "basis basis"], largest: int, smallest: int
    ) -> None:
        """Keep the wanted Ritz vectors and those next to them."""
        # A restart with the wanted vectors alone would forget where convergence was going.
        spare = SHORTEST_BASIS // 4
        kept = _ends(self.size, largest + spare * (largest > 0), smallest + spare * (smallest > 0))
        chosen = torch.from_numpy(coefficients[:, kept].T.copy()).to(self._vectors)
        rows, images = chosen @ self.vectors, chosen @ self.images
        self.size = len(kept)
        self._vectors[: self.size], self._images[: self.size] = rows, images
        product = (rows @ images.T).double().cpu().numpy()
        self.projected = (product + product.T) / 2


def _result(basis: _Basis, largest: int, smallest: int, converged: bool) -> Eigenvalues:
    values, coefficients = np.linalg.eigh(basis.projected)
    pairs = _ends(len(values), largest, smallest)
    rounding = 10 * basis.epsilon * max(abs(values[0]), abs(values[-1]))
    estimates = []
    for place in pairs:
        value = float(values[place])
        residual = float(basis.residual(value, coefficients[:, place]).norm()) + rounding
        estimates.append(
            Estimate.bound(
                value,
                low=value - residual,
                high=value + residual,
                method="Lanczos, residual",
                samples=basis.products,
                unit=UNIT,
            )
        )
    chosen = torch.from_numpy(coefficients[:, pairs].T.copy()).to(basis.vectors)
    return Eigenvalues(
        largest=tuple(estimates[:largest]),
        smallest=tuple(estimates[largest:]),
        vectors=chosen @ basis.vectors,
        basis=basis.vectors,
        projected=basis.projected,
        products=basis.products,
        converged=converged,
    )


def _ends(count: int, largest: int, smallest: int) -> list[int]:
    """Positions in `count` increasing values: the largest ones, in decreasing order, then the
    smallest ones."""
    places = range(count)
    return [*places[::-1][:largest], *places[:smallest]]
