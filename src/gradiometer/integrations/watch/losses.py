"""The losses of a watched loop, and the steps at which only they are kept."""

import math
import statistics
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from functools import wraps
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from gradiometer.compiler import as_written
from gradiometer.drift.spikes.cause import EVENT, EXAMINATIONS
from gradiometer.drift.spikes.examination import Before, Examiner
from gradiometer.errors import BadArgument, GradiometerError, UserCodeFailed, summary, user_line
from gradiometer.integrations.watch.accelerator import Copied
from gradiometer.integrations.watch.nonfinite import culprit
from gradiometer.integrations.watch.optimizers import Pace, Settings
from gradiometer.integrations.watch.subject import Subject
from gradiometer.measurement.batch import Batch, batch_size, tensors_of
from gradiometer.measurement.objective import Loss
from gradiometer.run.budget import BOOKKEEPING
from gradiometer.run.cadence.cadence import LOOK_SECONDS
from gradiometer.run.recorder import Recorder


class Part(NamedTuple):
    """One backward: its examples, how many, and their mean loss."""

    batch: Batch
    size: int
    loss: Tensor | float


# A backward of which nothing is known.
NO_PART = Part(None, 0, math.nan)

_UNSIZED = -1


def without_batches(parts: Sequence[Part]) -> list[Part]:
    """The backwards of a step with their sizes and losses only. Batches of an unknown size are
    counted."""
    return [
        Part(None, first_size(batch) if size == _UNSIZED else size, loss)
        for batch, size, loss in parts
    ]


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
            f"`loss` of the step must be a number or a tensor, got {type(loss).__name__}: give the "
            "loss itself, such "
            'as output["loss"].'
        )
    try:
        return float(loss)
    except OverflowError:  # a whole number with hundreds of digits
        raise BadArgument("`loss` of the step is too large for a number of 64 bits.") from None


def first_size(batch: Batch) -> int:
    """The length of the first axis of the first tensor, which is quick to see."""
    lengths = [tensor.shape[0] for tensor in tensors_of(batch) if tensor.dim()]
    return lengths[0] if lengths else batch_size(batch)


# The loss of a step: a number, a tensor, or the backwards of the step.
Kept = float | Tensor | list[Part]


class Arriving:
    """The losses of some successive steps, whose copy to the CPU has begun.

    Args:
        step: The first step.
        losses: The losses of this step and of those that follow it.
    """

    def __init__(self, step: int, losses: Sequence[Kept]) -> None:
        self.step = step
        self._steps = [loss if isinstance(loss, list) else [Part(None, 1, loss)] for loss in losses]
        self._copy: Copied | None = None
        far = [
            part.loss for parts in self._steps for part in parts if isinstance(part.loss, Tensor)
        ]
        # True if nothing has to be copied.
        self.on_cpu = not far
        if far:
            self._copy = Copied.of(far)

    def values(self) -> list[float]:
        """The mean loss of every step, over its backwards. Waits for the end of the copy, if it is
        not complete."""
        copied = iter(() if self._copy is None else self._copy().tolist())
        means = []
        for parts in self._steps:
            total = 0.0
            for part in parts:
                loss = next(copied) if isinstance(part.loss, Tensor) else part.loss
                total += part.size * float(loss)
            means.append(total / sum(part.size for part in parts))
        return means


# Steps whose losses come from an accelerator by one copy. It is read after as many further steps.
WAITING = 64


