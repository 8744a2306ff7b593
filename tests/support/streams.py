"""Least squares on a stream of fresh examples, many runs at once: its excess loss is known at every
step."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from gradiometer import BadArgument

PARTS = 8
"""Of the examples of a probe."""


@dataclass(frozen=True)
class Observation:
    """One step of several runs, all at the same learning rate.

    Args:
        learning_rate: η of this step.
        momentum: μ of PyTorch's heavy ball, v ← μv + ĝ, Φ ← Φ − ηv.
        loss: Loss of each run's batch, at Φ.
        position: Φ before the update.
        gradient: ĝ at Φ, weight decay included.
        velocity: v after ĝ was added, for the update that follows; without momentum ĝ.
    """

    learning_rate: float
    momentum: float
    loss: Float[Tensor, " runs"]
    position: Float[Tensor, "runs params"]
    gradient: Float[Tensor, "runs params"]
    velocity: Float[Tensor, "runs params"]


@dataclass(frozen=True)
class Stream:
    """SGD at a constant rate on ½(Φ − Φ*)ᵀH(Φ − Φ*), H diagonal, under the noise of fresh examples,
    or a constant one.

    `regression`: examples x ~ N(0, H), y = x·Φ* + ε, ε ~ N(0, 1): the noise of ĝ grows with the
    excess loss, Cov ĝ = (H + H tr(HS) + HSH)/B where S = E(Φ − Φ*)(Φ − Φ*)ᵀ. Otherwise the noise is
    N(0, diag(noise)/B) at every Φ.

    Args:
        curvatures: The diagonal of H, in loss / parameter².
        noise: The diagonal of Σ where it is constant; None for regression.
        learning_rate: η.
        batch_size: B.
        momentum: μ of PyTorch's heavy ball.

    Source: the second moments of a linear recursion with multiplicative noise, as in Bach &
        Moulines (2013), Non-strongly-convex Smooth Stochastic Approximation with Convergence Rate
        O(1/n), lemma 1; the heavy ball as in `Quadratic.stationary_covariance`.
    """

    curvatures: tuple[float, ...]
    noise: tuple[float, ...] | None
    learning_rate: float
    batch_size: int
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 < h < math.inf for h in self.curvatures) or not self.curvatures:
            raise BadArgument(f"`curvatures` must be positive and finite, got {self.curvatures}.")
        if self.noise is not None and not (
            len(self.noise) == len(self.curvatures) and all(0 <= c < math.inf for c in self.noise)
        ):
            raise BadArgument(
                f"`noise` must be one finite variance for each of {len(self.curvatures)} "
                "curvatures."
            )
        if not (0 <= self.momentum < 1 and self.batch_size >= 1):
            raise BadArgument(
                f"`momentum` must lie in [0, 1) and `batch_size` be at least 1, got {self}."
            )
        limit = 2 * (1 + self.momentum) / max(self.curvatures)
        if not 0 < self.learning_rate < limit:
            raise BadArgument(
                f"`learning_rate` must lie between 0 and {limit:.4g}, got {self.learning_rate}."
            )
        if not (np.isfinite(self.floor) and self.floor >= 0):
            raise BadArgument(
                f"`learning_rate` {self.learning_rate} is too large for a batch of "
                f"{self.batch_size}."
            )

    @property
    def floor(self) -> float:
        """The mean excess loss once the start is forgotten: ½ tr(HS)."""
        h, rate, mu = np.array(self.curvatures), self.learning_rate, self.momentum
        unit = rate * (1 + mu) / (h * (1 - mu) * (2 * (1 + mu) - rate * h)) / self.batch_size
        if self.noise is not None:
            variances = unit * np.array(self.noise)
        else:
            feedback = unit[:, None] * (np.diag(h**2) + np.outer(h, h))
            if not np.abs(np.linalg.eigvals(feedback)).max() < 1:
                return math.inf
            variances = np.linalg.solve(np.eye(len(h)) - feedback, unit * h)
        return float(h @ variances) / 2

    def expected_excess(self, starts: ArrayLike, steps: int) -> Float[np.ndarray, "steps runs"]:
        """The mean excess loss at every step from 0 on, for runs that start at Φ* + starts, [runs,
        params]."""
        h, rate, mu = np.array(self.curvatures), self.learning_rate, self.momentum
        uu = np.asarray(starts, dtype=np.float64) ** 2
        uv, vv = np.zeros_like(uu), np.zeros_like(uu)
        excess = np.empty((steps, len(uu)))
        for step in range(steps):
            excess[step] = uu @ h / 2
            kick = mu**2 * vv + 2 * mu * h * uv + h**2 * uu + self._variance(uu)
            cross = mu * uv + h * uu
            uu, uv, vv = uu - 2 * rate * cross + rate**2 * kick, cross - rate * kick, kick
        return excess

    def walk(
        self, starts: Float[Tensor, "runs params"], steps: int, seed: int
    ) -> Iterator[Observation]:
        """The steps of the runs, in single precision; Φ* is the origin."""
        generator = torch.Generator().manual_seed(seed)
        position, velocity = starts.float().clone(), torch.zeros_like(starts, dtype=torch.float32)
        for _ in range(steps):
            gradient, loss = self._drawn(position, generator)
            velocity = self.momentum * velocity + gradient
            yield Observation(self.learning_rate, self.momentum, loss, position, gradient, velocity)
            position = position - self.learning_rate * velocity

    def probe(self, runs: int, examples: int, seed: int) -> "StreamProbe":
        """Fresh examples for each run to compare its points on."""
        return StreamProbe(self, runs, examples, seed)

    def _variance(self, uu: Float[np.ndarray, "runs params"]) -> Float[np.ndarray, "runs params"]:
        """The diagonal of Cov ĝ at the second moments uu."""
        h = np.array(self.curvatures)
        if self.noise is not None:
            return np.broadcast_to(np.array(self.noise) / self.batch_size, uu.shape)
        variance: np.ndarray = (h**2 * uu + h * (uu @ h)[:, None] + h) / self.batch_size
        return variance

    def _drawn(self, position: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch's gradient and loss for each run. With a noise of its own an example is x ~ N(Φ*,
        H⁻¹ΣH⁻¹)."""
        h, (runs, params) = torch.tensor(self.curvatures), position.shape
        if self.noise is None:
            inputs = torch.randn(runs, self.batch_size, params, generator=generator) * h.sqrt()
            errors = torch.einsum("rbp,rp->rb", inputs, position)
            errors = errors - torch.randn(runs, self.batch_size, generator=generator)
            gradient = torch.einsum("rbp,rb->rp", inputs, errors) / self.batch_size
            return gradient, (errors**2).mean(dim=1) / 2
        spread = torch.tensor(self.noise) / self.batch_size
        # Φ less the batch's mean
        away = position + torch.randn(runs, params, generator=generator) * spread.sqrt() / h
        within = torch._standard_gamma(
            torch.full((runs, params), (self.batch_size - 1) / 2), generator=generator
        )
        return h * away, (away**2 * h).sum(dim=1) / 2 + within @ (spread / h)


