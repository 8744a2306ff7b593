"""Bayesian logistic regression on real data, with few enough parameters to integrate its posterior
exactly."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.special import expit
from torch import Tensor, nn

from gradiometer.measurement.batch import Batch
from gradiometer.problems import Examples, Problem
from gradiometer.problems.images.digits import read_digits
from gradiometer_lab.closed_forms.linear_regression import bayesian_problem
from gradiometer_lab.closed_forms.quadratic import Matrix


@dataclass(frozen=True)
class Moments:
    """Moments of a posterior.

    Args:
        mean: E Φ.
        covariance: Cov Φ.
        mean_loss: E of the mean training loss, including the prior.
    """

    mean: Float[np.ndarray, " params"]
    covariance: Matrix
    mean_loss: float


@dataclass(frozen=True)
class LogisticRegression:
    """P(y = 1 | x) = 1/(1 + e^−xᵀΦ), with the prior Φ ~ N(0, I/τ): loss = log(1 + e^−sxᵀΦ) +
    τ‖Φ‖²/(2N), s = ±1.

    Each loss contains its part of the prior, so that N × the mean loss is U = −log posterior, up to
    a constant.

    Args:
        inputs: x of every example, a column of ones for the intercept included, [examples, params].
        labels: True if y = 1, [examples].
        precision: τ of the prior, positive.
    """

    inputs: Float[np.ndarray, "examples params"]
    labels: Bool[np.ndarray, " examples"]
    precision: float = 1.0

    @cached_property
    def mode(self) -> Float[np.ndarray, " params"]:
        """The minimum of U, by Newton's method from the origin."""
        at = np.zeros(self.inputs.shape[1])
        # Newton needs about eight; the rest is for data that are nearly separable
        for _ in range(100):
            probabilities = expit(self.inputs @ at)
            gradient = self.inputs.T @ (probabilities - self.labels) + self.precision * at
            step = np.linalg.solve(self.curvature(at), gradient)
            at = at - step
            if np.abs(step).max() < 1e-13:
                break
        return at

    def curvature(self, at: Float[np.ndarray, " params"]) -> Matrix:
        """∇²U = Xᵀ diag(p(1 − p)) X + τI."""
        probabilities = expit(self.inputs @ at)
        weighted = self.inputs * (probabilities * (1 - probabilities))[:, None]
        return np.asarray(self.inputs.T @ weighted + self.precision * np.eye(len(at)))

    def potential(self, at: Float[np.ndarray, "points params"]) -> Float[np.ndarray, " points"]:
        """U at many points."""
        signed = self.inputs * np.where(self.labels, 1.0, -1.0)[:, None]
        fit = np.logaddexp(0.0, -at @ signed.T).sum(axis=1)
        return np.asarray(fit + self.precision / 2 * (at**2).sum(axis=1))

    def moments(self, temperature: float = 1.0, nodes: int = 20) -> Moments:
        """Moments of exp(−U/T), by Gauss–Hermite quadrature about the mode in the axes of its
        curvature.

        Args:
            temperature: T, positive.
            nodes: Nodes per dimension. Twenty give six digits or more on the problem of this file.

        Source: Naylor & Smith (1982), Applications of a Method for the Efficient Computation of
            Posterior Distributions.
        """
        # In the axes of the curvature at the mode the posterior is nearly a product.
        root = np.linalg.cholesky(temperature * np.linalg.inv(self.curvature(self.mode)))
        line, weights = np.polynomial.hermite_e.hermegauss(nodes)
        size = len(self.mode)
        grid = np.stack(np.meshgrid(*[line] * size, indexing="ij"), axis=-1).reshape(-1, size)
        log_weights = (
            np.stack(np.meshgrid(*[np.log(weights)] * size, indexing="ij"), axis=-1)
            .reshape(-1, size)
            .sum(1)
        )
        points = self.mode + grid @ root.T
        potential = self.potential(points)
        # In logarithms, as the potential of many examples is far beyond the range of exp.
        log_density = (
            log_weights + (grid**2).sum(axis=1) / 2 - (potential - potential.min()) / temperature
        )
        density = np.exp(log_density - log_density.max())
        density /= density.sum()
        covariance = np.cov(points.T, aweights=density, ddof=0)
        return Moments(density @ points, covariance, float(density @ potential) / len(self.labels))

    def problem(self, test: "LogisticRegression | None" = None) -> Problem:
        """The training problem. The model's parameter is Φ, in double precision, drawn from the
        prior."""
        return bayesian_problem(
            "logistic",
            "weights",
            lambda outputs, signs: nn.functional.softplus(-signs * outputs),
            self._examples("train"),
            self.precision,
            test=None if test is None else test._examples("test"),
            correct=sign_found,
        )

    def _examples(self, name: str) -> Examples:
        signs = torch.from_numpy(np.where(self.labels, 1.0, -1.0))
        return Examples((torch.from_numpy(self.inputs), signs), name)


def sign_found(model: nn.Module, batch: Batch) -> Bool[Tensor, " examples"]:
    """True if the log odds have the sign of the label."""
    inputs, signs = batch
    found: Tensor = model(inputs) * signs > 0
    return found


DIGITS = (3, 8)


def known() -> tuple[LogisticRegression, LogisticRegression]:
    """The training and the test regression of `load`: is it a 3 or an 8, from the ink of the left
    and the right half?

    An 8 has ink on the left, a 3 has little there. The training set is the first 100 threes and
    eights of the digits: few enough that the posterior is not Gaussian.
    """
    images, labels, held_out = (part.numpy() for part in read_digits())
    chosen = np.isin(labels, DIGITS)
    halves = np.stack(
        [images[:, :, :4].mean(axis=(1, 2)), images[:, :, 4:].mean(axis=(1, 2))], axis=1
    )
    parts = []
    for part in (np.flatnonzero(chosen & ~held_out)[:100], np.flatnonzero(chosen & held_out)):
        # 5.0: subtracted from the ink: about the mean pixel of threes and eights, on the scale from
        # 0 to 16.
        inputs = np.column_stack([halves[part] - 5.0, np.ones(len(part))])
        parts.append(LogisticRegression(inputs, labels[part] == DIGITS[1]))
    return parts[0], parts[1]


def load(model: str = "weights") -> Problem:
    """Three weights, 100 images of a 3 or an 8 to train on."""
    train, test = known()
    return train.problem(test)
