"""The processes of one training that a launcher such as torchrun started, and their exchanges."""

import importlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import Interrupted

# How long a process waits for another: rank 0 alone trains the forks of `cool`, for up to the time
# of several runs.
#
# A process that ends closes its connections, which the others notice at once.
PATIENCE = timedelta(days=7)

# The first optimizer of a process imports this module, whose functions keep the process group of
# that moment as a default argument. The group then outlives `destroy_process_group`, and its
# threads can abort the process while the interpreter ends. It is imported here, which takes 2 ms,
# before there is a group: also for a person's own loop.
if dist.is_available():
    importlib.import_module("torch.distributed.nn.functional")


class RankLost(Interrupted):
    """Another process of this training has ended."""


@dataclass(frozen=True)
class Ranks:
    """This process among the processes of one training.

    Args:
        rank: Rank of this process, from 0.
        count: Number of processes, W.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> "Ranks":
        """Rank and world size of torch.distributed; rank 0 of 1 if it is not initialized."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @cached_property
    def alone(self) -> bool:
        """True if there is no other process."""
        return self.count == 1

    @property
    def first(self) -> bool:
        """True on the process that decides and writes."""
        return self.rank == 0

    def gathered(self, rows: Float[Tensor, "rows columns"]) -> Float[Tensor, "all columns"]:
        """The rows of all ranks, concatenated. Every rank gives the same number of rows. One
        all-gather."""
        if self.alone:
            return rows
        everyone = [torch.empty_like(rows) for _ in range(self.count)]
        with _notice(self):
            dist.all_gather(everyone, rows)
        return torch.cat(everyone)

    def add(self, tensor: Tensor) -> None:
        """Replace the tensor by its sum over all ranks, in place."""
        if not self.alone:
            with _notice(self):
                dist.all_reduce(tensor)

    def told(self, *numbers: int) -> tuple[int, ...]:
        """The numbers of rank 0, on every rank. The others pass as many numbers; their values are
        ignored."""
        if self.alone:
            return numbers
        shared = torch.tensor(numbers)
        with _notice(self):
            dist.broadcast(shared, 0)
        return tuple(shared.tolist())

    def told_path(self, path: str = "") -> str:
        """The path of rank 0, on every rank."""
        if self.alone:
            return path
        content = os.fsencode(path)
        (size,) = self.told(len(content))
        return os.fsdecode(bytes(self.told(*(content if self.first else bytes(size)))))


@contextmanager
def together() -> Iterator[Ranks]:
    """Connect the processes that a launcher started, with gloo; without a launcher there is one
    process.

    If the program has initialized torch.distributed itself, that is used and left as it is.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks.here()
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Ranks.here()
        # gloo fails if it is destroyed while a slower process still uses it
        with suppress(RuntimeError):
            dist.barrier()
    finally:
        dist.destroy_process_group()


@contextmanager
def _notice(ranks: Ranks) -> Iterator[None]:
    """Turn the failure of an exchange into `RankLost`."""
    try:
        yield
    except (RuntimeError, dist.DistBackendError) as error:
        # without the line in gloo
        reason = re.sub(r"^\[\S*\] *", "", str(error).splitlines()[0]).split(". ")[0]
        raise RankLost(
            f"rank {ranks.rank} has lost another of the {ranks.count} processes of this training "
            f"({reason}); its own error is above"
        ) from error
