"""The whole spectrum of a Hessian from random vectors, each with an interval from their spread: its
trace by Hutchinson's estimator, and its density by stochastic Lanczos quadrature.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.arguments import check_level
from gradiometer.drift.curvature_survey import SpectralDensity
from gradiometer.drift.lanczos import (
    UNIT,
    Eigenvalues,
    Mean,
    Symmetric,
    empty_rows,
    images,
    orthogonalise,
    random_vectors,
)
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import LEVEL, Estimate
from gradiometer.measurement.uncertainty.means import mean


def trace(
    operator: Symmetric,
    *,
    probes: int = 16,
    ends: Eigenvalues | None = None,
    level: float = LEVEL,
    generator: torch.Generator,
) -> Estimate:
    """Tr H, the sum of the curvatures in all directions.

    Unbiased: Tr H = Tr QᵀHQ + E (Pv)ᵀH(Pv) for v with random signs, P = I − QQᵀ and any orthonormal
    Q. Without Q this is Hutchinson's estimator. With Q from Lanczos the large curvatures are summed
    and only the rest is sampled, which saves most of the probes for a network. The interval is
    Student's over probes. In simulations at nominal 90 % with 8, 16 and 32 probes it covers 89 to
    90 % with Q or with an even spectrum. Without Q it covers 86 to 89 % if a few curvatures are
    large, and 81, 85 and 87 % if one curvature is nearly all of the trace: run Lanczos first.

    If H is a mean over parts of the examples, every part has separate probes, at no further cost.
    The errors of the parts are then independent, and if their curvatures are similar, as in a
    network, the variance is divided by the number of parts.

    Costs `probes` products, in addition to those of Lanczos.

    Args:
        operator: H.
        probes: Random vectors, at least 4.
        ends: The result of Lanczos, whose basis is Q.
        level: Confidence level, between 0 and 1.
        generator: Random generator of the probes.

    Source: Hutchinson (1989), A Stochastic Estimator of the Trace of the Influence Matrix; Q from
    Krylov spaces: Chen & Hallman (2023), Krylov-Aware Stochastic Trace Estimation.

    Example:
        >>> from gradiometer.drift.lanczos import eigenvalues
        >>> from gradiometer.drift.lanczos import VectorProduct
        >>> matrix = torch.ones(20, 20) + torch.eye(20)  # its trace is 40
        >>> operator = VectorProduct(lambda vectors: vectors @ matrix, like=torch.zeros(20))
        >>> generator = torch.Generator().manual_seed(0)
        >>> print(trace(operator, probes=16, generator=generator))
        43.2 [31.9, 54.6] loss / parameter²
        >>> ends = eigenvalues(operator, largest=1, generator=generator)
        >>> print(trace(operator, probes=16, ends=ends, generator=generator))
        40.4 [39.8, 41.0] loss / parameter²
    """
    if not probes >= 4:
        raise BadArgument(
            f"`probes` must be at least 4, got {probes}: the interval needs their spread."
        )
    rows = empty_rows(operator, 0) if ends is None else ends.basis
    summed = 0.0 if ends is None else float(np.trace(ends.projected))
    # vᵀHv of every part times its share: separate probes make the errors of the parts independent.
    forms = []
    for share, part in operator.parts() if isinstance(operator, Mean) else [(1.0, operator)]:
        vectors = orthogonalise(random_vectors(operator, probes, generator, "rademacher"), rows)
        along = (images(part, vectors) * vectors).sum(dim=1, dtype=torch.float64)
        forms.append(share * along.cpu().numpy())
    sampled = mean(np.sum(forms, axis=0), level=level, unit=UNIT, batches=probes)
    name = "Hutchinson" if ends is None else "deflated Hutchinson"
    return replace(
        sampled,
        value=sampled.value + summed,
        low=sampled.low + summed,
        high=sampled.high + summed,
        method=f"{name}, Student over {probes} probes"
        + (f" of each of {len(forms)} parts" if len(forms) > 1 else ""),
    )


def spectral_density(
    operator: Symmetric,
    *,
    probes: int = 8,
    iterations: int = 40,
    width: float | None = None,
    level: float = LEVEL,
    generator: torch.Generator,
) -> SpectralDensity:
    """The density of the eigenvalues of a symmetric operator.

    For v uniform on the sphere E vᵀ f(H) v = Tr f(H)/d, and m iterations of Lanczos from v give vᵀ
    f(H) v exactly for polynomials up to degree 2m − 1. The resolution is range/m, which is the
    default width. The interval covers the spread over the probes, not what lies below the width. In
    simulations with 8 probes at nominal 90 % it covers 88 to 89 % in the bulk, and 73 % at a
    curvature of only one or two directions; look at eigenvalues there. The Lanczos vectors are kept
    and orthogonalised twice, so that no eigenvalue appears twice.

    Costs probes × iterations products.

    Args:
        operator: H.
        probes: Random vectors, at least 4.
        iterations: m, Lanczos steps from each, cut to d.
        width: Standard deviation of the smoothing; None for (λ_max − λ_min)/m.
        level: Confidence level of the interval.
        generator: Random generator of the probes.

    Source: Ubaru, Chen & Saad (2017), Fast Estimation of tr(f(A)) via Stochastic Lanczos
    Quadrature; for networks: Ghorbani, Krishnan & Xiao (2019), An Investigation into Neural Net
    Optimization via Hessian Eigenvalue Density.

    Example:
        >>> from gradiometer.drift.lanczos import VectorProduct
        >>> matrix = torch.diag(torch.tensor([-1.0, 0.1, 0.2, 3.0]))
        >>> operator = VectorProduct(lambda vectors: vectors @ matrix, like=torch.zeros(4))
        >>> density = spectral_density(operator, probes=64, generator=torch.Generator().manual_seed(0))
        >>> print(density.share_below(0.0))  # one direction in four curves down
        0.250 [0.250, 0.314]
    """
    if not probes >= 4:
        raise BadArgument(
            f"`probes` must be at least 4, got {probes}: an interval needs their spread."
        )
    if not iterations >= 2:
        raise BadArgument(
            f"`iterations` must be at least 2, got {iterations}: they set the resolution."
        )
    check_level(level)
    # After d steps the vectors span everything.
    steps = min(iterations, operator.dimension)
    # The Lanczos vectors of the probes in one group have at most 256 MiB in single precision.
    together = max(2**26 // (steps * operator.dimension), 1)
    parts = [
        tridiagonal(operator, random_vectors(operator, len(part), generator), steps)
        for part in torch.arange(probes).split(together)
    ]
    # Gauss quadrature: its nodes are the eigenvalues, its weights the squared first components.
    nodes, vectors = np.linalg.eigh(np.concatenate(parts))
    extent = float(nodes.max() - nodes.min())
    resolved = max(extent / steps, 1e-6 * float(np.abs(nodes).max()), np.finfo(np.float64).tiny)
    return SpectralDensity(
        nodes=nodes,
        weights=vectors[:, 0, :] ** 2,
        width=resolved if width is None else width,
        level=level,
        products=probes * steps,
        dimension=operator.dimension,
    )


def tridiagonal(
    operator: Symmetric, starts: Float[Tensor, "probes params"], iterations: int
) -> Float[np.ndarray, "probes iterations iterations"]:
    """Lanczos from several vectors in parallel: the tridiagonal matrix of each.

    When the vectors of a probe span an invariant space, Lanczos continues from a new direction,
    with a zero next to the diagonal. This does not change the quadrature.
    """
    count = len(starts)
    matrices = np.zeros((count, iterations, iterations))
    kept = starts.new_empty((count, iterations, operator.dimension))
    vector = starts / starts.norm(dim=1, keepdim=True)
    for place in range(iterations):
        kept[:, place] = vector
        image = images(operator, vector)
        matrices[:, place, place] = (image * vector).sum(dim=1, dtype=torch.float64).cpu().numpy()
        if place + 1 == iterations:
            break
        before = kept[:, : place + 1]
        fresh = _without(image, before)
        length = fresh.norm(dim=1, keepdim=True)
        tiny = torch.finfo(length.dtype).tiny
        vector = fresh / length.clamp_min(tiny)
        # If nothing was new, rounding errors give a new direction, which is not yet orthogonal.
        for _ in range(3):
            vector = _without(vector, before)
            vector = vector / vector.norm(dim=1, keepdim=True).clamp_min(tiny)
        size = length[:, 0].double().cpu().numpy()
        scale = np.abs(matrices).max(axis=(1, 2))
        rounding = max(1e2 * torch.finfo(vector.dtype).eps, torch.finfo(operator.like.dtype).eps)
        beside = np.where(size > rounding * scale, size, 0.0)
        matrices[:, place, place + 1] = matrices[:, place + 1, place] = beside
    return matrices


def _without(
    vectors: Float[Tensor, "probes params"], kept: Float[Tensor, "probes before params"]
) -> Tensor:
    for _ in range(2):
        vectors = vectors - torch.einsum(
            "pb,pbd->pd", torch.einsum("pd,pbd->pb", vectors, kept), kept
        )
    return vectors
