"""A problem of known noise, and loops around it that stand still: the same number must come out of
every integration."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gradiometer.measurement import Draw, Estimates, Sampling

EXAMPLES, DIMENSION, BATCH = 400, 6, 8
RATE = 1e-9
"""Of learning: over a thousand steps Φ moves by less than a millionth of its distance from the
minimum."""

SAMPLING = Sampling(Draw.REPLACEMENT, EXAMPLES)
GENERATOR = torch.Generator().manual_seed(0)
POINTS = torch.randn(
    EXAMPLES, DIMENSION, generator=GENERATOR, dtype=torch.float64
) * torch.linspace(0.5, 2, DIMENSION)
TRACE = float(POINTS.var(dim=0, correction=0).sum())
SIGNAL = TRACE / 12
NOISE_SCALE = TRACE / SIGNAL
"""tr Σ/‖g‖², in examples, exactly."""


class Position(nn.Module):
    """A point Φ; its output is ½‖Φ − x‖² of every example x, so that an example's gradient is Φ −
    x."""

    def __init__(self) -> None:
        super().__init__()
        direction = torch.arange(1.0, DIMENSION + 1, dtype=torch.float64)
        away = SIGNAL**0.5 * direction / direction.norm()
        self.first = nn.Parameter((POINTS.mean(0) + away)[:2].clone())
        self.rest = nn.Parameter((POINTS.mean(0) + away)[2:].clone())

    def forward(self, points: Tensor) -> Tensor:
        return (torch.cat([self.first, self.rest]) - points).square().sum(-1) / 2


def losses(model: nn.Module, points: Tensor) -> Tensor:
    return model(points)


def draws(count: int, size: int = BATCH, seed: int = 1) -> Iterator[Tensor]:
    """Batches of independent draws."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield POINTS[torch.randint(EXAMPLES, (size,), generator=generator)]


def assert_known(estimates: Estimates) -> None:
    """All three intervals hold the exact values; at 99.9 %, one in a thousand fails by chance, and
    seeds are fixed."""
    for name, truth in (
        ("noise_scale", NOISE_SCALE),
        ("gradient_variance", TRACE),
        ("gradient_norm_squared", SIGNAL),
    ):
        estimate = estimates[name]
        assert estimate.level == 0.999
        assert estimate.low < truth < estimate.high, f"{name} {estimate} misses {truth}"
        assert truth / 2 < estimate.value < 2 * truth, f"{name} {estimate} is far from {truth}"