class Losses:
    """Keeps the loss of every step.

    Args:
        subject: The training. If a loss is not finite, its model is run again to find the layer and
            the examples, unless it is sharded: no process can run such a model alone.
        warn: Takes the warning, which is kept with the run.
    """

    def __init__(self, subject: Subject, warn: Callable[..., None]) -> None:
        self._subject = subject
        self._objective = subject.objective
        self._warn = warn
        # True if the whole model is on the CPU, and with it the losses.
        self.on_cpu = all(device.type == "cpu" for device in subject.objective.devices)
        # The losses of the last steps, which are not written yet.
        self.waiting: list[Kept] = []
        # The step of the first of them.
        self.waits_from = 0
        self._arriving: Arriving | None = None
        self._warned = False
        # Its `limit` is that of a loss worth an examination.
        self.examiner = Examiner(subject.objective, subject.seed)
        # The last batch whose loss is a number, and its loss.
        self.before: tuple[Batch, float] | None = None
        # The recorder that writes them, on rank 0.
        self.recorder: Recorder | None = None

    def look_at(self, step: int, parts: Sequence[Part]) -> None:
        """Check the loss of the last of these backwards, before the update.

        On a CPU a loss that is not finite is reported at once, and one that is far above the last
        ones is examined.
        """
        batch, _, loss = parts[-1]
        if not isinstance(loss, float):
            return
        before = self.before
        self.before = batch, loss
        if -math.inf < loss < self.examiner.limit:
            return
        if math.isfinite(loss):
            self._examine(step, loss, batch, before)
        elif not self._warned:
            self._find_culprit(step, loss, parts)

    def _find_culprit(self, step: int, loss: float, parts: Sequence[Part]) -> None:
        """Report a loss that is not finite, with the layer and the examples that made it so."""
        subject = self._subject
        which = ""
        if subject.accumulation > 1:
            which = f", micro-batch {len(parts)} of {subject.accumulation}"
        if not subject.ranks.alone:
            which += f", on rank {subject.ranks.rank}"
        text = f"the loss is {loss} at step {step:,}{which}, for the first time in this run"
        if subject.sharded:
            self._report(text)
            return
        with as_written():
            place, kind = culprit(
                self._objective, parts[-1].batch, seed=subject.seed, has_loss=subject.has_loss
            )
        self._report(f"{text}: {place}", not_finite=kind)

    def leave_out(self) -> None:
        """Warn of a batch without examples, which has no loss."""
        self._warn("`batch` is empty: such steps are not recorded")

    def fetch(self, fewest: int = 1) -> None:
        """Write the losses that wait, if there are at least so many. With 1 all are written.

        Otherwise those on an accelerator are written the next time: until then they are copied, and
        nothing waits.
        """
        if len(self.waiting) >= fewest:
            self._write_arrivals()
            waiting, self.waiting = self.waiting, []
            self._arriving = Arriving(self.waits_from, waiting)
        if fewest == 1 or (self._arriving is not None and self._arriving.on_cpu):
            self._write_arrivals()

    def _write_arrivals(self) -> None:
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
        if self.recorder is None or self._subject.sharded or not self.recorder.budget.share:
            return
        gradients = [parameter.grad for parameter in self._objective.parameters]
        made = [gradient for gradient in gradients if gradient is not None]
        is_whole = self._subject.accumulation == 1 and len(made) == len(gradients)
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


def loss_of_a_person(loss: Loss) -> Loss:
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


