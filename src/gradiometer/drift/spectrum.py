"""A spectral density in numbers alone, so that it can be read without torch."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean

POINTS = 400
"""Number of points of the grid."""
ROOM = 4.0
"""Smoothing widths between the outermost node and the end of the grid."""


@dataclass(frozen=True)
class SpectralDensity:
    """The smoothed density of the eigenvalues, (1/d) Σ_i N(x; λ_i, width²), with an interval at every x.

    Args:
        nodes: Eigenvalues of each probe's tridiagonal matrix, [probes, iterations].
        weights: Squared first components of their vectors, which sum to 1 over a probe: [probes, iterations].
        width: Standard deviation of the smoothing, in loss / parameter².
        level: Confidence level of the interval.
        products: Number of Hessian products.
    """

    nodes: Float[np.ndarray, "probes iterations"]
    weights: Float[np.ndarray, "probes iterations"]
    width: float
    level: float
    products: int

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise BadArgument(f"`width` must be positive, got {self.width}.")

    @property
    def grid(self) -> Float[np.ndarray, " points"]:
        """Evenly spaced curvatures over the spectrum, in loss / parameter²."""
        room = ROOM * self.width
        return np.linspace(self.nodes.min() - room, self.nodes.max() + room, POINTS)

    def at(self, curvature: Float[np.ndarray, " points"]) -> Float[np.ndarray, "3 points"]:
        """The density at these curvatures, and the ends of its interval, per loss / parameter².

        The interval is Student's over probes, separately at each point, cut at zero.
        """
        away = (curvature[:, None, None] - self.nodes) / self.width
        kernel = np.exp(-(away**2) / 2) / (self.width * np.sqrt(2 * np.pi))
        by_probe = (kernel * self.weights).sum(axis=2)
        value = by_probe.mean(axis=1)
        probes = len(self.nodes)
        margin = stdtrit(probes - 1, (1 + self.level) / 2) * by_probe.std(axis=1, ddof=1) / np.sqrt(probes)
        return np.stack([value, np.maximum(value - margin, 0.0), value + margin])

    def share_below(self, curvature: float) -> Estimate:
        """The share of directions with a curvature below this one.

        It is not smoothed: smoothing would put one in forty of the many curvatures near zero two widths below it.
        """
        by_probe = np.where(self.nodes < curvature, self.weights, 0.0).sum(axis=1)
        share = mean(by_probe, level=self.level, batches=len(by_probe))
        value, low, high = (min(max(end, 0.0), 1.0) for end in (share.value, share.low, share.high))
        return replace(share, value=value, low=low, high=high, method=f"Student over {len(by_probe)} probes")
