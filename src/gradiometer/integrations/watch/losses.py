"""The losses of a watched loop: all are kept, and the first one that is not finite is reported."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gradiometer.compiler import as_written
from gradiometer.drift.spikes.evidence import EVENT, EXAMINATIONS
from gradiometer.drift.spikes.examination import Before, Examiner
from gradiometer.errors import BadArgument, GradiometerError, UserCodeFailed, summary, user_line
from gradiometer.integrations.watch.accelerator import Copied
from gradiometer.integrations.watch.nonfinite import culprit
from gradiometer.measurement.batch import Batch, batch_size
from gradiometer.measurement.loss import Loss
from gradiometer.measurement.objective import Objective
from gradiometer.run.recorder import Recorder


class Part(NamedTuple):
    """One backward: its examples, how many, and their mean loss."""

    batch: Batch
    size: int
    loss: Tensor | float


NO_PART = Part(None, 0, math.nan)
"""A backward of which nothing is known."""

_UNSIZED = -1


def unsized(batch: Batch, loss: Tensor | float) -> Part:
    """One backward whose examples are counted later, in `without_batches`: this takes less time
    between two steps."""
    return tuple.__new__(Part, (batch, _UNSIZED, loss))


def without_batches(parts: Sequence[Part]) -> list[Part]:
    """The backwards of a step with their sizes and losses only. Batches of an unknown size are
    counted."""
    return [
        Part(None, first_size(batch) if size == _UNSIZED else size, loss)
        for batch, size, loss in parts
    ]


def part_of(batch: Batch, loss: Tensor | float) -> Part:
    """One backward of the mean loss of a batch. The sizes of all tensors of the batch
    are compared."""
    return Part(batch, batch_size(batch), value_of(loss))


def value_of(loss: object) -> float | Tensor:
    """The mean loss: a number on the CPU; on an accelerator a tensor, since fetching it makes
    training wait.

    The tensor is a copy. The replay of a CUDA graph writes every loss into the same place.
    """
    if isinstance(loss, Tensor):
        if loss.is_meta or loss.is_complex():
            raise BadArgument(
                "`loss` of the step must hold a number, got a tensor "
                f"{'on the meta device' if loss.is_meta else 'of complex numbers'}."
            )
        if loss.dim():
            loss = loss.detach()
            loss = (loss if loss.is_floating_point() else loss.double()).mean()
        return loss.item() if loss.is_cpu else loss.detach().clone()
    if not isinstance(loss, float | int | np.number):
        raise BadArgument(
            f"`loss` of the step must be a number or a tensor, got {type(loss).__name__}: give the loss itself, such "
            'as output["loss"].'
        )
    try:
        return float(loss)
    except OverflowError:  # a whole number with hundreds of digits
        raise BadArgument("`loss` of the step is too large for a number of 64 bits.") from None


def first_size(batch: Batch) -> int:
    """The length of the first axis of the first tensor, which is quick to see."""
    first, trees = batch, (tuple, list, dict)
    while not isinstance(first, Tensor):
        if not (isinstance(first, trees) and first):
            return batch_size(batch)
        first = next(iter(first.values())) if isinstance(first, dict) else first[0]
    return first.shape[0] if first.dim() else batch_size(batch)


Kept = float | Tensor | list[Part]
"""The loss of a step: a number, a tensor, or the backwards of the step."""


class Arriving:
    """The losses of some successive steps, whose copy to the CPU has begun.

    Args:
        step: The first step.
        losses: The losses of this step and of those that follow it.
    """

    def __init__(self, step: int, losses: Sequence[Kept]) -> None:
        self.step = step
        self._losses = losses
        self._copy: Copied | None = None
        far = [value for value in _flattened(losses) if isinstance(value, Tensor)]
        if not far:
            return
        device, kind = far[0].device, far[0].dtype
        together = torch.stack([value.detach().reshape(()).to(device, kind) for value in far])
        self._copy = Copied(together)

    @property
    def on_cpu(self) -> bool:
        """True if nothing had to be copied."""
        return self._copy is None

    def values(self) -> list[float]:
        """The mean loss of every step. Waits for the end of the copy, if it is not complete."""
        copied = iter(() if self._copy is None else self._copy().tolist())
        numbers = iter(
            [
                next(copied) if isinstance(value, Tensor) else value
                for value in _flattened(self._losses)
            ]
        )
        return [_mean(loss, numbers) for loss in self._losses]


def _flattened(losses: Sequence[Kept]) -> Iterator[float | Tensor]:
    for loss in losses:
        if isinstance(loss, list):
            yield from (part.loss for part in loss)
        else:
            yield loss


def _mean(loss: Kept, numbers: Iterator[float]) -> float:
    """The mean over the backwards of a step, of which these are the next numbers."""
    if not isinstance(loss, list):
        return float(next(numbers))
    return sum(part.size * float(next(numbers)) for part in loss) / sum(part.size for part in loss)


WAITING = 64
"""Steps whose losses come from an accelerator by one copy. It is read after as many
further steps."""


class Losses:
    """Keeps the loss of every step.

    Args:
        objective: Run again if a loss is not finite, to find the layer and the examples.
        warn: Takes the warning, which is kept with the run.
        accumulation: Number of backwards per update.
        rank: Rank of this process; None if there is only one.
        seed: Seed of the random numbers that the loss draws when it is run again.
        locate: True to look for the layer and the examples. No process can run a sharded model
            alone.
        has_loss: False if `watch` was given no loss: then only parameters and inputs are looked at.
    """

    def __init__(
        self,
        objective: Objective,
        warn: Callable[..., None],
        *,
        accumulation: int,
        rank: int | None,
        seed: int,
        locate: bool = True,
        has_loss: bool = True,
    ) -> None:
        self._objective = objective
        self._warn = warn
        self._seed = seed
        self._locate = locate
        self._has_loss = has_loss
        self._accumulation = accumulation
        self._rank = rank
        self.on_cpu = all(device.type == "cpu" for device in objective.devices)
        """True if the whole model is on the CPU, and with it the losses."""
        self.waiting: list[Kept] = []
        """The losses of the last steps, which are not written yet."""
        self.waits_from = 0
        """The step of the first of them."""
        self._arriving: Arriving | None = None
        self._warned = False
        self.examiner = Examiner(objective, seed)
        """Its `limit` is that of a loss worth an examination."""
        self.before: tuple[Batch, float] | None = None
        """The last batch whose loss is a number, and its loss."""
        self.recorder: Recorder | None = None
        """The recorder that writes them, on rank 0."""

    def look_at(self, step: int, parts: Sequence[Part]) -> None:
        """Check the loss of the last of these backwards, before the update.

        On a CPU a loss that is not finite is reported at once, and one that is far above the last
        ones is examined.
        """
        loss = parts[-1].loss
        if not isinstance(loss, float):
            return
        self.learn()
        before, self.before = self.before, (parts[-1].batch, loss)
        if -math.inf < loss < self.examiner.limit:
            return
        if math.isfinite(loss):
            self._examine(step, loss, parts[-1].batch, before)
            return
        if self._warned:
            return
        which = (
            f", micro-batch {len(parts)} of {self._accumulation}" if self._accumulation > 1 else ""
        )
        which += "" if self._rank is None else f", on rank {self._rank}"
        place = ""
        fields: dict[str, str] = {}
        if self._locate:
            with as_written():
                found = culprit(
                    self._objective, parts[-1].batch, seed=self._seed, has_loss=self._has_loss
                )
            place, fields = f": {found}", {"not_finite": found.kind}
        self._report(
            f"the loss is {loss} at step {step:,}{which}, for the first time in this run{place}",
            **fields,
        )

    def learn(self) -> None:
        """Let the examiner learn what waits, if it then knows a new level: which steps are examined
        must not depend on when losses are written. On an accelerator nothing waits for that."""
        if self.on_cpu and len(self.waiting) >= self.examiner.awaits:
            self.fetch()

    @property
    def steps_until_learning(self) -> int:
        """The number of steps that may be kept before the examiner has to learn."""
        due = self.examiner.awaits - len(self.waiting) if self.on_cpu else WAITING
        return min(max(due, 1), WAITING)

    def keep(self, step: int, loss: Kept) -> None:
        """Keep the loss of a finished step, or those of its backwards."""
        # the steps between have failed
        if self.waiting and step != self.waits_from + len(self.waiting):
            self.fetch()
        if not self.waiting:
            self.waits_from = step
        self.waiting.append(loss)
        self.fetch(WAITING)

    def leave_out(self) -> None:
        """Warn of a batch without examples, which has no loss."""
        self._warn("`batch` is empty: such steps are not recorded")

    def fetch(self, fewest: int = 1) -> None:
        """Write the losses that wait, if there are at least so many. With 1 all are written.

        Otherwise those on an accelerator are written the next time: until then they are copied, and
        nothing waits.
        """
        if len(self.waiting) >= fewest:
            self._write_arrived()
            waiting, self.waiting = self.waiting, []
            self._arriving = Arriving(self.waits_from, waiting)
        if fewest == 1 or (self._arriving is not None and self._arriving.on_cpu):
            self._write_arrived()

    def _write_arrived(self) -> None:
        arriving, self._arriving = self._arriving, None
        if arriving is None:
            return
        values = arriving.values()
        if self.recorder is not None:
            self.recorder.losses(arriving.step, values)
        self.examiner.learn(values)
        if not (self._warned or all(map(math.isfinite, values))):
            place, value = next(
                (place, one) for place, one in enumerate(values) if not math.isfinite(one)
            )
            self._report(
                f"the loss is {value} at step {arriving.step + place:,}, for the first time in "
                "this run"
            )

    def _examine(
        self, step: int, loss: float, batch: Batch, before: tuple[Batch, float] | None
    ) -> None:
        """Keep what this step shows of a spike. Only rank 0 does, unless measuring is off."""
        if self.recorder is None or not self._locate or not self.recorder.budget.share:
            return
        gradients = [parameter.grad for parameter in self._objective.parameters]
        made = [gradient for gradient in gradients if gradient is not None]
        is_whole = self._accumulation == 1 and len(made) == len(gradients)
        self.fetch()
        with self.recorder.budget.spending(EXAMINATIONS), as_written():
            known = None if before is None else Before(*before)
            fields = self.examiner.examine(loss, batch, known, made if is_whole else None)
        if fields is not None:
            self.recorder.event(EVENT, step, **fields)

    def _report(self, text: str, **fields: str) -> None:
        self._warned = True
        self._warn(text, **fields)
        warnings.warn(f"{text}.", RuntimeWarning, stacklevel=4)


def explained(loss: Loss) -> Loss:
    """The same loss; if it fails while measuring, the error says so."""

    @wraps(loss, assigned=())
    def called(model: nn.Module, batch: Batch) -> Tensor:
        try:
            return loss(model, batch)
        except GradiometerError:
            raise
        except Exception as error:
            raise UserCodeFailed(
                f"`loss` failed when measuring ran it on {batch_size(batch)} examples "
                f"({summary(error)}{user_line(error)}): it must work on any part of a batch, and "
                "under torch.func.vmap if `parts` is 0."
            ) from error

    return called


def no_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Takes the place of a missing `loss`."""
    raise BadArgument(
        "`loss` is missing, so measuring cannot run the model: give loss=lambda model, batch: ..."
    )
