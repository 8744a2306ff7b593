"""What one of several processes does in the test of a fork under DDP: `python
rank_fork.py FOLDER`."""

import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from forked_loop import CRITERION, INPUTS, LABELS, network
from gradiometer.loop import Custom, Loop, fork

Sizes = list[int]


def trained(*, forks: bool) -> tuple[dict[str, Any], Sizes]:
    """The end of a training on all processes, with a fork on rank 0 in its middle."""
    torch.manual_seed(0)
    data = TensorDataset(INPUTS, LABELS)
    loader = DataLoader(data, batch_size=4, sampler=DistributedSampler(data))
    model = DistributedDataParallel(network(dropout=0.2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 24)
    sizes: Sizes = []

    def look(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any) -> Any:
        assert not isinstance(model, DistributedDataParallel)
        model.register_forward_pre_hook(
            lambda module, inputs: sizes.append(len(inputs[0])) if module.training else None
        )

    for step, batch in enumerate([*loader, *loader]):
        if forks and step == 12 and dist.get_rank() == 0:
            before = random.getstate(), repr(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
            evaluate = INPUTS, LABELS
            loop = Loop(
                model,
                optimizer,
                loss=CRITERION,
                batches=loader,
                scheduler=scheduler,
                evaluate=evaluate,
            )
            found = fork(
                loop, ["rate 2x", Custom("look", look)], horizon="12 updates", replicates=2
            )
            assert found.horizon == 12 * 8 and all(
                result.diverged is None for result in found.results
            )
            assert random.getstate() == before[0] and repr(np.random.get_state()) == before[1]  # noqa: NPY002
            assert torch.get_rng_state().equal(before[2])
        optimizer.zero_grad()
        CRITERION(model, batch).mean().backward()
        optimizer.step()
        scheduler.step()
    return {**model.module.state_dict(), "random": torch.get_rng_state()}, sizes


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    plain, _ = trained(forks=False)
    forked, sizes = trained(forks=True)
    assert all(torch.equal(plain[name], forked[name]) for name in plain)
    if dist.get_rank() == 0:
        Path(sys.argv[1], "sizes").write_text(repr(sizes))
    dist.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads may abort while the interpreter ends


if __name__ == "__main__":
    main()
