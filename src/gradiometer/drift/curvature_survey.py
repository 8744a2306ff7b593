"""The curvature at one point of training, in numbers alone: the ends of its spectrum, its trace and
its density. It is read without torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument
from gradiometer.measurement.artifact import Artifact
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import student_quantile
from gradiometer.measurement.uncertainty.proportions import wilson

# Distance, as a share of the largest node, within which two curvatures count as equal: single
# precision.
ROUNDING = 1e-6

# Share of the weight, or of the largest node, that counts as zero in the recurrence.
TINY = 1e-13


def bounds_below(
    nodes: Float[np.ndarray, " iterations"], weights: Float[np.ndarray, " iterations"], place: float
) -> tuple[float, float]:
    """The least and the largest share below `place` of all measures with this Gauss quadrature.

    The Gauss–Radau rule with a node at `place` puts the largest possible weight there. The share
    below it, without and with that weight, bounds the share of the measure below `place`. If the
    measure has fewer points than the rule, as when Lanczos ends early, the nodes are its points and
    both bounds are equal.

    Args:
        nodes: Eigenvalues of the tridiagonal matrix of one probe.
        weights: Squared first components of their vectors. They sum to 1.
        place: The point.

    Source: Chebyshev, Markov and Stieltjes; Golub & Meurant (2010), Matrices, Moments and
    Quadrature with Applications, ch. 6 for the rule and th. 6.3 for the bounds.

    >>> import numpy as np
    >>> from gradiometer.drift.curvature_survey import bounds_below
    >>> low, high = bounds_below(np.array([-1.0, 1.0]), np.array([0.5, 0.5]), 0.0)  # all that is known: mean 0, ...
    >>> print(f"{low:.2f} {high:.2f}")
    0.00 1.00
    """
    # Nodes of size one, so that tolerances mean shares.
    scale = float(np.abs(nodes).max())
    if not scale > 0:
        return (0.0, 0.0) if place < 0 else (1.0, 1.0) if place > 0 else (0.0, 1.0)
    points, shares = nodes, weights
    matrix = _recurrence(nodes / scale, weights)
    beside = np.diag(matrix, 1)
    # Without weight at some node, or with equal nodes, this rule is one of fewer nodes.
    if len(nodes) > 1 and min(weights.min(), np.abs(beside).min()) > TINY:
        # The rule with one node at the place.
        inner = matrix[:-1, :-1] - place / scale * np.eye(len(nodes) - 1)
        try:
            # The last entry is free: it is chosen so that the place becomes a node.
            ending = beside[-1] ** 2 * np.eye(len(inner))[-1]
            matrix[-1, -1] = place / scale + np.linalg.solve(inner, ending)[-1]
        except np.linalg.LinAlgError:  # the shorter rule has a node there already
            matrix = matrix[:-1, :-1]
        points, vectors = np.linalg.eigh(matrix)
        points, shares = points * scale, vectors[0] ** 2
    room = ROUNDING * scale
    return float(shares[points < place - room].sum()), float(
        min(shares[points <= place + room].sum(), 1.0)
    )


def _recurrence(
    nodes: Float[np.ndarray, " iterations"], weights: Float[np.ndarray, " iterations"]
) -> Float[np.ndarray, "iterations iterations"]:
    """The tridiagonal matrix with these eigenvalues, whose eigenvectors have these squared first
    components.

    Source: Golub & Meurant (2010), Matrices, Moments and Quadrature with Applications, ch. 4, by
    Householder's reflections.
    """
    from scipy.linalg import hessenberg  # noqa: PLC0415 (only a survey needs it)

    arrow = np.diag(np.append(1.0, nodes))
    arrow[0, 1:] = arrow[1:, 0] = np.sqrt(weights)
    matrix: np.ndarray = hessenberg(arrow)[1:, 1:]
    return np.triu(np.tril(matrix, 1), -1)


@dataclass(frozen=True)
class SpectralDensity:
    """The smoothed density of the eigenvalues, (1/d) Σ_i N(x; λ_i, width²), with an interval at
    every x.

    Args:
        nodes: Eigenvalues of each probe's tridiagonal matrix, [probes, iterations].
        weights: Squared first components of their vectors, which sum to 1 over a probe: [probes,
            iterations].
        width: Standard deviation of the smoothing, in loss / parameter².
        level: Confidence level of the interval.
        products: Number of Hessian products.
        dimension: d, the number of directions.
    """

    nodes: Float[np.ndarray, "probes iterations"]
    weights: Float[np.ndarray, "probes iterations"]
    width: float
    level: float
    products: int
    dimension: int

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise BadArgument(f"`width` must be positive, got {self.width}.")
        check_whole("dimension", self.dimension, 1)
        largest = float(np.max(self.weights))
        # room for rounding: they are squares that sum to 1
        if not largest <= 1.001:
            raise BadArgument(f"`weights` must sum to 1 over a probe, got one of {largest}.")

    @property
    def grid(self) -> Float[np.ndarray, " points"]:
        """Evenly spaced curvatures over the spectrum, in loss / parameter²."""
        # Four smoothing widths beyond the outermost node the density is zero to the eye.
        room = 4 * self.width
        return np.linspace(self.nodes.min() - room, self.nodes.max() + room, 400)

    def at(self, curvature: Float[np.ndarray, " points"]) -> Float[np.ndarray, "3 points"]:
        """The density at these curvatures, and the ends of its interval, per loss / parameter².

        The interval is Student's over probes, separately at each point, cut at zero.
        """
        away = (curvature[:, None, None] - self.nodes) / self.width
        kernel = np.exp(-(away**2) / 2) / (self.width * np.sqrt(2 * np.pi))
        by_probe = (kernel * self.weights).sum(axis=2)
        value = by_probe.mean(axis=1)
        probes = len(self.nodes)
        margin = (
            student_quantile(self.level, probes - 1)
            * by_probe.std(axis=1, ddof=1)
            / np.sqrt(probes)
        )
        return np.stack([value, np.maximum(value - margin, 0.0), value + margin])

    def share_below(self, curvature: float) -> Estimate:
        """The share of directions with a curvature below this one: an interval that holds whatever
        is not resolved.

        The quadrature of each probe leaves the share open between two bounds (see
        `quadrature_bounds`). The interval goes from the low end for the mean of the lower bounds to
        the high end for the mean of the upper ones. A probe is uniform on the sphere, so its share
        has a Beta law with the variance 2s(1 − s)/(d + 2), which is inverted as Wilson (1927) does.
        A node below zero proves one direction.

        If the bounds are more than a fifth apart, the value is NaN and `method` says "not
        resolved". More iterations resolve more. The share is not smoothed.
        """
        bounds = np.array(
            [bounds_below(*each, curvature) for each in zip(self.nodes, self.weights, strict=True)]
        )
        low, high = bounds.mean(axis=0).tolist()
        probes = len(bounds)
        freedom = probes * (self.dimension + 2) / 2
        least = 0.0
        # One node below proves one direction below, however small its weight.
        if (self.nodes < curvature - ROUNDING * np.abs(self.nodes).max()).any():
            least = 1 / self.dimension
        resolved = high - low <= 0.2
        value = max((low + high) / 2, least) if resolved else math.nan
        words = "quadrature bounds" if resolved else "not resolved: quadrature bounds"
        return Estimate.interval(
            value,
            max(wilson(low, freedom, self.level)[0], least),
            max(wilson(high, freedom, self.level)[1], least),
            level=self.level,
            method=f"{words} of {probes} probes",
            samples=probes,
        )


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
