"""What one of several processes does in tests of gauges that run the model: `python
rank_curvature.py NAME,… FOLDER`."""

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradiometer import Draw, Sampling, Unsupported, watch

torch.set_num_threads(1)
BATCH, STEPS = 32, 40
DATA = torch.randn(400, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
SAMPLING = Sampling(Draw.REPLACEMENT, len(DATA))


def network() -> nn.Module:
    """A small network in double precision, so that only rounding differs between processes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def losses(model: nn.Module, batch: Tensor) -> Tensor:
    """Squared errors."""
    squared: Tensor = (model(batch[:, :5]).squeeze(1) - batch[:, 5]).square()
    return squared


def loop(
    out: Path,
    name: str,
    gauges: Sequence[Any],
    *,
    accumulation: int = 1,
    rate: float = 0.05,
    steps: int = STEPS,
    batch: int = BATCH,
    **asked: Any,
) -> tuple[nn.Module, Any]:
    """A training whose batches are the same, however many processes share them."""
    rank, count = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    model = network()
    wrapped = DistributedDataParallel(model) if dist.is_initialized() else model
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    draw = torch.Generator().manual_seed(1)
    settings: dict[str, Any] = {
        "loss": losses,
        "every": 1,
        "sampling": SAMPLING,
        "page": False,
        "quiet": True,
    }
    settings |= {"gauges": gauges, "accumulation": accumulation, "name": name, **asked}
    with watch(wrapped, optimizer, out=out, **settings) as w:
        for _ in range(steps):
            optimizer.zero_grad()
            rows = DATA[torch.randint(len(DATA), (batch,), generator=draw)]
            for place, part in enumerate(
                rows.chunk(count * accumulation)[rank * accumulation :][:accumulation]
            ):
                if dist.is_initialized():
                    wrapped.require_backward_grad_sync = place == accumulation - 1
                loss = losses(wrapped, part).mean()
                (loss / accumulation).backward()
                w.step(loss, part)
            optimizer.step()
    return model, w


def alike(out: Path) -> None:
    """Batch sharpness and the curvature along the gradient, once and with accumulation; and the
    bits of training."""
    for accumulation in (1, 2):
        loop(
            out, f"several-{accumulation}", ["noise", "batch_sharpness"], accumulation=accumulation
        )
    kept = [
        loop(out, "kept", ["noise", "curvature_along_gradient"], **each)[0]
        for each in ({}, {"every": None, "budget": 0.0})
    ]
    assert all(map(torch.equal, *(model.parameters() for model in kept)))
    loop(out, "alone", ["batch_sharpness"])
    _, w = loop(out, "now and then", ["noise", "batch_sharpness"], every=None, budget=0.5)
    assert w.run is None or len(w.run.series("noise")) >= 1
    loop(out, "standing", ["curvature_along_gradient"], rate=0.0, steps=200, batch=8 * BATCH)


def failing(out: Path) -> None:
    """The last process alone cannot measure its share: no process waits for it, and the noise is
    measured on."""
    last = dist.get_rank() == dist.get_world_size() - 1

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        if last and torch.is_grad_enabled() and loop_is_measured[0]:
            raise Unsupported("`loss` has no second derivative here: leave it out.")
        return losses(model, batch)

    loop_is_measured = [True]
    _, w = loop(out, "failing", ["noise", "batch_sharpness"], loss=loss)
    if w.run is not None:
        assert len(w.run.series("noise")) == STEPS and w.run.series("batch_sharpness") is None
        (warning,) = w.run.warnings
        assert "batch_sharpness is no longer measured" in warning
        assert f"rank {dist.get_world_size() - 1} could not measure its share" in warning, warning


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    for each in sys.argv[1].split(","):
        globals()[each](Path(sys.argv[2]) / each)
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # for the reason that rank_loops.py has
