"""The exact law of SGD on a quadratic after any schedule of learning rates, batch sizes and
momenta."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from gradiometer_lab.closed_forms.quadratic import Matrix, Point, Quadratic
from gradiometer_lab.temperature.stationary_law import update_kick, update_matrices

Means = Float[np.ndarray, "params 2"]
Covariances = Float[np.ndarray, "params params 2 2"]


@dataclass(frozen=True)
class QuadraticLaw:
    """The law of position and velocity of SGD on a quadratic, at one moment of training. Begin with
    `at`.

    The noise of a batch is N(0, Σ/B), independent from step to step. Every update is linear, so the
    law stays Gaussian, and its mean and covariance follow a recursion that is exact at any learning
    rate, also at one where training diverges. In the axes of H it separates into 2 × 2 blocks, one
    per pair of modes.

    Args:
        quadratic: The quadratic.
        means: Mean of (Φ − Φ*, v) along each axis of H, [params, 2].
        covariances: Covariance of (Φ, v) of each pair of axes, [params, params, 2, 2].

    Source: the recursion whose fixed point is the stationary law of Mandt, Hoffman & Blei (2017),
        Stochastic Gradient Descent as Approximate Bayesian Inference, section 3, without their
        limit of a small learning rate.

    Example:
        >>> import numpy as np
        >>> from gradiometer_lab.closed_forms import Quadratic
        >>> from quadratic_law import QuadraticLaw
        >>> quadratic = Quadratic([1.0, 0.1], [1.0, 1.0])
        >>> start = QuadraticLaw.at(quadratic, [1.0, 1.0])
        >>> constant, cooled = np.full(200, 0.1), np.linspace(0.1, 0.0, 200)
        >>> [round(start.after(rates, batch_size=4).excess_loss, 4) for rates in (constant, cooled)]
        [0.0136, 0.0109]
    """

    quadratic: Quadratic = field(repr=False)
    means: Means
    covariances: Covariances = field(repr=False)

    @classmethod
    def at(
        cls, quadratic: Quadratic, position: ArrayLike, velocity: ArrayLike | None = None
    ) -> "QuadraticLaw":
        """The law of one point: no spread yet.

        Args:
            quadratic: The quadratic.
            position: Φ, [params].
            velocity: v, PyTorch's momentum buffer, [params]; the default is zero.
        """
        size = quadratic.dimension
        moved = np.zeros(size) if velocity is None else np.asarray(velocity)
        away = np.asarray(position) - quadratic.minimum
        means = np.stack([quadratic.axes.T @ away, quadratic.axes.T @ moved], axis=1)
        return cls(quadratic, means, np.zeros((size, size, 2, 2)))

    def after(
        self,
        learning_rates: ArrayLike,
        *,
        batch_size: int | float | ArrayLike = 1,
        momentum: int | float | ArrayLike = 0.0,
        nesterov: bool = False,
    ) -> "QuadraticLaw":
        """The law after one update for each learning rate, by the rule of `torch.optim.SGD`.

        Args:
            learning_rates: η_t, [steps], each at least 0.
            batch_size: B, one for all steps or one for each, [steps].
            momentum: μ, one for all steps or one for each, [steps].
            nesterov: Nesterov's momentum, Φ ← Φ − η(ĝ + μv), in place of Φ ← Φ − ηv.
        """
        rates = np.asarray(learning_rates, dtype=np.float64)
        batches = np.broadcast_to(batch_size, rates.shape)
        momenta = np.broadcast_to(momentum, rates.shape)
        axes, curvatures = self.quadratic.axes, self.quadratic.eigenvalues
        noise = (axes.T @ self.quadratic.noise @ axes)[:, :, None, None]
        means, covariances = self.means, self.covariances
        for rate, size, mu in zip(rates, batches, momenta, strict=True):
            moves, kick = (
                update_matrices(curvatures, rate, mu, nesterov),
                update_kick(rate, mu, nesterov),
            )
            means = np.einsum("iab,ib->ia", moves, means)
            moved = moves[:, None] @ covariances @ moves[None].swapaxes(2, 3)
            covariances = moved + noise / size * np.outer(kick, kick)
        return QuadraticLaw(self.quadratic, means, covariances)

    @property
    def mean(self) -> Point:
        """E Φ, [params]."""
        mean: Point = self.quadratic.minimum + self.quadratic.axes @ self.means[:, 0]
        return mean

    @property
    def covariance(self) -> Matrix:
        """Cov Φ, [params, params]."""
        covariance: Matrix = (
            self.quadratic.axes @ self.covariances[:, :, 0, 0] @ self.quadratic.axes.T
        )
        return covariance

    @property
    def excess_loss(self) -> float:
        """E ½(Φ − Φ*)ᵀ H (Φ − Φ*), the expected mean loss above its floor."""
        return self.excess_loss_from(self.quadratic.minimum)

    def excess_loss_from(self, point: ArrayLike) -> float:
        """E ½(Φ − c)ᵀ H (Φ − c): the excess loss on a set of examples with mean c.

        Args:
            point: c, [params].
        """
        away = self.mean - np.asarray(point)
        curvature = self.quadratic.curvature
        return float(away @ curvature @ away + np.trace(curvature @ self.covariance)) / 2

    @property
    def excess_loss_variance(self) -> float:
        """Variance of ½(Φ − Φ*)ᵀ H (Φ − Φ*) over runs: ½ tr((HS)²) + mᵀHSHm.

        Source: the moments of a quadratic form of a Gaussian, e.g. Mathai & Provost (1992),
            Quadratic Forms in Random Variables, theorem 3.2b.1.
        """
        product = self.quadratic.curvature @ self.covariance
        pull = self.quadratic.curvature @ (self.mean - self.quadratic.minimum)
        return float(np.trace(product @ product) / 2 + pull @ self.covariance @ pull)
