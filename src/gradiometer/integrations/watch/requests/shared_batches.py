"""Hands the batches of kept updates to rank 0, without a wait: by the store of torch.distributed."""

import io
import itertools
import pickle
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

import torch
from torch import Tensor
from torch.distributed import distributed_c10d

from gradiometer.measurement.batch import Batch, leaves, mapped, tensors_of
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
        self._given: deque[int] = deque()

    def give(self, step: int, batches: Sequence[Batch], most: int) -> None:
        """Hand over what this process took at an update, unless it is too large.

        Args:
            step: The update.
            batches: Its batches.
            most: Number of newest updates that rank 0 keeps.
        """
        if sum(tensor.numel() for tensor in tensors_of(list(batches))) > MOST:
            return
        file = io.BytesIO()
        # values alone: the structure is that of rank 0, whose classes a store must not name
        torch.save([_values(mapped(batch, Tensor.cpu)) for batch in batches], file)
        store = distributed_c10d._get_default_store()
        # the store takes bytes, and is typed for text only
        store.set(self._key(self._ranks.rank, step), file.getvalue())  # type: ignore[arg-type]
        self._given.append(step)
        # rank 0 may still be at the update before this one, but no further behind
        while len(self._given) > most + 1:
            self._remove(self._ranks.rank, self._given.popleft())

    def of_others(self, step: int, own: Sequence[Batch]) -> tuple[Batch, ...] | None:
        """What the other processes took at an update; None if one of them did not hand it over.

        Args:
            step: The update.
            own: The batches of this process, in whose structure the others are.
        """
        keys = [self._key(rank, step) for rank in range(1, self._ranks.count)]
        store = distributed_c10d._get_default_store()
        try:
            store.wait(keys, PATIENCE)
            found = [torch.load(io.BytesIO(store.get(key)), weights_only=True) for key in keys]
            return tuple(
                _with_values(batch, values)
                for of_one in found
                for batch, values in zip(own, of_one, strict=True)
            )
        except (RuntimeError, ValueError, pickle.UnpicklingError):
            # not there, in another structure, or with objects of its own
            return None

    def forget(self, steps: Sequence[int]) -> None:
        """Remove what the other processes handed over at these updates."""
        for rank in range(1, self._ranks.count):
            for step in steps:
                self._remove(rank, step)

    def _remove(self, rank: int, step: int) -> None:
        # not every store can remove a key
        with suppress(RuntimeError):
            distributed_c10d._get_default_store().delete_key(self._key(rank, step))

    def _key(self, rank: int, step: int) -> str:
        return f"gradiometer/{self._watch}/{rank}/{step}"


def _values(batch: Batch) -> list[object]:
    """All leaves of a batch, in their order."""
    return [leaf for _, leaf in leaves(batch, "batch")]


def _with_values(batch: Batch, values: Sequence[object]) -> Batch:
    """The structure of a batch with other leaves."""
    if len(values) != len(_values(batch)):
        raise ValueError(f"a batch of {len(values)} values has not the structure of rank 0")
    following = iter(values)
    return mapped(batch, lambda _: next(following), lambda _: next(following))
