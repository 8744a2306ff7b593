"""A small classifier in a loop with `watch`, and a clock that a test sets."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradiometer import watch
from gradiometer.integrations.watch import Watch
from gradiometer.measurement import supervised

# Earlier versions of torch do not show the hooks of saved tensors, and no labels are read there.
READS_LABELS = pytest.mark.skipif(
    not hasattr(torch._C._autograd.SavedTensor, "unpack_hook"),
    reason="this version of torch does not show the hooks of saved tensors",
)


def simple(out: Path, **settings: Any) -> tuple[nn.Module, torch.optim.Optimizer, Watch]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    settings = {"loss": supervised(nn.CrossEntropyLoss(reduction="none")), "every": 1} | settings
    if settings["every"] is not None:
        settings = {"parts": 2} | settings  # a reading is made at each of these steps
    return model, optimizer, watch(model, optimizer, out=out, **settings)


def one_backward(
    model: nn.Module, size: int = 8, share: float = 1.0
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    batch = (torch.randn(size, 8), torch.randint(5, (size,)))
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    (loss * share if share != 1 else loss).backward()
    return loss, batch


class Clock:
    """A second a training step, and a little for everything that looks at it; a measurement takes
    three seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1e-5
        return self.seconds
