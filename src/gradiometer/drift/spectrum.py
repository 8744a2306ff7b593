"""A spectral density in numbers alone, so that it can be read without torch."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri, stdtrit

from gradiometer.drift.quadrature_bounds import ROUNDING, bounds_below
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.uncertainty.means import mean


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
        dimension: d, the number of directions; 0 if it is not known.
    """

    nodes: Float[np.ndarray, "probes iterations"]
    weights: Float[np.ndarray, "probes iterations"]
    width: float
    level: float
    products: int
    dimension: int = 0

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise BadArgument(f"`width` must be positive, got {self.width}.")

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
            stdtrit(probes - 1, (1 + self.level) / 2)
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
        has a Beta law with the variance 2s(1 − s)/(d + 2), which is inverted as Wilson (1927) does;
        without d the ends are Student's. A node below zero proves one direction.

        If the bounds are more than a fifth apart, the value is NaN and `method` says "not
        resolved". More iterations resolve more. The share is not smoothed.
        """
        bounds = np.array(
            [bounds_below(*each, curvature) for each in zip(self.nodes, self.weights, strict=True)]
        )
        low, high = bounds.mean(axis=0)
        probes = len(bounds)
        ends = [self._ends(column) for column in bounds.T]
        least = 0.0
        # One node below proves one direction below, however small its weight.
        if self.dimension and (self.nodes < curvature - ROUNDING * np.abs(self.nodes).max()).any():
            least = 1 / self.dimension
        resolved = high - low <= 0.2
        value = max((low + high) / 2, least) if resolved else math.nan
        words = "quadrature bounds" if resolved else "not resolved: quadrature bounds"
        return Estimate.interval(
            value,
            max(ends[0][0], least),
            max(ends[1][1], least),
            level=self.level,
            method=f"{words} of {probes} probes",
            samples=probes,
        )

    def _ends(self, shares: Float[np.ndarray, " probes"]) -> tuple[float, float]:
        """The interval of the mean share over probes on the sphere."""
        share, probes = float(shares.mean()), len(shares)
        if not self.dimension:
            plain = mean(shares, level=self.level, batches=probes)
            return min(max(plain.low, 0.0), 1.0), min(max(plain.high, 0.0), 1.0)
        trials = probes * (self.dimension + 2) / 2
        quantile = float(ndtri((1 + self.level) / 2))
        shrinkage = 1 + quantile**2 / trials
        middle = (share + quantile**2 / (2 * trials)) / shrinkage
        margin = (
            quantile
            * math.sqrt(share * (1 - share) / trials + quantile**2 / (4 * trials**2))
            / shrinkage
        )
        return min(max(middle - margin, 0.0), share), max(min(middle + margin, 1.0), share)
