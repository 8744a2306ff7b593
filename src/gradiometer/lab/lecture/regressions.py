"""Softmax regressions on the digits, many runs at once: real data with exactly known minimum,
curvature and noise."""

from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gradiometer.convergence.schedules.schedule import Schedule
from gradiometer.lab.closed_forms.quadratic import Quadratic
from gradiometer.lab.lecture.network import digits_network

RUNS, SIZE, DECAY = 64, 8, 0.1
"""Independent runs, their batch size, and a weight decay that makes the loss strongly convex."""
CLASSES = 10


class Regressions:
    """Softmax regressions on the digits: one model of 650 parameters, with all runs in one tensor.

    Args:
        seed: Seed of the batches.
        batch_size: B.
        start: Standard deviation of the weights at the start, drawn per run.
    """

    def __init__(self, seed: int, batch_size: int = SIZE, start: float = 0.0) -> None:
        images, labels = digits_network().everything
        self.inputs = torch.cat(
            [images.flatten(1).double(), torch.ones(len(images), 1).double()], dim=1
        )
        self.labels = labels
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)
        shape = (RUNS, self.inputs.shape[1], CLASSES)
        self.weights = start * torch.randn(shape, dtype=torch.float64, generator=self.generator)

    @property
    def positions(self) -> Float[np.ndarray, "runs params"]:
        """The parameters of every run."""
        found: np.ndarray = self.weights.flatten(1).numpy()
        return found

    def put(self, position: Float[np.ndarray, " params"]) -> None:
        """Put all runs at one point."""
        self.weights = torch.from_numpy(position).reshape(1, -1, CLASSES).repeat(RUNS, 1, 1)

    def train(self, schedule: Schedule, steps: int) -> Float[Tensor, "runs inputs classes"]:
        """Steps of SGD on batches of independent draws. Returns the mean of the iterates."""
        total = torch.zeros_like(self.weights)
        for step in range(steps):
            chosen = torch.randint(
                len(self.labels), (RUNS, self.batch_size), generator=self.generator
            )
            self.weights = self.weights - schedule(step) * self.gradient(self.weights, chosen)
            total += self.weights
        return total / steps

    def gradient(
        self, weights: Float[Tensor, "runs inputs classes"], chosen: Int[Tensor, "runs examples"]
    ) -> Float[Tensor, "runs inputs classes"]:
        """ĝ of every run on its own batch, including weight decay."""
        inputs = self.inputs[chosen]
        errors = torch.softmax(inputs @ weights, dim=-1)
        # p − y without a one-hot copy of the labels for every run.
        errors.scatter_add_(2, self.labels[chosen][..., None], -torch.ones_like(errors[..., :1]))
        return inputs.mT @ errors / chosen.shape[1] + DECAY * weights

    def entropies(
        self, probabilities: Float[Tensor, "runs examples classes"]
    ) -> Float[np.ndarray, " runs"]:
        """The mean cross-entropy of probabilities, without weight decay."""
        values: np.ndarray = (
            -probabilities[:, torch.arange(len(self.labels)), self.labels].log().mean(dim=1).numpy()
        )
        return values

    def losses(self, weights: Float[Tensor, "runs inputs classes"]) -> Float[np.ndarray, " runs"]:
        """L_Train of every run, including weight decay."""
        scores = torch.log_softmax(self.inputs @ weights, dim=-1)
        entropy = -scores[:, torch.arange(len(self.labels)), self.labels].mean(dim=1)
        values: np.ndarray = (entropy + DECAY / 2 * weights.square().sum(dim=(1, 2))).numpy()
        return values

    @cached_property
    def largest_curvature(self) -> float:
        """No curvature of the loss is above it: half the largest one of the inputs, plus the decay.

        Source: Böhning (1992), Multinomial Logistic Regression Algorithm, theorem 1: diag p − p pᵀ
        ⪯ ½(I − 11ᵀ/k).
        """
        inputs = self.inputs.T @ self.inputs / len(self.inputs)
        return float(torch.linalg.eigvalsh(inputs)[-1]) / 2 + DECAY

    def at_the_minimum(self) -> Quadratic:
        """The quadratic that the loss is near its minimum, with the exact H and Σ there: see
        `minimum`."""
        everything = torch.arange(len(self.labels)).expand(1, -1)
        weights = torch.zeros_like(self.weights[:1])
        for _ in range(12):  # Newton's method: the residual falls to rounding in about eight
            slope = self.gradient(weights, everything).reshape(-1)
            weights = weights - torch.linalg.solve(self._hessian(weights[0]), slope).reshape(
                weights.shape
            )
        shares = torch.softmax(self.inputs @ weights[0], dim=-1)
        shares[torch.arange(len(self.labels)), self.labels] -= 1
        # the decay is the same for all examples
        each = (self.inputs[:, :, None] * shares[:, None, :]).flatten(1)
        # N in the denominator: the batches are drawn from these examples.
        noise = torch.cov(each.T, correction=0)
        return Quadratic(
            self._hessian(weights[0]).numpy(), noise.numpy(), weights.flatten().numpy()
        )

    def _hessian(self, weights: Float[Tensor, "inputs classes"]) -> Float[Tensor, "params params"]:
        """Mean of (diag p − p pᵀ) ⊗ x xᵀ, plus the decay."""
        shares = torch.softmax(self.inputs @ weights, dim=-1)
        size = weights.numel()
        between = torch.diag_embed(shares) - shares[:, :, None] * shares[:, None, :]
        pairs = (self.inputs[:, :, None] * self.inputs[:, None, :]).flatten(1)
        blocks = pairs.T @ between.flatten(1) / len(shares)
        inputs = len(weights)
        hessian = (
            blocks.reshape(inputs, inputs, CLASSES, CLASSES).permute(0, 2, 1, 3).reshape(size, size)
        )
        return hessian + DECAY * torch.eye(size, dtype=torch.float64)


@cache
def minimum() -> Quadratic:
    """The quadratic that the loss of all regressions is near its minimum: it depends on the data
    and the decay only."""
    return Regressions(seed=0).at_the_minimum()
