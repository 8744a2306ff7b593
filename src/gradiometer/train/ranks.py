"""The processes of one training, where torch.distributed has been started: who we are, and what all of them say."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Args:
        rank: Of this process, from 0.
        count: W, how many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> "Ranks":
        """As torch.distributed says; alone where it has not been started."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.count == 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def gathered(self, rows: Float[Tensor, "rows columns"]) -> Float[Tensor, "all columns"]:
        """The rows of every rank, one after another; all give equally many. One exchange."""
        if self.alone:
            return rows
        everyone = [torch.empty_like(rows) for _ in range(self.count)]
        dist.all_gather(everyone, rows)
        return torch.cat(everyone)


def launched() -> bool:
    """Whether a launcher such as torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1
