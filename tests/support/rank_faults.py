"""One of two processes fails while measuring: `python rank_faults.py FOLDER`. Training continues on
both."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fixed_point import POINTS, SAMPLING, Position
from gradiometer import watch
from gradiometer.errors import StorageFailed
from gradiometer.integrations.watch import Watch

torch.set_num_threads(1)
STEPS = 9


def trained(
    out: Path, failing: int | None, step: int, accumulation: int
) -> tuple[Tensor, list[str]]:
    """The trained parameter, and the warnings. The process `failing` meets a full
    disk at a step."""
    model = Position()
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(dist.get_rank())
    with watch(
        wrapped, optimizer, out=out, every=2, accumulation=accumulation, sampling=SAMPLING
    ) as w:
        for index in range(STEPS):
            optimizer.zero_grad()
            for part in range(accumulation):
                batch = POINTS[torch.randint(len(POINTS), (4,), generator=generator)]
                loss = wrapped(batch).mean()
                (loss / accumulation).backward()
                if failing == dist.get_rank() and index == step and part == accumulation - 1:
                    fail(w)
                w.step(loss, batch)
            optimizer.step()
    return torch.cat([model.first, model.rest]).detach(), list(w.findings().warnings)


def fail(w: Watch) -> None:
    def full(*_: object) -> None:
        raise StorageFailed(
            "`events.jsonl` could not be written: no space left on device; free some space."
        )

    w.losses.take = full  # type: ignore[method-assign]
    w.gauges.reader.catch = full  # type: ignore[method-assign]


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=20))
    for accumulation in (1, 2):
        plain, none = trained(Path(sys.argv[1]), None, 0, accumulation)
        assert none == [], none
        for failing in (0, 1):
            for step in (3, 4):  # an unmeasured and a measured one
                made, warnings = trained(Path(sys.argv[1]), failing, step, accumulation)
                assert torch.equal(made, plain), (failing, step)
                assert "has stopped" in warnings[0], (dist.get_rank(), failing, step, warnings)
    dist.barrier()
    dist.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads may abort while the interpreter ends
