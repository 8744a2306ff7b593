"""A survey of the curvature at one point of training: the ends of its spectrum, its trace and its
density."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from gradiometer.drift.spectrum import SpectralDensity
from gradiometer.errors import BadArgument
from gradiometer.measurement.artifact import Artifact
from gradiometer.measurement.estimate import Estimate


@dataclass(frozen=True)
class Survey(Artifact):
    """The curvature of the loss over some training examples, in numbers alone.

    Args:
        step: Number of training steps before the survey.
        examples: Number of examples in the loss.
        of: Number of examples in the training set; equal to `examples` for the full loss.
        mode: Mode of the model: "train" (Dropout, batch statistics) or "eval".
        dimension: d.
        loss: Mean loss.
        largest, smallest: Eigenvalues, each with the bounds of its residual.
        trace: Tr H.
        gradient_norm_squared: ‖g‖².
        gradient_curvature: gᵀHg.
        density: The spectral density.
        products: Number of Hessian products.
        converged: True if every eigenvalue reached its tolerance.
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

    def __post_init__(self) -> None:
        for name in ("largest", "smallest"):
            if not getattr(self, name):
                raise BadArgument(f"`{name}` must have at least one eigenvalue, got none.")

    @property
    def sharpness(self) -> Estimate:
        """λ_max."""
        return self.largest[0]

    @property
    def along_gradient(self) -> Estimate:
        """gᵀHg/‖g‖², the curvature along a full-batch step; 0 if g is 0."""
        norm_squared = self.gradient_norm_squared.value
        return Estimate.exact(
            self.gradient_curvature.value / norm_squared if norm_squared > 0 else 0.0,
            unit="loss / parameter²",
        )

    @property
    def negative_share(self) -> Estimate:
        """The share of directions with a curvature below zero; see `SpectralDensity.share_below`.

        Each eigenvalue that Lanczos found below zero is one direction at least.
        """
        share = self.density.share_below(0.0)
        found = {*self.largest, *self.smallest}
        least = sum(each.high < 0 for each in found) / self.dimension
        # NaN stays NaN
        value, low, high = (max(end, least) for end in (share.value, share.low, share.high))
        return replace(share, value=value, low=low, high=high)

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The numbers that a page or a terminal shows."""
        return {
            "sharpness": self.sharpness,
            "smallest_curvature": self.smallest[0],
            "hessian_trace": self.trace,
            "curvature_along_gradient": self.along_gradient,
            "negative_share": self.negative_share,
        }

    @property
    def what(self) -> str:
        """A description of the loss: the examples and the mode."""
        if self.examples == self.of:
            return f"the full loss, {self.of:,} examples, in {self.mode} mode"
        return (
            f"a fixed subsample of {self.examples:,} of {self.of:,} examples, in {self.mode} mode"
        )
