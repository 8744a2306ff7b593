"""Bayesian linear regression: a posterior in closed form, at any temperature."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.measurement.batch import Batch
from gradiometer.problems import Examples, Problem
from gradiometer_lab.closed_forms.quadratic import Matrix


class Predictor(nn.Module):
    """xᵀΦ, with Φ drawn from the prior N(0, I/τ), in double precision, as the parameter of this
    name."""

    def __init__(self, name: str, size: int, precision: float) -> None:
        super().__init__()
        self.register_parameter(
            name, nn.Parameter(torch.randn(size, dtype=torch.float64) / math.sqrt(precision))
        )

    def forward(self, inputs: Float[Tensor, "examples params"]) -> Float[Tensor, " examples"]:
        """The prediction of every example."""
        (weights,) = self.parameters()
        return inputs @ weights


@dataclass(frozen=True)
class LinearRegression:
    """y = xᵀΦ + N(0, σ²), with the prior Φ ~ N(0, I/τ): loss = (y − xᵀΦ)²/(2σ²) + τ‖Φ‖²/(2N) of an
    example.

    Each loss contains its part of the prior, so that N × the mean loss is U = −log posterior, up to
    a constant, and exp(−U/T) is N(m, T·C) with C⁻¹ = XᵀX/σ² + τI and m = C Xᵀy/σ².

    Args:
        inputs: x of every example, [examples, params].
        targets: y, [examples].
        noise: σ, positive.
        precision: τ of the prior, positive.

    Source: Bishop (2006), Pattern Recognition and Machine Learning, eq. 3.50 f.

    Example:
        >>> from gradiometer_lab.closed_forms.linear_regression import LinearRegression
        >>> regression = LinearRegression(np.array([[1.0], [2.0]]), np.array([1.0, 2.0]))
        >>> regression.mean.round(4), regression.covariance().round(4)
        (array([0.8333]), array([[0.1667]]))
    """

    inputs: Float[np.ndarray, "examples params"]
    targets: Float[np.ndarray, " examples"]
    noise: float = 1.0
    precision: float = 1.0

    @classmethod
    def draw(
        cls, examples: int, slopes: Sequence[float], noise: float = 1.0, seed: int = 0
    ) -> "LinearRegression":
        """Examples drawn from the model with these slopes: x is correlated, of mean 0 and scales
        from 1 down to ¼."""
        generator, size = np.random.default_rng(seed), len(slopes)
        # Correlated inputs, as independent ones would hide errors off the diagonal.
        mixing = np.eye(size) + 0.3 * generator.standard_normal((size, size))
        inputs = generator.standard_normal((examples, size)) @ mixing * np.geomspace(1, 0.25, size)
        targets = inputs @ np.array(slopes) + noise * generator.standard_normal(examples)
        return cls(inputs, targets, noise)

    @cached_property
    def curvature(self) -> Matrix:
        """∇²U = XᵀX/σ² + τI, N times the Hessian of the mean loss."""
        size = self.inputs.shape[1]
        return np.asarray(
            self.inputs.T @ self.inputs / self.noise**2 + self.precision * np.eye(size)
        )

    @cached_property
    def mean(self) -> Float[np.ndarray, " params"]:
        """The posterior mean, at every temperature."""
        return np.linalg.solve(self.curvature, self.inputs.T @ self.targets / self.noise**2)

    def covariance(self, temperature: float = 1.0) -> Matrix:
        """The posterior covariance T·C."""
        return temperature * np.linalg.inv(self.curvature)

    def mean_loss(self, temperature: float = 1.0) -> float:
        """E of the mean loss under exp(−U/T): its smallest value plus Td/(2N)."""
        size = len(self.targets)
        least = np.mean((self.targets - self.inputs @ self.mean) ** 2) / (2 * self.noise**2)
        prior = self.precision * float(self.mean @ self.mean) / (2 * size)
        return float(least) + prior + temperature * len(self.mean) / (2 * size)

    def problem(self) -> Problem:
        """The training problem. The model's parameter is Φ, in double precision, drawn from the
        prior."""
        twice_variance = 2 * self.noise**2
        return bayesian_problem(
            "linear",
            "slopes",
            lambda outputs, targets: (targets - outputs).square() / twice_variance,
            Examples((torch.from_numpy(self.inputs), torch.from_numpy(self.targets)), "train"),
            self.precision,
        )


def bayesian_problem(
    kind: str,
    parameter: str,
    likelihood: Callable[[Tensor, Tensor], Tensor],
    train: Examples,
    precision: float,
    **others: Any,
) -> Problem:
    """The training problem of a Bayesian regression of this kind.

    Args:
        kind: Its name.
        parameter: Name of Φ.
        likelihood: −log of it for every example, of the outputs xᵀΦ and the targets.
        train: The examples, pairs of inputs and targets.
        precision: τ of the prior.
        others: Further fields of the problem.
    """
    examples, size = train.data[0].shape
    # The prior is divided among the examples, so that N times the mean loss is U.
    share = precision / (2 * examples)

    def loss(model: nn.Module, batch: Batch) -> Float[Tensor, " examples"]:
        inputs, targets = batch
        prior = sum(weights.square().sum() for weights in model.parameters())
        return likelihood(model(inputs), targets).add(prior, alpha=share)

    return Problem(
        name=f"{kind}-regression",
        model=lambda: Predictor(parameter, size, precision),
        loss=loss,
        train=train,
        model_name=parameter,
        description=(
            f"Bayesian {kind} regression of {size} {parameter}, {examples:,} examples to train on."
        ),
        **others,
    )


SLOPES = (1.0, -0.5, 0.25, 0.0, 2.0)


def known(seed: int = 0) -> LinearRegression:
    """The regression of `load`."""
    return LinearRegression.draw(500, SLOPES, seed=seed)


def load(model: str = "slopes", seed: int = 0) -> Problem:
    """Five slopes, 500 examples."""
    return known(seed).problem()
