"""What one of two processes does in the test of a fork whose updates are compared under DDP:
`python rank_replay.py FOLDER`."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from forked_loop import CRITERION, INPUTS, LABELS, network
from gradiometer import Unsupported, watch

CLIP = 0.3


def trained(out: Path, *, forks: bool, noise: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The end of a training that clips its gradients, and what its fork on rank 0 says."""
    torch.manual_seed(0)
    data = TensorDataset(INPUTS, LABELS)
    loader = DataLoader(data, batch_size=4, sampler=DistributedSampler(data))
    model = DistributedDataParallel(network(dropout=0.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    said: list[str] = []
    with watch(model, optimizer, loss=CRITERION, out=out, page=False, quiet=True) as w:
        for step, batch in enumerate([*loader, *loader]):
            optimizer.zero_grad()
            loss = CRITERION(model, batch).mean()
            loss.backward()
            w.step(loss, batch)
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            if noise:
                for parameter in model.parameters():
                    parameter.grad *= 1 + 0.1 * (step % 3)
            optimizer.step()
            if forks and step == 12 and dist.get_rank() == 0:
                try:
                    found = w.fork(
                        batches=loader, alternatives=["rate 2x"], horizon="6 updates", replicates=2
                    )
                    assert found is not None
                    said += found.notes
                except Unsupported as error:
                    said.append(str(error))
    return model.module.state_dict(), said


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    out = Path(sys.argv[1])
    plain, _ = trained(out, forks=False)
    forked, notes = trained(out, forks=True)
    assert all(torch.equal(plain[name], forked[name]) for name in plain)
    _, refusal = trained(out, forks=True, noise=True)
    if dist.get_rank() == 0:
        (out / "said").write_text(repr((notes, refusal)))
    dist.barrier()
    dist.destroy_process_group()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads may abort while the interpreter ends


if __name__ == "__main__":
    main()
