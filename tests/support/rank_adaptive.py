"""What one of several processes does in the test of the preconditioned noise: `python
rank_adaptive.py FOLDER`."""

import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from fixed_point import POINTS
from gradiometer.measurement.preconditioner import preconditioner_of
from rank_loops import Blocks, local, loop, sharded

STEPS, RATE = 12, 0.01


def adaptive(out: Path) -> None:
    """AdamW under DDP and under FSDP2, by one backward an update and by two; the same bits when it
    is not measured."""
    for accumulation in (1, 2):
        for wrap in (DistributedDataParallel, sharded):
            kept = [
                loop(
                    out,
                    steps=STEPS,
                    rate=RATE,
                    clip=False,
                    wrap=wrap,
                    make=Blocks,
                    accumulation=accumulation,
                    kind=torch.optim.AdamW,
                    watched=on,
                    gauges="noise,preconditioned_noise",
                    name=f"{wrap.__name__}-{accumulation}",
                )[0]
                for on in (True, False)
            ]
            pairs = zip(*(map(local, model.parameters()) for model in kept), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)


def two_ranks_by_hand(accumulation: int) -> list[tuple[float, float]]:
    """tr PΣ and gᵀPg of every step of `rank_adaptive.py`, from all its micro-batches, in one
    process."""
    model, draws = Blocks(), [torch.Generator().manual_seed(100 + rank) for rank in range(2)]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, size, found = (
        torch.optim.AdamW(model.parameters(), lr=RATE),
        8 // 2 // accumulation,
        [],
    )
    for _ in range(STEPS):
        parts = []
        for generator in (generator for _ in range(accumulation) for generator in draws):
            losses = model(POINTS[torch.randint(len(POINTS), (size,), generator=generator)])
            parts.append(
                torch.cat([g.flatten() for g in torch.autograd.grad(losses.mean(), parameters)])
            )
        if (known := preconditioner_of(optimizer, parameters)) is not None:
            weights, mean = torch.cat([p.flatten() for p in known]), torch.stack(parts).mean(0)
            spread = sum(float((weights * (part - mean) ** 2).sum()) for part in parts)
            variance = size * spread / (len(parts) - 1)
            found.append((variance, float((weights * mean**2).sum()) - variance / 8))
        for parameter, g in zip(
            parameters,
            torch.stack(parts).mean(0).split([p.numel() for p in parameters]),
            strict=True,
        ):
            parameter.grad = g.view_as(parameter)
        optimizer.step()
    return found


if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    adaptive(Path(sys.argv[1]))
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    # gloo's threads may still let go of tensors, and abort where the interpreter is being taken
    # down
    os._exit(0)
