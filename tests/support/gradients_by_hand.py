"""A watched network whose noise is also computed by hand, one example at a time."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradiometer import watch
from gradiometer.integrations.watch import Watch
from gradiometer.measurement import supervised

Batch = tuple[Tensor, Tensor]
Network = tuple[nn.Sequential, torch.optim.SGD]
LOSSES = supervised(nn.CrossEntropyLoss(reduction="none"))


def network(rate: float = 0.05) -> Network:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5)).double()
    return model, torch.optim.SGD(model.parameters(), lr=rate)


def batches(count: int, size: int = 8) -> list[Batch]:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(size, 8, generator=generator, dtype=torch.float64),
            torch.randint(5, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def backward(model: nn.Module, batch: Batch, share: float = 1.0) -> Tensor:
    loss = LOSSES(model, batch).mean()
    (loss * share).backward()
    return loss


def by_hand(model: nn.Module, parts: list[Batch]) -> tuple[float, float]:
    """tr Σ and ‖g‖² from the gradients of micro-batches, each made by itself on a copy of the
    model."""
    rows = []
    for part in parts:
        alone = copy.deepcopy(model)
        alone.zero_grad()
        backward(alone, part)
        grads = [
            p.grad if p.grad is not None else torch.zeros_like(p)
            for p in alone.parameters()
            if p.requires_grad
        ]
        rows.append(torch.cat([grad.reshape(-1) for grad in grads]))
    gradients, size = torch.stack(rows), len(parts[0][0])
    trace = size * float(gradients.var(dim=0).sum())
    return trace, float(gradients.mean(0).square().sum()) - trace / (size * len(parts))


def examples(batch: Batch) -> list[Batch]:
    return [(batch[0][[place]], batch[1][[place]]) for place in range(len(batch[1]))]


def assert_read(
    w: Watch, expected: list[tuple[float, float]], steps: list[int] | None = None
) -> None:
    """The readings at these steps, at all if none are named, are those made by hand."""
    series = w.run.series("noise")
    assert series.steps.tolist() == ([*range(len(expected))] if steps is None else steps)
    read = np.stack(
        [
            series.moments["gradient_variance"].sum(1),
            series.moments["gradient_norm_squared"].sum(1),
        ],
        axis=1,
    )
    assert read == pytest.approx(np.array(expected)[series.steps], rel=1e-9, abs=1e-9)


def watched(tmp_path: Path, made: Network, **settings: Any) -> Watch:
    settings = {"loss": LOSSES, "every": 1, "gauges": "noise", "parts": 0} | settings
    return watch(*made, out=tmp_path, **settings)
