"""The double well: two minima and a barrier, which SGD crosses more often at a higher
temperature."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import LEVEL, Estimate
from gradiometer.measurement.uncertainty.means import mean
from gradiometer.problems import Examples, Problem
from gradiometer_lab.closed_forms.quadratic import Place, output_losses
from gradiometer_lab.temperature.stationary_law import (
    SGDRule,
    passage_steps,
    small_rate_temperature,
)

# V″ at both minima.
CURVATURE = 8


@dataclass(frozen=True)
class DoubleWell:
    """loss(Φ, x) = (Φ² − 1)² − (x − E x)Φ, with x of variance σ²: V has minima at ±1, and between
    them a barrier of 1 at 0.

    The gradient of an example has variance σ² at every Φ, so that SGD runs at the temperature T =
    ησ²/(2B), and crosses from one minimum to the other in a time exponential in 1/T.

    Args:
        variance: σ² of x, positive.

    Source: Kramers (1940), Brownian Motion in a Field of Force; the loss is the textbook's quartic.

    Example:
        >>> from gradiometer_lab.closed_forms.double_well import DoubleWell
        >>> well = DoubleWell(variance=16.0)
        >>> well.temperature(0.05, batch_size=2), round(well.exact_steps(0.05, batch_size=2))
        (0.2, 3325)
    """

    variance: float = 1.0

    def gradient(self, position: Float[np.ndarray, " walkers"]) -> Float[np.ndarray, " walkers"]:
        """V′(Φ) = 4Φ(Φ² − 1)."""
        return np.asarray(4 * position * (position**2 - 1))

    def losses(
        self, position: Float[Tensor, ""], examples: Float[Tensor, "examples 1"]
    ) -> Float[Tensor, " examples"]:
        """(Φ² − 1)² − xΦ of every example x."""
        return (position.square() - 1).square() - examples[:, 0] * position

    def temperature(self, learning_rate: float, batch_size: int) -> float:
        """T = ησ²/(2B), in units of the loss."""
        return small_rate_temperature(self.variance, 1, SGDRule(learning_rate, batch_size))

    def exact_steps(self, learning_rate: float, batch_size: int) -> float:
        """The mean number of steps from one minimum to the other or beyond, for Gaussian x, at any
        η and temperature.

        Raises:
            BadArgument: η is not below 2/V″, the limit of the wells.
        """
        temperature = self._checked_temperature(learning_rate, batch_size)
        spread = math.sqrt(temperature / (CURVATURE * (1 - learning_rate * CURVATURE / 2)))
        return passage_steps(
            self.gradient,
            learning_rate,
            temperature,
            start=-1.0,
            end=1.0,
            # 12 standard deviations of the stationary law around the start
            lowest=-1 - 12 * spread,
        )

    def crossing_steps(
        self,
        learning_rate: float,
        batch_size: int,
        *,
        walkers: int,
        steps: int,
        level: float = LEVEL,
        seed: int = 0,
    ) -> Estimate:
        """The same number from a simulation: steps per crossing of many independent walkers that
        start at a minimum.

        A crossing ends when a walker reaches the minimum of the other well, and the next one begins
        there. Crossings are counted after 20 relaxation times 1/(ηV″), when the wells have filled.
        The interval is Student's over the rates of the walkers.

        Args:
            learning_rate: η.
            batch_size: B.
            walkers: Number of walkers, at least 4.
            steps: Steps per walker.
            level: Confidence level.
            seed: Seed of the noise.

        Raises:
            BadArgument: η is not below the limit of the wells, or almost no walker crossed.
        """
        crossings = self._crossings(learning_rate, batch_size, walkers, steps, seed)
        # Rates of walkers have a mean with an interval; times of those that never crossed have
        # none.
        rate = mean(crossings / steps, level=level, batches=walkers)
        if not rate.low > 0:
            raise BadArgument(
                f"`steps` is too small: {walkers:,} walkers made {int(crossings.sum())} crossings "
                f"in {steps:,} steps. Take more steps, more walkers or a higher temperature."
            )
        return Estimate.interval(
            1 / rate.value,
            1 / rate.high,
            1 / rate.low,
            level=level,
            method=f"{rate.method} of the rate",
            samples=walkers,
            unit="steps",
        )

    def _crossings(
        self, learning_rate: float, batch_size: int, walkers: int, steps: int, seed: int
    ) -> Float[np.ndarray, " walkers"]:
        """The number of crossings of each walker, once the wells have filled."""
        spread = math.sqrt(2 * learning_rate * self._checked_temperature(learning_rate, batch_size))
        # 20.0: relaxation times 1/(ηV″) before crossings are counted, because the first crossing
        # takes time.
        settling = math.ceil(20.0 / (learning_rate * CURVATURE))
        generator, pull = np.random.default_rng(seed), 4 * learning_rate
        position, side = np.full(walkers, -1.0), np.full(walkers, -1.0)
        crossings = np.zeros(walkers)
        # A walker that diverges is found below.
        with np.errstate(over="ignore", invalid="ignore"):
            for step in range(-settling, steps):
                kick = generator.standard_normal(walkers) * spread
                position = position * (1 + pull - pull * position * position) + kick
                arrived = position * side <= -1
                side = np.where(arrived, -side, side)
                if step >= 0:
                    crossings += arrived
        if not np.isfinite(position).all():
            raise BadArgument(
                f"`learning_rate` {learning_rate:g} made a walker diverge within {steps:,} steps: "
                "take a smaller one."
            )
        return crossings

    def problem(self, examples: int = 1000, seed: int = 0, start: float | None = None) -> Problem:
        """A finite training set of Gaussian x with mean exactly 0, and a test set of equal size, in
        double precision.

        Args:
            examples: N.
            seed: Seed of the examples.
            start: Φ_0; the default is −1.
        """
        generator = np.random.default_rng(seed)
        drawn = generator.standard_normal((2, examples, 1)) * math.sqrt(self.variance)
        train, test = (torch.from_numpy(part - part.mean()) for part in drawn)
        return Problem(
            name="double-well",
            model=lambda: Place(-1.0 if start is None else start, self.losses),
            loss=output_losses,
            train=Examples(train, "train"),
            test=Examples(test, "test"),
            model_name="walker",
            description=f"A double well of barrier 1: {examples:,} examples to train on.",
        )

    def _checked_temperature(self, learning_rate: float, batch_size: int) -> float:
        """The temperature. The learning rate must be below the limit of the wells."""
        temperature = self.temperature(learning_rate, batch_size)
        if not learning_rate < 2 / CURVATURE:
            raise BadArgument(
                f"`learning_rate` must lie between 0 and 2/curvature = {2 / CURVATURE}, got "
                f"{learning_rate}: SGD diverges beyond."
            )
        return temperature


def load(model: str = "walker", seed: int = 0) -> Problem:
    """A barrier of 1 between minima at −1 and 1, a thousand x of variance 1."""
    return DoubleWell().problem(seed=seed)
