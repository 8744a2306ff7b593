"""The trace of a Hessian from random probes: Hutchinson's estimator, with an interval."""

from dataclasses import replace

import numpy as np
import torch

from gradiometer.drift.lanczos import UNIT, Eigenvalues
from gradiometer.drift.operator import (
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
        >>> from gradiometer.drift.operator import VectorProduct
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
