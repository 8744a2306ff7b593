"""Hands the batches of kept updates to rank 0, without a wait: by the store of torch.distributed."""

import io
import itertools
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import Tensor
from torch.distributed import distributed_c10d

from gradiometer.measurement.batch import Batch, mapped, tensors_of
from gradiometer.run.ranks import Ranks

# Most numbers of an update that go through the store, which is one server for all processes.
MOST = 2**20

# How long a fork waits for the batches of a process that is a little behind.
PATIENCE = timedelta(seconds=1)

# All processes make their watches in one order.
_WATCHES = itertools.count()


class SharedBatches:
    """The batches of all processes at some updates.

    Exchanges of torch.distributed would wait for every process; one that has stopped to keep
    updates would stop the others. The store is written and read by each process alone.

    Args:
        ranks: The processes.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._watch = next(_WATCHES)

    def give(self, step: int, batches: Sequence[Batch]) -> None:
        """Hand over what this process took at an update, unless it is too large."""
        if sum(tensor.numel() for tensor in tensors_of(list(batches))) > MOST:
            return
        file = io.BytesIO()
        torch.save([mapped(batch, Tensor.cpu) for batch in batches], file)
        store = distributed_c10d._get_default_store()
        # the store takes bytes, and is typed for text only
        store.set(self._key(self._ranks.rank, step), file.getvalue())  # type: ignore[arg-type]

    def of_others(self, step: int) -> tuple[Batch, ...] | None:
        """What the other processes took at an update; None if one of them did not hand it over."""
        keys = [self._key(rank, step) for rank in range(1, self._ranks.count)]
        store = distributed_c10d._get_default_store()
        try:
            store.wait(keys, PATIENCE)
        except RuntimeError:
            return None
        found = [torch.load(io.BytesIO(store.get(key)), weights_only=True) for key in keys]
        return tuple(itertools.chain.from_iterable(found))

    def _key(self, rank: int, step: int) -> str:
        return f"gradiometer/{self._watch}/{rank}/{step}"
