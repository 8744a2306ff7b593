"""λ_min of the Hessian of a loss, with an interval at a confidence level.

The residual ‖Hv − λv‖ of Lanczos shows that an eigenvalue is near λ, not that none is below it. The
lower end comes from a theorem about the random start; every vᵀHv is an upper end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.convergence.certificate.certificate import CERTAINTY
from gradiometer.drift.curvature import Curvature
from gradiometer.drift.lanczos import UNIT
from gradiometer.measurement import Batch, Estimate, Objective
from gradiometer.measurement.uncertainty.differences import mean_of_few

# A tolerance that is never reached: Lanczos then makes all its products, and the theorem counts
# them.
NEVER = 1e-12


@dataclass(frozen=True)
class LowestCurvature:
    """The two ends of a spectrum.

    Args:
        lowest: λ_min.
        largest: λ_max, a scale for λ_min: a lower bound, or an estimate of one.
        samples: Independent samples of the examples; 1 for all examples.
        products: Hessian products made.
    """

    lowest: Estimate
    largest: Estimate
    samples: int
    products: int


def lanczos_deficit(dimension: int, products: int, failure: float) -> float:
    """Bound on how far an end of the spectrum lies beyond Lanczos' value, as a share of the spread
    λ_max − λ_min.

    ε = (ln(1.648 √d/failure)/(2k − 1))², exceeded with probability at most `failure` over the
    random start, for every spectrum; 0 if there are as many products as dimensions.

    Args:
        dimension: d.
        products: k, made from one vector, uniform on the sphere.
        failure: Probability of failure, between 0 and 1.

    Source: Kuczyński & Woźniakowski (1992), Estimating the Largest Eigenvalue by the Power and
        Lanczos Algorithms with a Random Start, th. 4.2.

    >>> from gradiometer.convergence.certificate.lowest_curvature import lanczos_deficit
    >>> round(lanczos_deficit(dimension=1_000_000, products=100, failure=0.05), 4)
    0.0027
    """
    if products >= dimension:
        return 0.0
    return (math.log(1.648 * math.sqrt(dimension) / failure) / (2 * products - 1)) ** 2


def products_for(dimension: int, resolution: float, failure: float) -> int:
    """Number of products that makes the deficit at most `resolution`, about
    ln(d/failure²)/(4√resolution)."""
    needed = (math.log(1.648 * math.sqrt(dimension) / failure) / math.sqrt(resolution) + 1) / 2
    return min(math.ceil(needed), dimension)


def of_all_examples(
    curvature: Curvature, *, resolution: float = 0.005, level: float = CERTAINTY
) -> LowestCurvature:
    """λ_min of the Hessian of exactly these examples.

    At most the smallest Ritz value θ, always; at least θ less a share of the spread, by
    `lanczos_deficit`, at this level over the random start.

    Args:
        curvature: The Hessian.
        resolution: Largest share of the spread that Lanczos may miss; costs about ln(d)/√resolution
            products.
        level: Confidence level.
    """
    ends = _Ends.of(curvature, resolution, (1 - level) / 2)
    products = ends.products
    method = f"Lanczos, {products} products"
    high = ends.lowest + ends.rounding
    # The largest eigenvalue lies as far beyond its Ritz value as the smallest one.
    top = ends.largest + ends.lowest - ends.below
    return LowestCurvature(
        Estimate.interval(
            ends.lowest, ends.below, high, level=level, method=method, samples=products, unit=UNIT
        ),
        Estimate.interval(
            ends.largest, ends.largest, top, level=level, method=method, samples=products, unit=UNIT
        ),
        samples=1,
        products=products,
    )


def of_samples(
    objective: Objective,
    samples: Sequence[Sequence[Batch]],
    *,
    resolution: float = 0.005,
    level: float = CERTAINTY,
    seed: int = 0,
) -> LowestCurvature:
    """λ_min of the Hessian H of a whole training set, from independent samples of its examples.

    The least eigenvalue is concave in the matrix: for a sample it is on average below that of H, so
    a lower confidence bound on the mean over samples is one on λ_min; the smaller the samples, the
    lower it is. The upper end uses the lowest direction v of the first sample, and vᵀHv on the
    parts of the other samples, which are independent of v.

    Args:
        objective: The model and its loss.
        samples: The examples of each sample, in parts; at least 3 samples.
        resolution: As in `of_all_examples`.
        level: Confidence level.
        seed: Seed of the random starts, and of what the loss draws.

    Source: Jensen's inequality; Student's interval.
    """
    # Half of what may fail is for the lower end, and of that one half each for Lanczos and Student.
    failure = (1 - level) / 4
    found: list[_Ends] = []
    along: list[list[float]] = []
    for place, parts in enumerate(samples):
        curvature = Curvature(objective, parts, seed=seed + place)
        if found:
            # The directions of the first sample, on examples that did not choose them.
            directions = found[0].directions
            along += [
                (part.products(directions) * directions).sum(1).tolist()
                for _, part in curvature.parts()
            ]
        found.append(_Ends.of(curvature, resolution, failure / len(samples)))
    low = mean_of_few([ends.below for ends in found], 1 - 2 * failure).low
    largest, lowest = (mean_of_few(column, level) for column in zip(*along, strict=True))
    of_all: dict[str, Any] = {
        "method": f"{len(samples)} samples, each end by Lanczos",
        "samples": len(samples),
        "unit": UNIT,
    }
    return LowestCurvature(
        replace(
            lowest, value=max(lowest.value, low), low=low, high=max(lowest.high, low), **of_all
        ),
        replace(largest, **of_all),
        samples=len(samples),
        products=sum(ends.products for ends in found) + len(directions),
    )


@dataclass(frozen=True)
class _Ends:
    """Lanczos' results for one Hessian.

    Args:
        largest, lowest: The largest and the smallest Ritz value.
        below: Lower bound on the least eigenvalue, which fails with the allowed probability over
            the random start.
        rounding: Rounding error of the values.
        directions: The unit vectors of the two, [2, params].
        products: Hessian products made.
    """

    largest: float
    lowest: float
    below: float
    rounding: float
    directions: Float[Tensor, "2 params"]
    products: int

    @classmethod
    def of(cls, curvature: Curvature, resolution: float, failure: float) -> "_Ends":
        """From one random vector; each end may fail with half the probability."""
        both = int(curvature.dimension > 1)
        most = max(products_for(curvature.dimension, resolution, failure / 2), 1 + both)
        ends = curvature.eigenvalues(largest=1, smallest=both, tolerance=NEVER, most_products=most)
        largest, lowest = ends.largest[0].value, (ends.smallest or ends.largest)[0].value
        rounding = 10 * torch.finfo(ends.vectors.dtype).eps * max(abs(largest), abs(lowest))
        share = lanczos_deficit(curvature.dimension, ends.products, failure / 2)
        # 0.5: for a deficit of at least this, the spread has no bound.
        missed = share / (1 - 2 * share) * (largest - lowest) if share < 0.5 else math.inf
        return cls(
            largest,
            lowest,
            lowest - missed - rounding,
            rounding,
            ends.vectors[[0, -1]],
            ends.products,
        )
