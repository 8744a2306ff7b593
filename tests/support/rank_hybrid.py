"""What one of four processes does in a test of HSDP and of offloaded pieces: `python rank_hybrid.py
FOLDER`."""

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rank_loops import Blocks, local, loop, sharded


def hybrid(model: nn.Module) -> nn.Module:
    """HSDP: sharded within two groups, each of which holds all of the model."""
    from torch.distributed.device_mesh import init_device_mesh

    shape = (2, dist.get_world_size() // 2)
    return sharded(
        model, mesh=init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "shards"))
    )


def offloaded(model: nn.Module) -> nn.Module:
    """FSDP2 that keeps its pieces on the CPU; so does gloo, but by another way through torch."""
    from torch.distributed.fsdp import CPUOffloadPolicy

    return sharded(model, offload_policy=CPUOffloadPolicy(pin_memory=False))


def alike_hybrid(out: Path) -> None:
    """The same training under DDP, under HSDP and with offloaded pieces."""
    for accumulation in (1, 2):
        settings: dict[str, Any] = {"accumulation": accumulation, "make": Blocks, "page": False}
        for wrap in (DistributedDataParallel, hybrid, offloaded):
            loop(
                out,
                steps=12,
                rate=0.01,
                wrap=wrap,
                name=f"{wrap.__name__}-{accumulation}",
                **settings,
            )
    for wrap in (hybrid, offloaded):
        kept = [
            loop(out, steps=6, rate=0.01, wrap=wrap, watched=on, make=Blocks, page=False)[0]
            for on in (True, False)
        ]
        pairs = zip(*(map(local, model.parameters()) for model in kept), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    alike_hybrid(Path(sys.argv[1]))
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # for the reason that rank_loops.py has
