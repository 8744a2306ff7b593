"""A counterexample: a loss in a few numbers, for behaviour that the convergence theorem does not
exclude."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from gradiometer.lab.closed_forms.models import output_losses
from gradiometer.problems.examples import Examples
from gradiometer.problems.problem import Problem

Coordinates = tuple[Any, ...]
"""The coordinates of a point: floats, or arrays over runs."""


class Counterexample(ABC):
    """A smooth, non-negative loss in one or two numbers, whose gradient is known in closed form.

    The gradient of a batch depends only on the mean of its examples, so one draw per step replaces
    a batch of any size. If `deviation` is zero, all examples are equal and SGD is gradient descent.

    Attributes:
        name: Name on the command line.
        start: Φ_0.
        schedule: η, as a formula in t = 1, 2, …, under which it shows its behaviour.
        mean, deviation: Mean and standard deviation of an example's numbers, which are normal and
            independent.

    Example:
        >>> from gradiometer.lab.counterexamples.line import Arctangent
        >>> Arctangent().simulate([1.0, 0.5, 0.5]).ravel().round(3)  # runs away to infinity
        array([0.   , 1.   , 1.25 , 1.445])
    """

    name: ClassVar[str]
    schedule: ClassVar[str]
    start: tuple[float, ...]
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (0.0,)

    @abstractmethod
    def losses(
        self, position: Float[Tensor, " params"], examples: Float[Tensor, "examples drawn"]
    ) -> Tensor:
        """The loss of every example, [examples]."""

    @abstractmethod
    def gradient(self, point: Coordinates, example: Coordinates) -> Coordinates:
        """ĝ of a batch with this mean example."""

    def simulate(
        self,
        learning_rates: ArrayLike,
        *,
        runs: int = 1,
        batch_size: int = 1,
        seed: int = 0,
        kept: Collection[int] | None = None,
    ) -> Float[np.ndarray, "kept runs params"]:
        """The iterates of independent runs, from the start on.

        Args:
            learning_rates: η_t at every step, [steps].
            runs: Number of runs.
            batch_size: B.
            seed: Seed of the examples.
            kept: Numbers of updates after which the iterate is kept; by default all, from 0 to
                steps.
        """
        rates = np.asarray(learning_rates, dtype=np.float64)
        wanted = range(len(rates) + 1) if kept is None else set(kept)
        generator = np.random.default_rng(seed)
        point: Coordinates = tuple(
            float(x) if runs == 1 else np.full(runs, float(x)) for x in self.start
        )
        noisy, example = any(self.deviation), self.mean
        iterates = []
        for step, rate in enumerate([*rates.tolist(), 0.0]):
            if step in wanted:
                iterates.append(
                    np.stack(np.broadcast_arrays(*(np.atleast_1d(x) for x in point)), axis=-1)
                )
            if noisy:
                example = self._mean_example(generator, runs, batch_size)
            gradient = self.gradient(point, example)
            point = tuple(x - rate * g for x, g in zip(point, gradient, strict=True))
        return np.array(iterates).reshape(len(iterates), runs, len(self.start))

    def problem(self, examples: int = 256, seed: int = 0) -> Problem:
        """The training problem: Φ is the model's parameter, in double precision.

        The examples are shifted and scaled to have exactly the mean and variance of their
        distribution, so that the training loss is that of the closed forms.

        Args:
            examples: N.
            seed: Seed of the examples.
        """
        drawn = torch.randn(
            examples,
            len(self.mean),
            dtype=torch.float64,
            generator=torch.Generator().manual_seed(seed),
        )
        drawn = (drawn - drawn.mean(dim=0)) / drawn.std(dim=0, correction=0).clamp_min(1e-12)
        law = [
            torch.tensor(numbers, dtype=torch.float64) for numbers in (self.mean, self.deviation)
        ]
        return Problem(
            name=self.name,
            model=lambda: Point(self),
            loss=output_losses,
            train=Examples(law[0] + law[1] * drawn, "train"),
            model_name="point",
            description=(self.__doc__ or self.name).partition("\n")[0],
        )

    def _mean_example(
        self, generator: np.random.Generator, runs: int, batch_size: int
    ) -> Coordinates:
        shape = None if runs == 1 else runs
        return tuple(
            mean + deviation / math.sqrt(batch_size) * generator.standard_normal(shape)
            if deviation
            else mean
            for mean, deviation in zip(self.mean, self.deviation, strict=True)
        )


class Point(nn.Module):
    """A point of a counterexample; its output is the loss of each example."""

    def __init__(self, counterexample: Counterexample) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.tensor(counterexample.start, dtype=torch.float64))
        self.counterexample = counterexample

    def forward(self, examples: Float[Tensor, "examples drawn"]) -> Float[Tensor, " examples"]:
        """The loss of each example."""
        losses: Tensor = self.counterexample.losses(self.position, examples)
        return losses
