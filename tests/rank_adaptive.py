"""What one of several processes does in the test of the preconditioned noise: `python rank_adaptive.py FOLDER`."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from rank_loops import Blocks, local, loop, sharded

STEPS, RATE = 12, 0.01


def adaptive(out: Path) -> None:
    """AdamW under DDP and under FSDP2, by one backward an update and by two; the same bits when it is not measured."""
    for accumulation in (1, 2):
        for wrap in (DistributedDataParallel, sharded):
            kept = [
                loop(
                    out, steps=STEPS, rate=RATE, clip=False, wrap=wrap, make=Blocks, accumulation=accumulation,
                    kind=torch.optim.AdamW, watched=on, gauges="noise,preconditioned_noise",
                    name=f"{wrap.__name__}-{accumulation}",
                )[0]
                for on in (True, False)
            ]  # fmt: skip
            pairs = zip(*(map(local, model.parameters()) for model in kept), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    adaptive(Path(sys.argv[1]))
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads may still let go of tensors, and abort where the interpreter is being taken down
