"""The instrument under DDP: `torchrun --nproc-per-node 2 examples/torchrun.py`; also runs on one
process.

The gradients of the ranks are the micro-batches, heard before they are averaged; the first rank
writes and speaks. With `--sharded`, on two ranks or more, each keeps a piece of every parameter
(FSDP2), and the readings are the same.
"""

import os
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from gradiometer import Draw, Sampling, say, watch
from gradiometer.problems import load

STEPS, BATCH_SIZE, LEARNING_RATE = 600, 64, 0.1


def main() -> None:
    torch.set_num_threads(1)
    alone = "RANK" not in os.environ
    if alone:
        os.environ |= {
            "RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29555",
        }
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    digits = load("digits")
    model = digits.model()
    if "--sharded" in sys.argv:
        from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415 (needs torch 2.6)
        from torch.distributed.fsdp import fully_shard  # noqa: PLC0415

        fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
        wrapped = model
    else:
        wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    sampling = Sampling(Draw.REPLACEMENT, len(digits.train))
    generator = torch.Generator().manual_seed(dist.get_rank())
    with watch(
        wrapped, optimizer, loss=digits.loss, name="torchrun", sampling=sampling, every=5
    ) as w:
        for _ in range(STEPS):
            index = torch.randint(
                len(digits.train), (BATCH_SIZE // dist.get_world_size(),), generator=generator
            )
            batch = digits.train.batch(index)
            optimizer.zero_grad()
            loss = digits.loss(wrapped, batch).mean()
            loss.backward()
            w.step(loss, batch)
            optimizer.step()
    if w.run is not None:
        count = dist.get_world_size()
        noise = next(finding for finding in w.findings() if finding.gauge == "noise")
        print(f"{count} process{'' if count == 1 else 'es'}: {say(noise).seen}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