class StreamProbe:
    """A fixed set of fresh examples for each run: its loss, less that at Φ*, and its gradient,
    exactly."""

    def __init__(self, stream: Stream, runs: int, examples: int, seed: int) -> None:
        if not examples >= PARTS:
            raise BadArgument(
                f"`examples` must be at least {PARTS}, one for each part of a probe, got "
                f"{examples}."
            )
        generator = torch.Generator().manual_seed(seed)
        self.curvatures = torch.tensor(stream.curvatures, dtype=torch.float64)
        params, each = len(self.curvatures), examples // PARTS
        self.products: Tensor | None = None
        if stream.noise is not None:
            scale = (torch.tensor(stream.noise, dtype=torch.float64) / each).sqrt()
            self.pulls = (
                torch.randn(PARTS, runs, params, generator=generator, dtype=torch.float64) * scale
            )
            return
        self.products = torch.empty(PARTS, runs, params, params, dtype=torch.float64)
        self.pulls = torch.empty(PARTS, runs, params, dtype=torch.float64)
        for part in range(PARTS):
            for run in range(runs):
                inputs = (
                    torch.randn(each, params, generator=generator) * self.curvatures.sqrt().float()
                )
                self.products[part, run] = inputs.T @ inputs / each
                self.pulls[part, run] = inputs.T @ torch.randn(each, generator=generator) / each

    def loss(self, points: Float[Tensor, "runs params"]) -> Float[Tensor, " runs"]:
        """½ΦᵀĤΦ − Φ·b of each run."""
        points = points.double()
        curved = self._curved(points).mean(dim=0)
        return (points * (curved / 2 - self.pulls.mean(dim=0))).sum(dim=1)

    def gradient(self, points: Float[Tensor, "runs params"]) -> Float[Tensor, "runs params"]:
        """ĤΦ − b of each run, in the precision of its points."""
        return self.gradients(points).mean(dim=0)

    def gradients(self, points: Float[Tensor, "runs params"]) -> Float[Tensor, "parts runs params"]:
        """The same on each part of the examples."""
        return (self._curved(points.double()) - self.pulls).to(points.dtype)

    def _curved(self, points: Tensor) -> Tensor:
        if self.products is None:
            return (points * self.curvatures).expand(PARTS, *points.shape)
        return torch.einsum("srpq,rq->srp", self.products, points)
