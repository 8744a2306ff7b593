"""What one of several processes does in the tests of distributed training: `python rank_loops.py NAME FOLDER`."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gradiometer import watch
from gradiometer.errors import BadInput
from standing import BATCH, POINTS, RATE, SAMPLING, Position, losses

torch.set_num_threads(1)


def loop(
    out: Path,
    *,
    steps: int,
    accumulation: int = 1,
    rate: float = RATE,
    watched: bool = True,
    seed: int = 1,
    **asked: Any,
) -> Any:
    """A DDP loop on the standing problem, clipped, the batch shared by all ranks; the model and the watch."""
    model = Position()
    ddp = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(100 * seed + dist.get_rank())
    asked = {"every": 1, "level": 0.999, "sampling": SAMPLING} | asked
    w = watch(ddp, optimizer, out=out, accumulation=accumulation, **asked) if watched else None
    if w:
        w.__enter__()
    size = BATCH // dist.get_world_size() // accumulation
    for _ in range(steps):
        optimizer.zero_grad()
        for part in range(accumulation):
            batch = POINTS[torch.randint(len(POINTS), (size,), generator=generator)]
            ddp.require_backward_grad_sync = part == accumulation - 1
            loss = ddp(batch).mean()
            (loss / accumulation).backward()
            if w:
                w.step(loss, batch)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    if w:
        w.__exit__(None, None, None)
    return model, w


def known(out: Path) -> None:
    """Two runs of known noise, one accumulated; and a moving one with and without the instrument."""
    loop(out, steps=250)
    loop(out, steps=250, accumulation=2)
    moved = [loop(out, steps=40, rate=0.1, watched=watched)[0] for watched in (True, False)]
    pairs = zip(*(model.parameters() for model in moved), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert not torch.equal(moved[0].first, Position().first)
    _, w = loop(out, steps=300, every=None, budget=0.05)
    assert (w.run is None) == (dist.get_rank() != 0)
    if w.run is not None:
        assert 1 <= w.overhead["measured_steps"] < 300
        assert w.overhead["mode"] == "shared" and w.run.manifest["ranks"] == dist.get_world_size()


def gauges(out: Path) -> None:
    """The thermometer and the trajectory of a moving loop, plain and accumulated, clipped; and on a budget."""
    for accumulation in (1, 2):
        asked: dict[str, Any] = {"gauges": "noise,temperature,trajectory", "accumulation": accumulation}
        moved = [loop(out, steps=60, rate=0.1, watched=watched, **asked)[0] for watched in (True, False)]
        pairs = zip(*(model.parameters() for model in moved), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    loop(out, steps=300, rate=0.1, every=None, budget=0.05, gauges="temperature")


def refused(out: Path) -> None:
    """What cannot be measured of several processes."""
    model = Position()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    try:
        watch(DistributedDataParallel(model), optimizer, loss=losses, gauges="batch_sharpness")
    except BadInput as error:
        assert "of several processes ask for noise, temperature, trajectory alone" in str(error)
    sharded = nn.Linear(4, 4)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    fully_shard(sharded, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    try:
        watch(sharded, torch.optim.SGD(sharded.parameters(), lr=RATE), loss=losses)
    except BadInput as error:
        assert "sharded over processes" in str(error)
    else:
        raise AssertionError("a sharded model was not refused")


def covered(out: Path) -> None:
    """Many short runs."""
    for seed in range(100):
        loop(out, steps=60, level=0.9, seed=seed)


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    globals()[sys.argv[1]](Path(sys.argv[2]))
    dist.barrier()
    dist.destroy_process_group()
