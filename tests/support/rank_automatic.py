"""One of two processes that train under DDP and FSDP2, with `w.step` and with `w.batches`:
`rank_automatic.py FOLDER`."""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from gradiometer import Run, watch


def run_of(out: Path, *, sharded: bool, called: bool) -> Run | None:
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    if sharded:
        fully_shard(model[0])
        fully_shard(model)
    else:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    draws = torch.Generator().manual_seed(10 + dist.get_rank())
    data = [
        (torch.randn(8, 8, generator=draws), torch.randint(5, (8,), generator=draws))
        for _ in range(16)
    ]
    with watch(
        model, optimizer, accumulation=2, every=2, gauges="noise", out=out, page=False, quiet=True
    ) as w:
        for place, batch in enumerate(data if called else w.batches(data), start=1):
            loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
            (loss / 2).backward()
            if called:
                w.step(loss, batch)
            if place % 2 == 0:
                optimizer.step()
                optimizer.zero_grad()
    return w.run


def moments(run: Run | None) -> list[object]:
    assert run is not None and run.warnings == []
    series = run.series("noise")
    assert series is not None and len(series) == 4
    return [*(values.tolist() for values in series.moments.values()), run.losses[1].tolist()]


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for sharded in (False, True):
        called, alone = (
            run_of(Path(sys.argv[1]), sharded=sharded, called=called) for called in (True, False)
        )
        if dist.get_rank() == 0:
            assert moments(called) == moments(alone), sharded
    dist.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads may abort while the interpreter ends
