"""The shape of the gradient noise: in how many directions it lies, and how much of it along the gradient (S2)."""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float

from gradiometer.errors import BadArgument
from gradiometer.estimation.gram import FEWEST, NoiseMoments
from gradiometer.measurement.estimate import Estimate, Estimates, counted, significant
from gradiometer.measurement.finding import Finding, Issue, State
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.reading import Moments, Series
from gradiometer.measurement.uncertainty.arithmetic import transformed
from gradiometer.measurement.uncertainty.means import ratio_of_means

if TYPE_CHECKING:  # estimates are made, a year later, on a machine without torch
    import gradiometer.measurement.step


@dataclass(frozen=True)
class NoiseShape(Gauge):
    """The noise's effective dimension, and the norm, inner-product and orthogonality tests of ĝ.

    From the inner products of the gradients of k micro-batches of equal size (examples left over are left out), of
    which every moment is unbiased. The effective dimension (tr Σ)²/tr Σ² is the number of directions that noise of
    equal size in each would fill: between 1 and d. The tests ask what share of ‖g‖ the error of ĝ has, in one batch:

    - norm test: θ = √(tr Σ/B)/‖g‖, the whole error;
    - inner-product test: θ = √(gᵀΣg/B)/‖g‖², the part along g: by how much a step is too long or too short;
    - orthogonality test: ν = √((tr Σ − gᵀΣg/‖g‖²)/B)/‖g‖, the part across: by how much it points elsewhere.

    The papers keep each below a constant (0.9 the inner product, 5.84 the orthogonality), raising B where it is not;
    they take ‖ĝ‖ for ‖g‖, which is too large by the very noise they look for. Here g is that of the distribution the
    training set came from.

    Costs k gradients of B/k examples: a step more of arithmetic, and in a tiny model, where calls cost more than the
    arithmetic, tens of steps. Holds k × d numbers while it measures.

    Args:
        parts: k, at least 4; None for one an example, the sharpest, of B × d numbers.

    Source: the participation ratio of Σ's eigenvalues; norm test: Byrd, Chin, Nocedal & Wu (2012), Sample Size
        Selection in Optimization Methods for Machine Learning; the other two: Bollapragada, Byrd & Nocedal (2018),
        Adaptive Sampling Strategies for Stochastic Optimization; as readings: Schneider, Dangel & Hennig (2021),
        Cockpit.
    """

    parts: int | None = 8

    name: ClassVar[str] = "noise_shape"
    issue: ClassVar[Issue] = Issue.ESTIMATION
    unit: ClassVar[str] = "directions"
    one_in: ClassVar[int] = 16

    def __post_init__(self) -> None:
        if self.parts is not None and not self.parts >= FEWEST:
            raise BadArgument(
                f"`parts` must be at least {FEWEST}, got {self.parts}: the square of the noise needs two "
                "pairs that share none."
            )

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """Every moment of g and Σ that the estimates need, from the inner products of micro-batch gradients."""
        from gradiometer.estimation.inner_products import inner_products  # noqa: PLC0415 (it needs torch)

        count = step.batch_size if self.parts is None else self.parts
        return asdict(NoiseMoments.of(*inner_products(step, count)))

    def estimate(self, series: Series, level: float = 0.9) -> Estimates:
        """The effective dimension and the three tests, each a ratio of means over the window."""
        moments, batch_size = series.moments, series.batch_size
        square = moments["gradient_norm_fourth"]
        across = moments["variance_times_norm_squared"] - moments["variance_along_gradient"]

        def ratio(numerator: Float[np.ndarray, " steps"], denominator: Float[np.ndarray, " steps"]) -> Estimate:
            return ratio_of_means(numerator, denominator, level=level, spacing=series.spacing)

        return {
            "effective_dimension": ratio(moments["gradient_variance_squared"], moments["covariance_norm_squared"]),
            "norm_test": _root(ratio(moments["gradient_variance"] / batch_size, moments["gradient_norm_squared"])),
            "inner_product_test": _root(ratio(moments["variance_along_gradient"] / batch_size, square)),
            "orthogonality_test": _root(ratio(across / batch_size, square)),
        }

    def interpret(self, estimates: Estimates) -> Finding | None:
        """In how many directions the noise lies, and whether a step goes mostly across the gradient or along it."""
        dimension, norm = estimates["effective_dimension"], estimates["norm_test"]
        if not dimension.tells:
            return None
        seen = (
            f"The gradient noise lies in about {significant(dimension.value)} [{significant(dimension.low)}, "
            f"{significant(dimension.high)}] directions ({counted(dimension.samples, 'measured step')})."
        )
        if not norm.tells:
            means = "How long the error of a batch is against the gradient is not known yet."
            return Finding(self.name, self.issue, State.CANNOT_TELL, seen, means)
        along, across = estimates["inner_product_test"], estimates["orthogonality_test"]
        split = f"{along} along it, which makes a step too long or too short, and {across} across it"
        if not (along.tells and across.tells):
            split = "how much of it lies along it is not known yet"
        return Finding(
            gauge=self.name,
            issue=self.issue,
            state=State.OK,
            seen=seen,
            means=f"The error of one batch is {norm} times as long as the gradient: {split}.",
            caveat="The moments are squares of squares: a few large readings carry them late in training.",
            estimates=("effective_dimension", "norm_test", "inner_product_test", "orthogonality_test"),
        )


def _root(square: Estimate) -> Estimate:
    """The square root of an estimate that cannot truly be below zero."""
    return transformed(square, lambda ratio: math.sqrt(max(ratio, 0.0)))
