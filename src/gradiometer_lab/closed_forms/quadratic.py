"""The noisy quadratic in any dimension, on which SGD has closed forms."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from gradiometer.measurement.batch import Batch
from gradiometer.problems import Examples, Problem
from gradiometer_lab.temperature import stationary_law

Matrix = Float[np.ndarray, "params params"]

# The losses of the examples at a point.
Losses = Callable[[Tensor, Tensor], Tensor]


def symmetric(given: ArrayLike) -> Matrix:
    """A symmetric matrix from its eigenvalues along the axes, [params], or in full, [params,
    params]."""
    matrix = np.asarray(given, dtype=np.float64)
    if matrix.ndim == 1:
        matrix = np.diag(matrix)
    return (matrix + matrix.T) / 2


def square_root(matrix: Matrix) -> Matrix:
    """The symmetric square root of a positive semi-definite matrix."""
    levels, axes = np.linalg.eigh(matrix)
    # rounding makes some eigenvalues of a semi-definite matrix slightly negative
    return np.asarray(axes * np.sqrt(np.maximum(levels, 0)) @ axes.T)


Point = Float[np.ndarray, " params"]


class Quadratic:
    """loss(Φ, x) = ½(Φ − x)ᵀ H (Φ − x) with x ~ N(Φ*, H⁻¹ Σ H⁻¹), whose gradient H(Φ − x) has
    covariance Σ at every Φ.

    Smooth and non-negative, as the classical theorem requires. The closed forms hold for batches of
    independent draws, fresh or with replacement. If every batch is drawn without replacement from
    all N examples, replace Σ by Σ(N − B)/(N − 1). Over reshuffled epochs they do not hold: use
    `gradiometer_lab.temperature.stationary_law.reshuffled_covariance`.

    Args:
        curvature: H, in loss / parameter²: its eigenvalues along the axes, [params], or a matrix,
            positive definite.
        noise: Σ, in (loss / parameter)²: its eigenvalues along the axes, or a matrix, positive
            semi-definite.
        minimum: Φ*, the minimum of the mean loss; the default is the origin.

    Source: McAllester (2020), TTIC 31230, SGD as a form of MCMC; Mandt, Hoffman & Blei (2017),
        Stochastic Gradient Descent as Approximate Bayesian Inference, section 3; here without their
        limit of a small learning rate.

    Example:
        >>> from gradiometer_lab.closed_forms import Quadratic
        >>> Quadratic([1.0, 0.1], [1.0, 1.0]).stationary_covariance(0.1, batch_size=4).round(4)
        array([[0.0132, 0.    ],
               [0.    , 0.1256]])
    """

    def __init__(
        self, curvature: ArrayLike, noise: ArrayLike, minimum: ArrayLike | None = None
    ) -> None:
        self.curvature = symmetric(curvature)
        self.noise = symmetric(noise)
        self.minimum = (
            np.zeros(self.dimension) if minimum is None else np.asarray(minimum, dtype=np.float64)
        )
        self.eigenvalues, self.axes = np.linalg.eigh(self.curvature)

    @property
    def dimension(self) -> int:
        """d, the number of parameters."""
        return len(self.curvature)

    @property
    def gradient_variance(self) -> float:
        """tr Σ, in (loss / parameter)²."""
        return float(np.trace(self.noise))

    @property
    def floor(self) -> float:
        """½ tr(H⁻¹Σ), the mean loss at the minimum."""
        return float(np.trace(np.linalg.solve(self.curvature, self.noise))) / 2

    def gradient(self, position: ArrayLike) -> Point:
        """g = H(Φ − Φ*), in loss / parameter."""
        return self.curvature @ (np.asarray(position) - self.minimum)

    def excess_loss(self, position: ArrayLike) -> float:
        """½(Φ − Φ*)ᵀ H (Φ − Φ*), the mean loss above its floor."""
        away = np.asarray(position) - self.minimum
        return float(away @ self.curvature @ away) / 2

    def stationary_covariance(
        self,
        learning_rate: float,
        batch_size: int,
        momentum: float = 0.0,
        *,
        nesterov: bool = False,
    ) -> Matrix:
        """S, the covariance of the iterates of SGD at a constant learning rate, long after the
        start.

        For independent draws: see
        `gradiometer_lab.temperature.stationary_law.stationary_covariance`.

        Raises:
            BadArgument: η is not below 2(1 + μ)/λ_max. Beyond, the iterates diverge.
        """
        rule = stationary_law.SGDRule(learning_rate, batch_size, momentum, nesterov)
        return stationary_law.stationary_covariance(self.curvature, self.noise, rule)

    def stationary_excess_loss(
        self, learning_rate: float, batch_size: int, momentum: float = 0.0
    ) -> float:
        """½ tr(HS), the mean loss above its floor at a constant learning rate."""
        covariance = self.stationary_covariance(learning_rate, batch_size, momentum)
        return float(np.sum(self.curvature * covariance)) / 2

    def stationary_squared_gradient(
        self, learning_rate: float, batch_size: int, momentum: float = 0.0
    ) -> float:
        """E‖g‖² = tr(HSH) at a constant learning rate."""
        covariance = self.stationary_covariance(learning_rate, batch_size, momentum)
        return float(np.trace(self.curvature @ covariance @ self.curvature))

    def simulate(
        self,
        learning_rates: ArrayLike,
        *,
        chains: int,
        batch_size: int,
        momentum: float = 0.0,
        start: ArrayLike | None = None,
        seed: int = 0,
    ) -> Float[np.ndarray, "steps chains params"]:
        """The iterates of many independent runs of SGD on fresh batches, from the start on.

        The mean gradient of a batch of Gaussian examples is exactly H(Φ − Φ*) plus N(0, Σ/B), so
        one draw per step
        replaces a batch of any size. Memory: (steps + 1) × chains × params numbers.

        Args:
            learning_rates: η_t at every step, [steps].
            chains: Number of runs.
            batch_size: B.
            momentum: μ of PyTorch's heavy ball.
            start: Φ_0 of all runs, [params], or of each, [chains, params]; the default is the
                minimum.
            seed: Seed of the noise.
        """
        rates = np.asarray(learning_rates, dtype=np.float64)
        generator = np.random.default_rng(seed)
        root = square_root(self.noise) / math.sqrt(batch_size)
        iterates = np.empty((len(rates) + 1, chains, self.dimension))
        iterates[0] = self.minimum if start is None else start
        velocity = np.zeros((chains, self.dimension))
        for step, rate in enumerate(rates):
            noise = generator.standard_normal((chains, self.dimension)) @ root
            velocity = (
                momentum * velocity + (iterates[step] - self.minimum) @ self.curvature + noise
            )
            iterates[step + 1] = iterates[step] - rate * velocity
        return iterates

    def problem(
        self, examples: int = 2000, seed: int = 0, start: ArrayLike | None = None
    ) -> Problem:
        """A finite training set drawn from it, and a test set of the same size, in double
        precision.

        Its full gradient and noise are known exactly: see `on`.

        Args:
            examples: N.
            seed: Seed of the examples.
            start: Φ_0; by default it is drawn from N(Φ*, I) when the model is made.
        """
        generator = np.random.default_rng(seed)
        # With x = Φ* + H⁻¹ξ the gradient H(Φ − x) has the noise −ξ, of covariance Σ at every Φ.
        spread = square_root(self.noise) @ np.linalg.inv(self.curvature)
        train, test = (
            self.minimum + generator.standard_normal((examples, self.dimension)) @ spread
            for _ in range(2)
        )
        return Problem(
            name="quadratic",
            model=lambda: Position(self, start),
            loss=output_losses,
            train=Examples(torch.from_numpy(train), "train"),
            test=Examples(torch.from_numpy(test), "test"),
            model_name="position",
            description=(
                f"A noisy quadratic of {self.dimension} parameters, {examples:,} examples to train "
                "on."
            ),
        )

    def on(self, train: Examples) -> "Quadratic":
        """The exact quadratic of a training set of these examples, with its minimum and its Σ.

        Φ* is the mean of the examples and Σ = H Cov(x) H, with N in the denominator: the covariance
        of the gradient of an example drawn from the set. All closed forms hold for it, with the
        Train gradient as g.
        """
        points = torch.as_tensor(train.data).double().cpu().numpy()
        centred = points - points.mean(axis=0)
        covariance = centred.T @ centred / len(points)
        return Quadratic(
            self.curvature, self.curvature @ covariance @ self.curvature, points.mean(axis=0)
        )


def output_losses(model: nn.Module, batch: Batch) -> Float[Tensor, " examples"]:
    """The loss of a model whose output is the loss of each example."""
    losses: Tensor = model(batch)
    return losses


class Place(nn.Module):
    """A point whose output is the loss of each example.

    Args:
        start: The point.
        losses: The losses of the examples at a point.
    """

    def __init__(self, start: float | Sequence[float], losses: Losses) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.losses = losses

    def forward(self, examples: Float[Tensor, "examples drawn"]) -> Float[Tensor, " examples"]:
        """The loss of each example."""
        return self.losses(self.position, examples)


class Position(nn.Module):
    """A point Φ in a quadratic; its output is the loss of each example."""

    curvature: Tensor

    def __init__(self, quadratic: Quadratic, start: ArrayLike | None = None) -> None:
        super().__init__()
        # The point is drawn in any case, so that a given start leaves the random numbers as they
        # were.
        point = torch.randn(quadratic.dimension, dtype=torch.float64) + torch.from_numpy(
            quadratic.minimum
        )
        if start is not None:
            point = torch.tensor(start, dtype=torch.float64)
        self.position = nn.Parameter(point)
        self.register_buffer("curvature", torch.from_numpy(quadratic.curvature))

    def forward(self, examples: Float[Tensor, "examples params"]) -> Float[Tensor, " examples"]:
        """½(Φ − x)ᵀ H (Φ − x) of every example x."""
        away = self.position - examples
        return (away @ self.curvature * away).sum(dim=-1) / 2


def load(model: str = "position", seed: int = 0) -> Problem:
    """Twenty parameters with curvatures from 0.01 to 1 and noise in proportion, Σ = H: 2,000
    examples.

    A well-specified likelihood has Σ = H at its best parameters.
    """
    curvatures = np.geomspace(0.01, 1, 20)
    return Quadratic(curvatures, curvatures).problem(seed=seed)
