"""The trace of a Hessian from random probes: Hutchinson's estimator and Hutch++, with
an interval."""

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
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean


def trace(
    operator: Symmetric,
    *,
    probes: int = 16,
    sketch: int = 0,
    ends: Eigenvalues | None = None,
    level: float = 0.9,
    generator: torch.Generator,
) -> Estimate:
    """Tr H, the sum of the curvatures in all directions.

    Unbiased: Tr H = Tr QᵀHQ + E (Pv)ᵀH(Pv) for v with random signs, P = I − QQᵀ and any orthonormal
    Q. Without Q this is Hutchinson's estimator. With Q from the images of random vectors it is
    Hutch++. With Q from Lanczos the large curvatures are summed and only the rest is sampled, which
    saves most of the probes for a network. The interval is Student's over probes. In simulations at
    nominal 90 % with 8, 16 and 32 probes it covers 89 to 90 % with either Q or with an even
    spectrum. Without Q it covers 86 to 89 % if a few curvatures are large, and 81, 85 and 87 % if
    one
    curvature is nearly all of the trace: run Lanczos first.

    If H is a mean over parts of the examples, every part has separate probes, at no further cost.
    The errors of the parts are then independent, and if their curvatures are similar, as in a
    network, the variance is divided by the number of parts.

    Costs probes + 2·sketch products, in addition to those of Lanczos.

    Args:
        operator: H.
        probes: Random vectors, at least 4.
        sketch: Random vectors whose images span Q.
        ends: The result of Lanczos: its basis is added to Q.
        level: Confidence level, between 0 and 1.
        generator: Random generator of the probes.

    Source: Hutchinson (1989), A Stochastic Estimator of the Trace of the Influence Matrix; Meyer,
    Musco, Musco & Woodruff (2021), Hutch++: Optimal Stochastic Trace Estimation; Q from Krylov
    spaces: Chen & Hallman (2023), Krylov-Aware Stochastic Trace Estimation.

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
    if not 0 <= sketch <= operator.dimension:
        raise BadArgument(
            f"`sketch` must lie between 0 and the {operator.dimension} parameters, got {sketch}."
        )
    known = empty_rows(operator, 0) if ends is None else ends.basis
    fresh = known[:0]
    if sketch:
        seen = images(operator, random_vectors(operator, sketch, generator, "rademacher"))
        rows = torch.linalg.qr(orthogonalise(seen, known).T).Q.T
        # Rounding leaves a part of the known rows in what was hardly new: once more.
        fresh = torch.linalg.qr(orthogonalise(rows, known).T).Q.T
    rows = torch.cat([known, fresh])
    summed = float(np.trace(ends.projected)) if ends is not None else 0.0
    summed += float((images(operator, fresh) * fresh).sum(dtype=torch.float64)) if sketch else 0.0
    # vᵀHv of every part times its share: separate probes make the errors of the parts independent.
    forms = []
    for share, part in operator.parts() if isinstance(operator, Mean) else [(1.0, operator)]:
        vectors = orthogonalise(random_vectors(operator, probes, generator, "rademacher"), rows)
        along = (images(part, vectors) * vectors).sum(dim=1, dtype=torch.float64)
        forms.append(share * along.cpu().numpy())
    sampled = mean(np.sum(forms, axis=0), level=level, unit=UNIT, batches=probes)
    name = "deflated Hutchinson" if ends is not None else "Hutch++" if sketch else "Hutchinson"
    return replace(
        sampled,
        value=sampled.value + summed,
        low=sampled.low + summed,
        high=sampled.high + summed,
        method=f"{name}, Student over {probes} probes"
        + (f" of each of {len(forms)} parts" if len(forms) > 1 else ""),
    )
