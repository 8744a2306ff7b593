"""The lecture's one-dimensional example, ½(β − y)²: SGD on it is a recursion for two numbers."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike

from gradiometer.problems import Examples, Problem
from gradiometer_lab.closed_forms.quadratic import Quadratic

Steps = Float[np.ndarray, " steps"]


@dataclass(frozen=True)
class OneDimensional:
    """loss(β, y) = ½(β − y)², with y of mean E y and variance σ²: g = β − E y, and ĝ = β − the
    batch mean of y.

    The batch gradient is not zero even at the best β: there ĝ has variance σ²/B. The closed forms
    hold for any law of y, for batches of independent draws. Simulations and training sets are
    Gaussian.

    Args:
        mean: E y.
        variance: σ² of y, positive.

    Source: McAllester (2020), TTIC 31230, Stochastic Gradient Descent: the one-dimensional example.

    Example:
        >>> from gradiometer_lab.closed_forms import OneDimensional
        >>> round(OneDimensional(variance=4.0).stationary_variance(0.5, batch_size=8), 4)
        0.1667
    """

    mean: float = 0.0
    variance: float = 1.0

    def gradient(self, position: float) -> float:
        """g = β − E y, the population gradient."""
        return position - self.mean

    def law(
        self,
        learning_rates: ArrayLike,
        batch_size: int,
        start: float = 0.0,
        start_variance: float = 0.0,
    ) -> tuple[Steps, Steps]:
        """Mean and variance of β before the first step and after each: m' = (1−η)m + ηE y, v' =
        (1−η)²v + η²σ²/B.

        Args:
            learning_rates: η_t at every step, [steps].
            batch_size: B.
            start: Mean of β_0.
            start_variance: Variance of β_0.
        """
        rates = np.asarray(learning_rates, dtype=np.float64)
        means, variances = np.empty(len(rates) + 1), np.empty(len(rates) + 1)
        means[0], variances[0] = start, start_variance
        for step, rate in enumerate(rates):
            means[step + 1] = (1 - rate) * means[step] + rate * self.mean
            variances[step + 1] = (1 - rate) ** 2 * variances[
                step
            ] + rate**2 * self.variance / batch_size
        return means, variances

    def stationary_variance(self, learning_rate: float, batch_size: int) -> float:
        """ησ²/(B(2 − η)), the variance of β at a constant learning rate, long after the start.

        Raises:
            BadArgument: η is not below 2. Beyond, β diverges.
        """
        return float(self._quadratic.stationary_covariance(learning_rate, batch_size)[0, 0])

    def running_mean_variance(self, steps: int, batch_size: int) -> float:
        """σ²/(Bt), the variance of β after t steps at η_t = 1/t, from any start: β is the mean of
        all y so far."""
        return self.variance / (batch_size * steps)

    def simulate(
        self,
        learning_rates: ArrayLike,
        *,
        chains: int,
        batch_size: int,
        start: float = 0.0,
        seed: int = 0,
    ) -> Float[np.ndarray, "steps chains"]:
        """β of many independent runs on fresh batches, from the start on: steps + 1 values per
        chain.

        Args:
            learning_rates: η_t at every step, [steps].
            chains: Number of runs.
            batch_size: B.
            start: β_0 of all runs.
            seed: Seed of the noise.
        """
        iterates = self._quadratic.simulate(
            learning_rates, chains=chains, batch_size=batch_size, start=[start], seed=seed
        )
        return iterates[:, :, 0]

    def problem(self, examples: int = 1000, seed: int = 0, start: float | None = None) -> Problem:
        """Gaussian y as training set, [examples, 1], a test set of the same size, and β as the
        model's parameter.

        Its full gradient and noise are known exactly: see `on`.

        Args:
            examples: N.
            seed: Seed of the examples.
            start: β_0; by default it is drawn from N(E y, 1) when the model is made.
        """
        drawn = self._quadratic.problem(examples, seed, None if start is None else [start])
        return replace(
            drawn,
            name="one-dimensional",
            description=(
                f"The one-dimensional example, ½(β − y)²: {examples:,} values of y to train on."
            ),
        )

    def on(self, train: Examples) -> "OneDimensional":
        """The same example with a training set as the population: its mean, and its variance with N
        in the denominator.

        All closed forms hold for it, with the Train gradient as g and batches drawn with
        replacement.
        """
        values = torch.as_tensor(train.data).double()
        return OneDimensional(float(values.mean()), float(values.var(correction=0)))

    @property
    def _quadratic(self) -> Quadratic:
        return Quadratic([1.0], [self.variance], [self.mean])


def load(model: str = "position", seed: int = 0) -> Problem:
    """A thousand y of mean 0 and variance 1."""
    return OneDimensional().problem(seed=seed)
