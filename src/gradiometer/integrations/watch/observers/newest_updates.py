"""Keeps the newest updates of a watched loop, so that those of an incident can be made again."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from gradiometer.integrations.gradients import NEVER
from gradiometer.integrations.watch.observers.kept_updates import COST, MOST_NUMBERS, state_of
from gradiometer.integrations.watch.observers.losses import value_of
from gradiometer.integrations.watch.observers.observer import Observer, Step, Update
from gradiometer.integrations.watch.shield import guarding
from gradiometer.integrations.watch.subject import Subject
from gradiometer.loop.recorded.incidents import BEFORE, BEYOND, usual
from gradiometer.loop.replay import ROUNDING, KeptUpdates, all_tensors, tensors_of
from gradiometer.measurement.batch import Batch, mapped
from gradiometer.measurement.batch import tensors_of as tensors_in
from gradiometer.measurement.optimizer.steps import as_one
from gradiometer.randomness import untouched_randomness

if TYPE_CHECKING:
    from gradiometer.loop.loop import Loop

# Updates between two states. Each costs a copy of model and optimizer.
SPACING = 32

# Stretches that are kept while nothing happens. A rate that is too high raised losses for up to 40
# updates before they were seen to be high.
STRETCHES = 3

# Losses of a stretch whose median shows if it rises.
NEWEST = 16


@dataclass
class Stretch:
    """Some updates in a row, and the state before the first of them.

    Args:
        state: The state.
        batches: The batches of each update.
        rates: The largest rate at each update.
        losses: The losses of the batches of each update.
    """

    state: KeptUpdates
    batches: list[list[Batch]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    losses: list[list[float | Tensor]] = field(default_factory=list)


@dataclass
class IncidentUpdates(Stretch):
    """The updates of an incident.

    Args:
        peak: The step of its highest loss, or of the first that is not finite.
        height: How many usual deviations that loss is above the level; inf if it is not finite.
        own: The newest state that training itself has had.
    """

    peak: int = 0
    height: float = 0.0
    own: KeptUpdates | None = None

    def brought_to(self, step: int, loop: "Loop", until: int) -> "Loop":
        """A copy of the training at a step of these updates, which continues with their batches up
        to another step. The state moves there, too."""
        from gradiometer.loop.data import Kept  # noqa: PLC0415
        from gradiometer.loop.parts import RateByHand  # noqa: PLC0415

        copied = self.state.brought_back(loop)
        if self.own is None:
            self.own = self.state
        begin = copied.index
        is_own = self.own is self.state
        rates = [*self.rates]

        def rate_at(update: int) -> float:
            return rates[min(max(update - begin, 0), len(rates) - 1)]

        # the rates are those that the loop had, whoever set them
        by_hand = RateByHand(copied.optimizer, rate_at, begin)
        by_hand.begin()
        copied.schedulers = (by_hand,)
        copied.scheduler_every = 1
        taken = step - begin
        with untouched_randomness(0, copied.devices):
            for batches, losses in zip(self.batches[:taken], self.losses[:taken], strict=True):
                again = float(copied.update(*batches))
                # draws of Dropout are others than those of training
                is_own &= math.isclose(again, mean_of(losses), rel_tol=ROUNDING)
        del self.batches[:taken], self.rates[:taken], self.losses[:taken]
        self.state = KeptUpdates(
            tensors_of(copied.model),
            copied.optimizer.state_dict(),
            copied.scaler,
            step=step,
            trained=self.state.trained,
        )
        if is_own:
            self.own = self.state
        # its own copy: the state stays as it is
        copied = copied.copy()
        copied.data = Kept(self.batches[: until - step], step, copied.data)
        return copied

    def whole_updates(self, step: int, accumulation: int) -> range:
        """The updates in a row around a step that took as many batches as usual: others, as at the
        end of an epoch, cannot be made again in a branch. Empty if that of the step is another."""
        begin = self.state.step
        others = [
            begin + place
            for place, batches in enumerate(self.batches)
            if len(batches) != accumulation
        ]
        first = max((other + 1 for other in others if other <= step), default=begin)
        last = min((other for other in others if other > step), default=begin + len(self.batches))
        return range(first, last)


class NewestUpdates(Observer):
    """Keeps the newest updates of a loop, and those of its worst incident so far.

    Losses are looked at once in 32 updates. Nothing is run again before a cause is asked for.

    Args:
        subject: The training.
        warn: Takes a warning.
    """

    def __init__(self, subject: Subject, warn: Callable[[str], None]) -> None:
        self._subject = subject
        self._model = subject.objective.model
        # The context for everything that training calls.
        self.shield = guarding(
            warn,
            "updates are no longer kept for incidents",
            lambda reason: self._end(f"keeping them failed ({reason})"),
        )
        # The updates of the worst incident that is complete.
        self.incident: IncidentUpdates | None = None
        # Why there is none, as the end of a sentence.
        self.why_none = "no loss was far above those before it"
        self._stretches: list[Stretch] = []
        self._before: deque[float] = deque(maxlen=BEFORE)
        self._step = -1
        self._buffers: dict[str, Tensor] = {}
        self._is_open = False
        self._opened = 0
        self._peak = 0
        self._height = 0.0

    def keep(self) -> None:
        """Keep the updates from now on. Call it before the first step."""
        if self._subject.source.keeps_newest:
            self.next = 0
            self._keep_buffers()
        else:
            self.why_none = "it needs a training in one process"

    def updated(self, update: Update) -> None:
        """Keep the buffers before a stretch begins: the next forward may change them."""
        self.awaits_update = False
        self._keep_buffers()

    def _keep_buffers(self) -> None:
        with self.shield:
            self._buffers = {name: one.clone() for name, one in self._model.named_buffers()}

    def at_step(self, event: Step) -> None:
        """Take a backward, before the update."""
        step, batch = event.index, event.given
        with self.shield, self._subject.budget.spending(COST, fixed=True):
            if batch is None:
                self._end("`w.step` was called without the batch")
                return
            if step != self._step:
                self._begin_update(step)
            # a state that is too large ends the keeping
            if self._stretches:
                self._stretches[-1].batches[-1].append(mapped(batch, Tensor.clone))
                self._stretches[-1].losses[-1].append(value_of(event.loss))

    def went_back(self) -> None:
        """Begin anew after the training was put back to an earlier state."""
        self.finish()
        if self._stretches:
            self._stretches = []
            self._keep_buffers()

    def finish(self) -> None:
        """Look at the newest losses, too: nothing follows, or the cause is asked for now."""
        if self._stretches:
            with self.shield:
                self._look()
                self._complete()

    def _begin_update(self, step: int) -> None:
        self._step = step
        if not self._stretches or len(self._stretches[-1].rates) == SPACING:
            self._begin_stretch(step)
        if self._stretches:
            groups = as_one(self._subject.optimizers).param_groups
            newest = self._stretches[-1]
            newest.rates.append(max(float(group["lr"]) for group in groups))
            newest.batches.append([])
            newest.losses.append([])
            self.awaits_update = len(newest.rates) == SPACING

    def _begin_stretch(self, step: int) -> None:
        if self._stretches:
            self._look()
        # What grows for a long time shows its cause at its beginning. 24 updates after the highest
        # loss show what becomes of it.
        if self._is_open and step >= min(self._peak, self._opened + SPACING) + 24:
            self._complete()
        if self.next == NEVER:
            return
        optimizer = as_one(self._subject.optimizers)
        kept = [*all_tensors(self._model, optimizer).values()]
        if self._stretches:
            # the batches of all stretches count, too
            kept += [*tensors_in(self._stretches[-1].batches)] * STRETCHES
        if sum(tensor.numel() for tensor in kept) > MOST_NUMBERS:
            self._end(f"states and batches have more than {MOST_NUMBERS:,} numbers")
            return
        weights = {name: one.detach().clone() for name, one in self._model.named_parameters()}
        state = state_of(self._subject, {**weights, **self._buffers}, step)
        earlier = self._stretches if self._is_open else self._stretches[1 - STRETCHES :]
        self._stretches = [*earlier, Stretch(state)]

    def _look(self) -> None:
        """Look for high losses in the newest stretch."""
        stretch = self._stretches[-1]
        losses = np.array([mean_of(each) for each in stretch.losses])
        level, spread = usual(np.array(self._before))
        # how far noise reaches is not known where all losses before were the same
        heights = (losses - level) / spread if spread > 0 else np.zeros(len(losses))
        heights[~np.isfinite(losses)] = math.inf
        # in usual deviations: the median of 16 losses of noise is within 0.3 of one
        rises = len(heights) >= NEWEST and np.median(heights[-NEWEST:]) > 2
        if not self._is_open and (rises or (heights > BEYOND).any()):
            self._is_open = True
            self._opened = stretch.state.step
            self._height = 0.0
        if not self._is_open:
            self._before.extend(losses)
            return
        place = int(np.nan_to_num(heights).argmax())
        if heights[place] > self._height:
            self._peak = stretch.state.step + place
            self._height = float(heights[place])

    def _complete(self) -> None:
        """Keep the updates of an incident, if it is the worst one so far."""
        if not self._is_open:
            return
        self._is_open = False
        if self.incident is not None and self._height <= self.incident.height:
            return
        self.incident = IncidentUpdates(
            self._stretches[0].state,
            [batch for one in self._stretches for batch in one.batches],
            [rate for one in self._stretches for rate in one.rates],
            [losses for one in self._stretches for losses in one.losses],
            peak=self._peak,
            height=self._height,
        )
        if math.isinf(self._height):
            self._end("none is kept after a loss that is not finite")

    def _end(self, why_none: str) -> None:
        self.why_none = why_none
        self.next = NEVER
        self.awaits_update = False
        self._stretches = []


def mean_of(losses: Sequence[float | Tensor]) -> float:
    """The mean of the losses of an update."""
    return float(np.mean([float(loss) for loss in losses]))
