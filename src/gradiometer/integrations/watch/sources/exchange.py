"""What the processes of one watched training exchange: at a measured step, and the batches of
updates that are kept."""

import io
import itertools
import pickle
import sys
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import timedelta
from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed import distributed_c10d
from torch.nn.functional import pad

from gradiometer.errors import Interrupted, Unsupported
from gradiometer.integrations.watch.shield import reason_of
from gradiometer.measurement.batch import Batch, leaves, mapped, tensors_of
from gradiometer.measurement.gauge import Gauge, measured
from gradiometer.measurement.gradient_graph import flat, unflat
from gradiometer.measurement.objective import Gradients
from gradiometer.measurement.reading import Moments
from gradiometer.measurement.step import TrainingStep
from gradiometer.run.budget import Budget
from gradiometer.run.ranks import RankLost, Ranks
from gradiometer.run.recorder import Made

# Numbers before the norms: the step that rank 0 measures next, the gauges of this one, and the size
# of a part.
SAID = 3

# In place of the next step to measure: this process measures no more.
LEAVING = -1.0


class Exchange:
    """Joins the norms of all processes. It also carries what rank 0 decides, which all have to
    know.

    Args:
        ranks: The processes.
        rows: Number of backwards per update on each process.
        numbers: How many numbers are kept of every gradient of the whole model.
        device: The device of the exchanges.
    """

    def __init__(self, ranks: Ranks, rows: int, numbers: int, device: torch.device) -> None:
        self._ranks = ranks
        self._rows = rows
        self._numbers = numbers
        self._device = device
        # The step that rank 0 measures next.
        self.next_due = 0
        # The gauges that all processes measure together at this step, see `Together`.
        self.bits = 0

    def joined(
        self,
        proposal: int,
        bits: int,
        sizes: Sequence[int],
        parts: Tensor,
        whole: Float[Tensor, "1 numbers"],
    ) -> tuple[list[int], Float[Tensor, "rows numbers"]]:
        """The sizes of all parts on all processes, and all norms: see `norms_of_all`.

        Args:
            proposal: The step that this process would measure next.
            bits: The gauges that it would run.
            sizes: The examples of each of its backwards.
            parts: The numbers of their gradients.
            whole: Those of `.grad`.

        Raises:
            Interrupted: Another process has stopped measuring.
        """
        said = torch.tensor(
            [[proposal, bits, size] for size in sizes], dtype=parts.dtype, device="cpu"
        )
        said = said.to(parts.device, non_blocking=True)
        rows = torch.cat([torch.cat([said, parts], dim=1), pad(whole, (SAID, 0))])
        everyone = self._ranks.gathered(rows).cpu()  # one copy: an accelerator waits once
        if (everyone[:, 0] == LEAVING).any():
            self.next_due = sys.maxsize
            raise Interrupted("another process of this training has stopped measuring")
        self.next_due = int(everyone[0, 0])
        self.bits = int(everyone[0, 1])
        known = everyone[:, 2]
        return known[known > 0].int().tolist(), everyone[:, SAID:]

    def leave(self) -> None:
        """Take part in one more exchange, without numbers, so that the other processes stop
        measuring too."""
        rows = torch.zeros(
            self._rows + 1, SAID + self._numbers, dtype=torch.float64, device=self._device
        )
        rows[:, 0] = LEAVING
        self.next_due = sys.maxsize
        self._ranks.gathered(rows)


class Content(IntEnum):
    """The next thing that a process exchanges."""

    GRADIENT = 0
    MOMENTS = 1
    FAILED = 2


# Most numbers in the moments of such a gauge.
MOST = 62

# Makes the step of the examples of this process, from a function that averages gradients over the
# processes.
StepOf = Callable[[Callable[[Gradients], Gradients]], TrainingStep]


class OverProcesses:
    """Measures, on every process, its share of the batch, and averages the moments over the
    processes.

    Before each exchange the processes exchange what it will be. So none waits for another that has
    failed.

    Args:
        gauges: The gauges of the run, the same on all processes.
        ranks: The processes.
        budget: The account that each gauge is charged to.
        device: The device of the exchanges.
    """

    def __init__(
        self, gauges: Sequence[Gauge], ranks: Ranks, budget: Budget, device: torch.device
    ) -> None:
        self._ranks = ranks
        self._budget = budget
        self._device = device
        self._gauges = (
            []
            if ranks.alone
            else [each for each in gauges if each.needs_loss and each.processes != "one"]
        )
        # What all processes have measured at the last measured step; None on one process.
        self.made: Made | None = None

    def bits(self, chosen: Collection[str]) -> int:
        """The gauges with these names, as the bits of a number that all processes understand."""
        return sum(2**place for place, gauge in enumerate(self._gauges) if gauge.name in chosen)

    def measure(self, bits: int, step_of: StepOf) -> None:
        """Measure these gauges into `made`. All processes call it with the same gauges."""
        made = dict[str, Moments | str | None]()
        for place, gauge in enumerate(self._gauges):
            if bits >> place & 1:
                with self._budget.spending(gauge.name):
                    made[gauge.name] = self._measure(gauge, step_of)
        self.made = made

    def _measure(self, gauge: Gauge, step_of: StepOf) -> Moments | str | None:
        try:
            step = step_of(self._mean)
            found = measured(gauge, step, step.objective.parameters) or {}
            numbers = [float(value) for each in found.values() for value in np.ravel(each)]
            if len(numbers) > MOST:
                raise Unsupported(
                    f"its moments are {len(numbers)} numbers, and at most {MOST} can be exchanged"
                )
        except RankLost:
            raise
        except _ElsewhereFailed as error:
            return str(error)
        except Exception as error:
            self._exchange(Content.FAILED)
            return reason_of(error)
        try:
            averaged = iter(self._exchange(Content.MOMENTS, numbers))
        except _ElsewhereFailed as error:
            return str(error)
        return {
            name: [next(averaged) for _ in each] if isinstance(each, list) else next(averaged)
            for name, each in found.items()
        } or None

    def _mean(self, gradients: Gradients) -> Gradients:
        """The mean over the processes: the gradient of the whole batch."""
        self._exchange(Content.GRADIENT)
        whole = flat(gradients).to(self._device)
        self._ranks.add(whole)
        return unflat(whole.div_(self._ranks.count), gradients)

    def _exchange(self, state: Content, numbers: Sequence[float] = ()) -> list[float]:
        """The means of these numbers over the processes. Raises if another one exchanges something
        else, unless this one has failed itself."""
        row = torch.zeros(1, 2 + MOST, dtype=torch.float64, device=self._device)
        row[0, : 2 + len(numbers)] = torch.tensor(
            [state, len(numbers), *numbers], dtype=torch.float64
        )
        rows = self._ranks.gathered(row).cpu()
        if state != Content.FAILED and (rows[:, :2] != rows[0, :2]).any():
            failed = (rows[:, 0] == Content.FAILED).nonzero().flatten().tolist()
            who = f"rank {failed[0]}" if failed else "another process"
            raise _ElsewhereFailed(f"{who} could not measure its share of the batch")
        return rows[:, 2 : 2 + len(numbers)].mean(dim=0).tolist()


class _ElsewhereFailed(Unsupported):
    """Another process could not measure its share."""


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
        """Hand over what this process took at an update, unless it is too large: the store is one
        server for all processes.

        Args:
            step: The update.
            batches: Its batches.
            most: Number of newest updates that rank 0 keeps.
        """
        if sum(tensor.numel() for tensor in tensors_of(list(batches))) > 2**20:
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
            # a process may be a little behind
            store.wait(keys, timedelta(seconds=1))
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
