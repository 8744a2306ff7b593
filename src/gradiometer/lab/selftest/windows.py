"""Many windows of independent readings or of readings along SGD, with their true noise scale."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gradiometer.estimation.noise import noise_moments
from gradiometer.lab.selftest.known import KnownProblem, Weights
from gradiometer.measurement.reading import Spread
from gradiometer.measurement.uncertainty.means import ratio_of_means

CHAINS = 100
"""Parallel runs of SGD: enough to make a step efficient, few enough to stay in the processor's
cache."""


@dataclass(frozen=True)
class Windows:
    """The moments of `GradientNoise` in many windows, and the true noise scale.

    Args:
        gradient_variance: Estimates of tr Σ, one per window and step.
        gradient_norm_squared: Estimates of ‖g‖².
        noise_scale: tr Σ / ‖g‖², known exactly, in examples.
    """

    gradient_variance: Float[np.ndarray, "windows steps"]
    gradient_norm_squared: Float[np.ndarray, "windows steps"]
    noise_scale: float

    def __len__(self) -> int:
        return len(self.gradient_variance)

    def covered(self, level: float = 0.9) -> int:
        """The number of windows whose interval contains the noise scale."""
        estimates = (
            ratio_of_means(*pair, level=level)
            for pair in zip(self.gradient_variance, self.gradient_norm_squared, strict=True)
        )
        return sum(estimate.low <= self.noise_scale <= estimate.high for estimate in estimates)


def independent_windows(
    known: KnownProblem, batch_size: int, windows: int, steps: int, seed: int = 0
) -> Windows:
    """Readings at the fixed point, from independent batches drawn with replacement."""
    generator = torch.Generator().manual_seed(seed)
    per_example = known.per_example
    # Only inner products matter: the span of the gradients has at most as many dimensions as
    # examples.
    reduced = torch.linalg.qr(per_example.mT).R.mT
    moments = []
    # 20_000: number of batches whose gradients are in memory at once.
    for count in np.diff([*range(0, windows * steps, 20_000), windows * steps]):
        halves = drawn_halves(generator, int(count), batch_size, len(reduced)) @ reduced
        moments.append(half_moments(halves, batch_size))
    variance, norm_squared = np.concatenate(moments, axis=1).reshape(2, windows, steps)
    full = per_example.mean(0).square().sum()
    return Windows(
        variance, norm_squared, float((per_example.square().sum(1).mean() - full) / full)
    )


def stationary_windows(
    known: KnownProblem,
    batch_size: int,
    learning_rate: float,
    windows: int,
    steps: int,
    burn_in: int,
    seed: int = 0,
) -> Windows:
    """Readings along stationary runs of SGD at a constant learning rate.

    Every run gives several windows in turn. The true noise scale has a closed form for the
    quadratic; else it is the ratio of the exact tr Σ and ‖g‖², averaged over all points of all
    runs.

    Args:
        known: The problem; batches are drawn from its training set with replacement.
        batch_size: B.
        learning_rate: η.
        windows: Number of windows, a multiple of `CHAINS`.
        steps: Steps per window.
        burn_in: Steps before the first window.
        seed: Seed of the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    points = known.point.repeat(CHAINS, 1)
    length = steps * (windows // CHAINS)
    moments, exact = np.empty((length, 2, CHAINS)), np.empty((length, 2))
    for step in range(-burn_in, length):
        drawn = drawn_halves(generator, CHAINS, batch_size, len(known.examples))
        halves, full, gradient_variance = known.gradients(points, drawn)
        points -= learning_rate * halves.mean(1)
        if step >= 0:
            moments[step] = half_moments(halves, batch_size)
            exact[step] = gradient_variance.mean(), full.square().sum(1).mean()
    variance, norm_squared = moments.transpose(1, 2, 0).reshape(2, -1, steps)
    passed = float(exact[:, 0].mean() / exact[:, 1].mean())
    return Windows(
        variance, norm_squared, known.stationary_noise_scale(learning_rate, batch_size) or passed
    )


def drawn_halves(generator: torch.Generator, count: int, batch_size: int, examples: int) -> Weights:
    """Batches drawn with replacement and halved, as weights over the examples: [count, 2,
    examples]."""
    half = batch_size // 2
    drawn = torch.randint(examples, (count, 2, half), generator=generator)
    share = torch.full(drawn.shape, 1 / half, dtype=torch.float64)
    return torch.zeros(count, 2, examples, dtype=torch.float64).scatter_add_(2, drawn, share)


def half_moments(
    halves: Float[Tensor, "batches 2 params"], batch_size: int
) -> Float[np.ndarray, "2 batches"]:
    """The moments of `GradientNoise` for every batch: tr Σ and ‖g‖², from the gradients of its
    halves."""
    spread = Spread(
        sizes=np.full(2, batch_size // 2),
        squared_norms=halves.square().sum(2).mT.numpy(),
        mean_squared_norm=halves.mean(1).square().sum(1).numpy(),
    )
    return np.stack(noise_moments(spread))
