"""The losses of a watched loop, and the steps at which only they are kept."""

import math
import statistics
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from gradiometer.compiler import as_written
from gradiometer.drift.spikes.cause import EVENT, EXAMINATIONS
from gradiometer.drift.spikes.examination import Before, Examiner
from gradiometer.errors import BadArgument, GradiometerError, UserCodeFailed, summary, user_line
from gradiometer.integrations.gradients import NEVER
from gradiometer.integrations.watch.accelerator import Copied
from gradiometer.integrations.watch.observers.observer import Observer, Start, Step
from gradiometer.integrations.watch.observers.optimizers import UpdateCounter
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

# The size of a backward whose examples are counted later.
UNSIZED = -1


def without_batches(parts: Sequence[Part]) -> list[Part]:
    """The backwards of a step with their sizes and losses only. Batches of an unknown size are
    counted."""
    return [
        Part(None, first_size(batch) if size == UNSIZED else size, loss)
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


class Losses(Observer):
    """Keeps the loss of every step, and counts the steps.

    They come in stretches of at most 64 steps, and of about a quarter of a second at the pace of
    the stretch before: to read the clock at every step took a quarter of the time of `step`. At the
    end of a stretch losses are written. Its last step is timed and stands for the others, and all
    are charged.

    Args:
        subject: The training. If a loss is not finite, its model is run again to find the layer and
            the examples, unless it is sharded: no process can run such a model alone.
        warn: Takes the warning, which is kept with the run.
        updates: Counts the updates, and notices a step without one.
    """

    sees_all = True

    def __init__(self, subject: Subject, warn: Callable[..., None], updates: UpdateCounter) -> None:
        self._subject = subject
        self._objective = subject.objective
        self._budget = subject.budget
        self._backwards = subject.source.backwards
        self._warn = warn
        self._updates = updates
        # Number of complete steps, which is the index of the next one.
        self.steps = 0
        # The backwards of the step under way.
        self.parts: list[Part] = []
        # The last step of the stretch.
        self.next = 0
        # True if the whole model is on the CPU, and with it the losses.
        self.on_cpu = all(device.type == "cpu" for device in subject.objective.devices)
        # The losses of the last steps, which are not written yet, and the step of the first.
        self._waiting: list[Kept] = []
        self._waits_from = 0
        self._arriving: Arriving | None = None
        self._warned = False
        # Its `limit` is that of a loss worth an examination.
        self._examiner = Examiner(subject.objective, subject.seed)
        # The last batch whose loss is a number, and its loss.
        self._before: tuple[Batch, float] | None = None
        # The recorder that writes them, on rank 0.
        self._recorder: Recorder | None = None
        # True until a loss of more than one number came: an error of `item` costs as much as ten
        # calls.
        self._are_numbers = self.on_cpu
        # Updates at the newest step.
        self._updates_before = -1
        self._is_stopped = False
        # The stretch: its first step, when it began, and when it should end.
        self._from = 0
        self._began = 0.0
        self._late = 0.0
        # Times of the last steps of stretches, whose median stands for the others: the first ones
        # find cold caches.
        self._timed: deque[float] = deque(maxlen=5)
        # The last step of the stretch before.
        self.closed_at = -1

    def resume(self, steps: int, losses: Sequence[float] = ()) -> None:
        """Go on from this number of steps, with the losses that were examined before, if any."""
        self.steps = steps
        self._examiner.repeat(losses)

    def begin(self, start: Start) -> None:
        """Write into the run from now on."""
        self._recorder = start.recorder

    def take(self, loss: Tensor | float, batch: Batch) -> None:
        """Keep the loss of one backward, and count its step if it was the last one of it.

        Args:
            loss: The mean loss of the batch.
            batch: The batch.
        """
        value: float | Tensor
        # training has used the caches, so that each call costs about 1 µs: `item` checks the shape
        # by itself
        try:
            value = loss.item() if self._are_numbers and type(loss) is Tensor else value_of(loss)
        except RuntimeError:
            self._are_numbers = False
            value = value_of(loss)
        if value.__class__ is float:
            # finite without a name that has to be looked up, which takes a tenth of the time
            if value < self._examiner.limit and value - value == 0.0:
                self._before = batch, value
            else:
                part = Part(batch, batch_size(batch), value)
                if not part.size:
                    self._warn("`batch` is empty: such steps are not recorded")
                    return
                self._look_at(part)
        if self._backwards > 1:
            # its examples are counted later, which takes less time between two steps
            self.parts.append(tuple.__new__(Part, (batch, UNSIZED, value)))
            if len(self.parts) < self._backwards:
                return
            self._keep_parts()
        elif not self._is_stopped:
            if not self._waiting:
                self._waits_from = self.steps
            self._waiting.append(value)
        self.steps += 1
        updates = self._updates.count
        if updates == self._updates_before:
            self._updates.missed()
        self._updates_before = updates

    def at_step(self, event: Step) -> None:
        """Keep the loss. At the end of a stretch charge its steps, and write their losses."""
        is_over = event.index >= self.next or time.perf_counter() >= self._late
        began = time.thread_time()
        self.take(event.loss, event.batch)
        if is_over and self.steps > event.index:
            self._timed.append(time.thread_time() - began)
            with self._budget.spending(BOOKKEEPING):
                self._close_stretch()

    def fall_short(self) -> None:
        """Complete the step under way with the backwards that it has: its update was made."""
        self._keep_parts()
        self.steps += 1

    def abandon(self, step: int, place: int) -> None:
        """Count a backward whose loss could not be kept, by its step and its place in it."""
        if self.steps != step or len(self.parts) != place:
            return  # it was kept
        self.parts.append(NO_PART)
        if len(self.parts) == self._backwards:
            self._keep_parts()
            self.steps += 1

    def stop(self) -> None:
        """Keep no more losses, and count the steps only."""
        self._is_stopped = True
        self._waiting = []
        self.next = NEVER
        self._late = math.inf

    def write(self) -> None:
        """Write all losses so far. On an accelerator training waits for the newest."""
        self._fetch()

    def _keep_parts(self) -> None:
        """Keep the losses of all backwards of a step. A backward of which nothing is known leaves
        its step without a loss."""
        parts = self.parts
        self.parts = []  # before they are kept: a step that could not be kept is over, too
        if self._is_stopped:
            return
        if not all(part.size for part in parts):
            with suppress(Exception):
                self._fetch()  # those that wait are of successive steps
            return
        if not self._waiting:
            self._waits_from = self.steps
        self._waiting.append(without_batches(parts))

    def _close_stretch(self) -> None:
        """Charge the steps of the stretch, write their losses, and begin another.

        Those on an accelerator are written later, by one copy for many steps. Which steps are
        examined must not depend on when losses are written, so that a stretch is over when the
        examiner has to learn. On an accelerator nothing waits for that.
        """
        step = self.steps
        steps = step - self._from
        if steps > 0:
            seconds = statistics.median(self._timed) * steps * self._backwards
            self._budget.charge(BOOKKEEPING, seconds)
        self._fetch(1 if self.on_cpu else WAITING)
        ahead = min(self._examiner.awaits, WAITING) if self.on_cpu else WAITING
        now = time.perf_counter()
        in_time = int(min(steps * LOOK_SECONDS / max(now - self._began, 1e-9), 2 * steps))
        self.next = step + max(min(ahead, in_time), 1) - 1
        self.closed_at = step - 1
        self._from = step
        self._began = now
        self._late = now + LOOK_SECONDS

    def _look_at(self, part: Part) -> None:
        """Check the loss of a backward, before the update.

        On a CPU a loss that is not finite is reported at once, and one that is far above the last
        ones is examined.
        """
        batch, _, loss = part
        assert isinstance(loss, float)
        before = self._before
        self._before = batch, loss
        if -math.inf < loss < self._examiner.limit:
            return
        if math.isfinite(loss):
            self._examine(loss, batch, before)
        elif not self._warned:
            self._find_culprit(loss, batch)

    def _find_culprit(self, loss: float, batch: Batch) -> None:
        """Report a loss that is not finite, with the layer and the examples that made it so."""
        subject = self._subject
        which = subject.source.place_of(len(self.parts))
        text = f"the loss is {loss} at step {self.steps:,}{which}, for the first time in this run"
        if not subject.source.runs_model:
            self._report(text)
            return
        from gradiometer.integrations.watch.observers.nonfinite import culprit  # noqa: PLC0415

        with as_written():
            place, kind = culprit(
                self._objective, batch, seed=subject.seed, has_loss=subject.has_loss
            )
        self._report(f"{text}: {place}", not_finite=kind)

    def _fetch(self, fewest: int = 1) -> None:
        """Write the losses that wait, if there are at least so many. With 1 all are written.

        Otherwise those on an accelerator are written the next time: until then they are copied, and
        nothing waits.
        """
        if len(self._waiting) >= fewest:
            self._write_arrivals()
            waiting, self._waiting = self._waiting, []
            self._arriving = Arriving(self._waits_from, waiting)
        if fewest == 1 or (self._arriving is not None and self._arriving.on_cpu):
            self._write_arrivals()

    def _write_arrivals(self) -> None:
        arriving, self._arriving = self._arriving, None
        if arriving is None:
            return
        values = arriving.values()
        if self._recorder is not None:
            self._recorder.losses(arriving.step, values)
        self._examiner.learn(values)
        if not (self._warned or all(map(math.isfinite, values))):
            place, value = next(
                (place, one) for place, one in enumerate(values) if not math.isfinite(one)
            )
            self._report(
                f"the loss is {value} at step {arriving.step + place:,}, for the first time in "
                "this run"
            )

    def _examine(self, loss: float, batch: Batch, before: tuple[Batch, float] | None) -> None:
        """Keep what this step shows of a spike. Only rank 0 does, unless measuring is off."""
        source = self._subject.source
        if self._recorder is None or not (source.runs_model and self._budget.share):
            return
        gradients = [parameter.grad for parameter in self._objective.parameters]
        made = [gradient for gradient in gradients if gradient is not None]
        is_whole = self._backwards == 1 and len(made) == len(gradients)
        self._fetch()
        with self._budget.spending(EXAMINATIONS), as_written():
            known = None if before is None else Before(*before)
            fields = self._examiner.examine(loss, batch, known, made if is_whole else None)
        if fields is not None:
            self._recorder.event(EVENT, self.steps, **fields)

    def _report(self, text: str, **fields: str) -> None:
        self._warned = True
        self._warn(text, **fields)
        warnings.warn(f"{text}.", RuntimeWarning, stacklevel=4)
