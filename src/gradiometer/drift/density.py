"""The spectral density of a Hessian by stochastic Lanczos quadrature, with the spread over its probes as a band."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.drift.operator import Symmetric, random_vectors
from gradiometer.drift.spectrum import SpectralDensity
from gradiometer.errors import BadArgument

TOGETHER_NUMBERS = 2**26
"""Most numbers in the Lanczos vectors of probes that are taken together, 256 MiB in single precision."""


def spectral_density(
    operator: Symmetric,
    *,
    probes: int = 8,
    iterations: int = 40,
    width: float | None = None,
    level: float = 0.9,
    generator: torch.Generator,
) -> SpectralDensity:
    """The density of the eigenvalues of a symmetric operator.

    For v uniform on the sphere E vᵀ f(H) v = Tr f(H)/d, and m iterations of Lanczos from v give vᵀ f(H) v exactly
    for polynomials up to degree 2m − 1. Finer than range/m cannot be resolved, which is the default width; the band
    says how much the probes differ and not what lies below the width. Simulated with 8 probes at nominal 90 % it covers
    in 88 to 89 % in the bulk, and in 73 % at a curvature that one or two directions have: there look at eigenvalues.
    Lanczos' vectors are kept and orthogonalised twice, so that no eigenvalue comes twice.

    Costs probes × iterations products.

    Args:
        operator: H.
        probes: Random vectors, at least 4.
        iterations: m, steps of Lanczos from each; at most d are made.
        width: Standard deviation of the smoothing; None for (λ_max − λ_min)/m.
        level: Confidence level of the band.
        generator: Of the probes.

    Source: Ubaru, Chen & Saad (2017), Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature; for networks:
    Ghorbani, Krishnan & Xiao (2019), An Investigation into Neural Net Optimization via Hessian Eigenvalue Density.
    """
    if not probes >= 4:
        raise BadArgument(f"`probes` must be at least 4, got {probes}: fewer hardly show a spread.")
    if not iterations >= 2:
        raise BadArgument(f"`iterations` must be at least 2, got {iterations}: they resolve the spectrum.")
    if not 0 < level < 1:
        raise BadArgument(f"`level` must lie between 0 and 1, got {level}: write 0.9 for 90 %.")
    steps = min(iterations, operator.dimension)
    together = max(TOGETHER_NUMBERS // (steps * operator.dimension), 1)
    parts = [
        tridiagonal(operator, random_vectors(operator, len(part), generator), steps)
        for part in torch.arange(probes).split(together)
    ]
    nodes, vectors = np.linalg.eigh(np.concatenate(parts))
    extent = float(nodes.max() - nodes.min())
    resolved = max(extent / steps, 1e-6 * float(np.abs(nodes).max()), np.finfo(np.float64).tiny)
    return SpectralDensity(
        nodes=nodes,
        weights=vectors[:, 0, :] ** 2,
        width=resolved if width is None else width,
        level=level,
        products=probes * steps,
    )


def tridiagonal(
    operator: Symmetric, starts: Float[Tensor, "probes params"], iterations: int
) -> Float[np.ndarray, "probes iterations iterations"]:
    """Lanczos from several vectors side by side: the tridiagonal matrix of each.

    Where the vectors of a probe span an invariant space, it goes on from a new direction with a zero beside the
    diagonal, which leaves the quadrature as it is.
    """
    count = len(starts)
    matrices = np.zeros((count, iterations, iterations))
    kept = starts.new_empty((count, iterations, operator.dimension))
    vector = starts / starts.norm(dim=1, keepdim=True)
    for place in range(iterations):
        kept[:, place] = vector
        image = operator.products(vector)
        matrices[:, place, place] = (image * vector).sum(dim=1, dtype=torch.float64).cpu().numpy()
        if place + 1 == iterations:
            break
        vector, size = _next(image, kept[:, : place + 1])
        scale = np.abs(matrices).max(axis=(1, 2))
        beside = np.where(size > 1e2 * torch.finfo(vector.dtype).eps * scale, size, 0.0)
        matrices[:, place, place + 1] = matrices[:, place + 1, place] = beside
    return matrices


def _next(
    image: Float[Tensor, "probes params"], kept: Float[Tensor, "probes before params"]
) -> tuple[Float[Tensor, "probes params"], Float[np.ndarray, " probes"]]:
    """The unit vectors that come next, and how much of each image was new."""
    fresh = _without(image, kept)
    size = fresh.norm(dim=1, keepdim=True)
    vector = fresh / size.clamp_min(torch.finfo(size.dtype).tiny)
    for _ in range(3):  # where nothing was new this makes a new direction of rounding
        vector = _without(vector, kept)
        vector = vector / vector.norm(dim=1, keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)
    return vector, size[:, 0].double().cpu().numpy()


def _without(vectors: Float[Tensor, "probes params"], kept: Float[Tensor, "probes before params"]) -> Tensor:
    for _ in range(2):
        vectors = vectors - torch.einsum("pb,pbd->pd", torch.einsum("pd,pbd->pb", vectors, kept), kept)
    return vectors
