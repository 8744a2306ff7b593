"""The processes of one training, where a launcher such as torchrun started several: who we are, and what all say."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from gradiometer.errors import Interrupted


class RankLost(Interrupted):
    """Another process of this training is gone."""


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
        """Whether this is the one that decides and writes."""
        return self.rank == 0

    def gathered(self, rows: Float[Tensor, "rows columns"]) -> Float[Tensor, "all columns"]:
        """The rows of every rank, one after another; all give equally many. One exchange."""
        if self.alone:
            return rows
        everyone = [torch.empty_like(rows) for _ in range(self.count)]
        with _noticed(self):
            dist.all_gather(everyone, rows)
        return torch.cat(everyone)

    def add(self, tensor: Tensor) -> None:
        """Put the sum over all ranks in its place."""
        if not self.alone:
            with _noticed(self):
                dist.all_reduce(tensor)

    def told(self, *numbers: int) -> tuple[int, ...]:
        """What the first rank says; the others give as many numbers, whatever they are."""
        if self.alone:
            return numbers
        said = torch.tensor(numbers)
        with _noticed(self):
            dist.broadcast(said, 0)
        return tuple(said.tolist())

    def told_text(self, text: str = "") -> str:
        """A text the first rank says."""
        if self.alone:
            return text
        content = text.encode()
        (size,) = self.told(len(content))
        return bytes(self.told(*(content if self.first else bytes(size)))).decode()


@contextmanager
def together() -> Iterator[Ranks]:
    """A region in which the processes that a launcher started can hear each other, by gloo; else one of one process.

    Where the program has started torch.distributed itself, that is used, and left as it is.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks.here()
        return
    dist.init_process_group("gloo")
    try:
        yield Ranks.here()
        with suppress(RuntimeError):  # who is late may still be heard: gloo does not bear to be taken down under it
            dist.barrier()
    finally:
        dist.destroy_process_group()


@contextmanager
def _noticed(ranks: Ranks) -> Iterator[None]:
    """Turn the failure of an exchange into `RankLost`."""
    try:
        yield
    except (RuntimeError, dist.DistBackendError) as error:
        reason = re.sub(r"^\[\S*\] *", "", str(error).splitlines()[0]).split(". ")[0]  # without its place in gloo
        raise RankLost(
            f"rank {ranks.rank} has lost another of the {ranks.count} processes of this training ({reason}); look "
            "above for what ended it"
        ) from error
