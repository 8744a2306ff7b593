"""A survey of the curvature at one point of training: its ends, its trace, its density, and what they rest on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from gradiometer.drift.spectrum import SpectralDensity
from gradiometer.measurement.artifact import Artifact
from gradiometer.measurement.estimate import Estimate

if TYPE_CHECKING:  # a survey is read, a year later, on a machine without torch
    import gradiometer.drift.curvature


@dataclass(frozen=True)
class Survey(Artifact):
    """The curvature of the loss over some examples, in numbers alone.

    Args:
        step: Training steps made before.
        examples: How many examples the loss is of, and
        of: of how many in the training set: the same number where it is the full loss.
        mode: Of the model: "train" (Dropout, batch statistics) or "eval".
        dimension: d.
        loss: The mean loss of these examples.
        largest, smallest: Eigenvalues, each within its residual.
        trace: Tr H.
        gradient_norm_squared: ‖g‖² of these examples.
        gradient_curvature: gᵀHg of these examples.
        density: The spectral density.
        products: Hessian products made.
        converged: Whether every eigenvalue reached the residual asked for.
    """

    files: ClassVar[str] = "curvature/step_*.json"
    labels: ClassVar[Mapping[str, str]] = {
        "sharpness": "sharpness, λ_max",
        "smallest_curvature": "smallest eigenvalue, λ_min",
        "hessian_trace": "trace of the Hessian, Tr H",
        "curvature_along_gradient": "curvature along the gradient, gᵀHg / ‖g‖²",
        "negative_share": "share of directions that curve down",
    }

    step: int
    examples: int
    of: int
    mode: Literal["train", "eval"]
    dimension: int
    loss: float
    largest: tuple[Estimate, ...]
    smallest: tuple[Estimate, ...]
    trace: Estimate
    gradient_norm_squared: Estimate
    gradient_curvature: Estimate
    density: SpectralDensity
    products: int
    converged: bool

    @property
    def sharpness(self) -> Estimate:
        """λ_max."""
        return self.largest[0]

    @property
    def along_gradient(self) -> Estimate:
        """gᵀHg/‖g‖², the curvature a full-batch step meets; 0 where g is."""
        norm_squared = self.gradient_norm_squared.value
        return Estimate.exact(
            self.gradient_curvature.value / norm_squared if norm_squared > 0 else 0.0, unit="loss / parameter²"
        )

    @property
    def negative_share(self) -> Estimate:
        """The share of directions of curvature below what the density resolves: −2 widths."""
        return self.density.share_below(-2 * self.density.width)

    @property
    def estimates(self) -> dict[str, Estimate]:
        """What a page or a terminal shows, by name."""
        return {
            "sharpness": self.sharpness,
            "smallest_curvature": self.smallest[0],
            "hessian_trace": self.trace,
            "curvature_along_gradient": self.along_gradient,
            "negative_share": self.negative_share,
        }

    @property
    def what(self) -> str:
        """Of which loss it is, in words."""
        if self.examples == self.of:
            return f"the full loss, {self.of:,} examples, in {self.mode} mode"
        return f"a fixed subsample of {self.examples:,} of {self.of:,} examples, in {self.mode} mode"


def survey(
    curvature: "gradiometer.drift.curvature.Curvature",
    *,
    of: int,
    step: int = 0,
    top: int = 5,
    probes: int = 8,
    iterations: int = 40,
    level: float = 0.9,
) -> Survey:
    """Measure everything a `Survey` holds.

    Costs the products Lanczos needs (20 to 60), for the trace `probes`, and
    probes × iterations for the density.

    Args:
        curvature: The Hessian.
        of: Examples in the training set.
        step: Training steps made before.
        top: Largest eigenvalues wanted; with them comes the smallest.
        probes: Random vectors, for the trace and for the density.
        iterations: Lanczos steps from each, for the density.
        level: Confidence level of trace and density.
    """
    before = curvature.products_made
    top = min(top, max(curvature.dimension - 1, 1))
    ends = curvature.eigenvalues(largest=top, smallest=min(1, curvature.dimension - top))
    trace = curvature.trace(probes=probes, ends=ends, level=level)
    density = curvature.density(probes=probes, iterations=iterations, level=level)
    gradient = curvature.gradient.double()
    return Survey(
        step=step,
        examples=curvature.examples,
        of=of,
        mode=curvature.mode,
        dimension=curvature.dimension,
        loss=curvature.loss,
        largest=ends.largest,
        smallest=ends.smallest or ends.largest[-1:],
        trace=trace,
        gradient_norm_squared=Estimate.exact(float(gradient @ gradient), unit="(loss / parameter)²"),
        gradient_curvature=Estimate.exact(curvature.along_gradient(), unit="loss³ / parameter⁴"),
        density=density,
        products=curvature.products_made - before,
        converged=ends.converged,
    )
