"""What one of two processes does in the test of what a watch keeps under DDP:
`python rank_kept.py FOLDER`."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import distributed_c10d
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from forked_loop import CRITERION, INPUTS, LABELS, network
from gradiometer import watch
from gradiometer.errors import GradiometerError


class Pair(NamedTuple):
    """A batch of a class of one's own, which a store must not name."""

    inputs: Tensor
    labels: Tensor


def loss_of(model: nn.Module, batch: Pair) -> Tensor:
    return CRITERION(model, (batch.inputs, batch.labels))


def said_by(ask: Callable[[], Any]) -> str:
    try:
        return f"{ask()}"
    except GradiometerError as error:
        return f"{type(error).__name__}: {error}"


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    out, rank = Path(sys.argv[1]), dist.get_rank()
    torch.manual_seed(0)
    data = TensorDataset(INPUTS, LABELS)
    loader = DataLoader(data, batch_size=4, sampler=DistributedSampler(data))
    model = DistributedDataParallel(network(dropout=0.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    batches = [Pair(*batch) for batch in loader]
    store = distributed_c10d._get_default_store()
    before, most, said = store.num_keys(), 0, dict[str, str]()
    forked = {
        "batches": loader,
        "alternatives": ["rate 2x"],
        "horizon": "4 updates",
        "replicates": 2,
        "loss": lambda model, batch: CRITERION(model, (batch[0], batch[1])),
    }
    with watch(model, optimizer, loss=loss_of, out=out, page=False, quiet=True, checkpoints=2) as w:
        for step in range(300):
            batch = batches[step % len(batches)]
            optimizer.zero_grad()
            loss = loss_of(model, batch).mean()
            loss.backward()
            w.step(loss, batch)
            optimizer.step()
            most = max(most, store.num_keys() - before)
            if step == 140 and rank == 0:
                said["fork at"] = said_by(lambda: w.fork(at=70, **forked))
                said["fork"] = said_by(lambda: w.fork(**forked).notes)
                said["incident"] = said_by(lambda: w.incident(batches=loader))
        said["back"] = said_by(lambda: w.go_back(128))
    dist.barrier()
    said["keys"] = str((most, store.num_keys() - before))
    (out / f"said {rank}").write_text(repr(said))
    dist.barrier()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads may abort while the interpreter ends


if __name__ == "__main__":
    main()