class Between:
    """Keeps the losses of all steps, and knows the next step at which there is more to do.

    They come in stretches of at most 64 steps, and of about a quarter of a second at the pace of
    the stretch before: to read the clock at every step took a quarter of the time of `step`. At the
    end of a stretch losses are written. If its last step is not measured, it is timed and stands
    for the others that were not, and all are charged.

    Args:
        subject: The training.
        losses: Takes the losses.
        settings: The settings of the optimizers, which may be read at any step.
        pace: Notices a step without an update.
    """

    def __init__(self, subject: Subject, losses: Losses, settings: Settings, pace: Pace) -> None:
        self._losses = losses
        self._settings = settings
        self._pace = pace
        self._budget = subject.budget
        self._accumulation = subject.accumulation
        self._from = 0
        self._measured = 0
        # True until a loss of more than one number came: an error of `item` costs as much as ten
        # calls.
        self._are_numbers = losses.on_cpu
        # Times of the last steps of stretches, whose median stands for the others: the first ones
        # find cold caches.
        self.timed: deque[float] = deque(maxlen=5)
        # True between a step and its update, if the step is not measured.
        self.waits = False
        # The next step at which there is more to do than `take`.
        self.due = 0
        # Steps before this one are not measured. The others may be.
        self.planned = 0
        # True if the planned step is measured; otherwise that is decided right before it.
        self.is_certain = False
        # The last step of the stretch.
        self.until = 0
        # The stretch began at this time, and should end at `late`.
        self._began = 0.0
        self.late = 0.0

    def end(self) -> None:
        """Every step may be measured from now on."""
        self.planned = 0
        self.due = 0

    def take(self, step: int, parts: list[Part], loss: Tensor | float, batch: Batch) -> bool:
        """Keep the loss of one backward.

        Args:
            step: The step.
            parts: The earlier backwards of the step. This one is added, and they are cleared when
                the step is complete.
            loss: The mean loss of the batch.
            batch: The batch.

        Returns:
            True if this was the last backward of its step.
        """
        losses = self._losses
        value: float | Tensor | list[Part]
        # training has used the caches, so that each call costs about 1 µs: `item` checks the shape
        # by itself
        try:
            value = loss.item() if self._are_numbers and type(loss) is Tensor else value_of(loss)
        except RuntimeError:
            self._are_numbers = False
            value = value_of(loss)
        if value.__class__ is float:
            # finite without a name that has to be looked up, which takes a tenth of the time
            if value < losses.examiner.limit and value - value == 0.0:
                losses.before = batch, value
            else:
                part = Part(batch, batch_size(batch), value)
                if not part.size:
                    losses.leave_out()
                    return False
                losses.look_at(step, [*parts, part])
        if self._accumulation > 1:
            # its examples are counted later, which takes less time between two steps
            parts.append(tuple.__new__(Part, (batch, _UNSIZED, value)))
            if len(parts) < self._accumulation:
                return False
            value = without_batches(parts)
        if not losses.waiting:
            losses.waits_from = step
        losses.waiting.append(value)
        if step >= self._settings.next_look:
            self._settings.stepped(step)
        if self.waits:
            self._pace.missed()
        self.waits = True
        if parts:
            parts.clear()  # last: a step that could not be kept still has to be closed
        return True

    def keep(self, step: int, parts: list[Part]) -> None:
        """Keep the losses of a complete step that may be measured, and clear its parts.

        A step with a backward of which nothing is known has no loss.
        """
        self._measured += 1
        losses = self._losses
        loss = parts[0].loss if len(parts) == 1 else without_batches(parts)
        is_known = all(part.size for part in parts)
        # those that wait are of successive steps: some between may have failed
        if losses.waiting and not (is_known and step == losses.waits_from + len(losses.waiting)):
            losses.fetch()
        if is_known:
            if not losses.waiting:
                losses.waits_from = step
            losses.waiting.append(loss)
        parts.clear()  # after it: a step whose losses cannot be kept still has to be closed

    def close_stretch(self, step: int) -> None:
        """Charge the steps up to this one, without it, write their losses, and begin a stretch.

        Those on an accelerator are written later, by one copy for many steps. Which steps are
        examined must not depend on when losses are written, so that a stretch is over when the
        examiner has to learn. On an accelerator nothing waits for that.
        """
        losses = self._losses
        backwards = (step - self._from - self._measured) * self._accumulation
        if self.timed and backwards > 0:
            self._budget.charge(BOOKKEEPING, statistics.median(self.timed) * backwards)
        losses.fetch(1 if losses.on_cpu else WAITING)
        ahead = min(losses.examiner.awaits, WAITING) if losses.on_cpu else WAITING
        now = time.perf_counter()
        steps = step - self._from
        in_time = int(min(steps * LOOK_SECONDS / max(now - self._began, 1e-9), 2 * steps))
        self.until = step + max(min(ahead, in_time), 1) - 1
        self._from = step
        self._measured = 0
        self._began = now
        self.late = now + LOOK_SECONDS
