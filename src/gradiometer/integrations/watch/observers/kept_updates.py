"""Keeps a few updates of a watched loop, so that a fork can be compared with what the loop does."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.integrations.gradients import NEVER
from gradiometer.integrations.watch.hook import Hook
from gradiometer.integrations.watch.observers.observer import Observer, Start, Step, Update
from gradiometer.integrations.watch.observers.triage.exact import SchedulersSeen, schedulers_of
from gradiometer.integrations.watch.shield import guarding
from gradiometer.integrations.watch.sources.exchange import SharedBatches
from gradiometer.integrations.watch.subject import Subject, takes_no_hooks
from gradiometer.loop.marks import Marks, marks_of
from gradiometer.loop.replay import (
    SETTINGS,
    KeptUpdate,
    KeptUpdates,
    all_tensors,
    gradients_of,
    state_dict_of,
    tensors_of,
    trained_by,
)
from gradiometer.measurement.batch import Batch, mapped
from gradiometer.measurement.optimizer.steps import as_one
from gradiometer.measurement.untouched import Surroundings
from gradiometer.randomness import GlobalStates

if TYPE_CHECKING:
    from gradiometer.integrations.watch.seen_loss.seen import SeenLoss

# Number of updates that are kept together, each of which must be the same on a copy. The first are
# kept after as many.
IN_A_ROW = 4

# Most numbers in a state that is kept, and in the parameters at the start of training, which the
# certificate needs: 64 MiB in single precision.
MOST_NUMBERS = 2**24

# Most numbers of the states that stay after the training: 16 MiB in single precision.
MOST_AFTERWARDS = 2**22

# Most numbers in a state of a loop that gives no loss, which has asked for no forks: 16 MiB.
MOST_IN_TWO_LINES = 2**22

# The share of the training that pays for updates after the first ones: in 300 steps of a small
# transformer those that were kept at 4, 32 and 256 took 8 %.
PAID = 0.03

# The name under which its time is charged.
COST = "updates kept for forks"


class UpdateKeeper(Observer):
    """Keeps four updates in a row: one copy of the state before them, their batches, and marks of
    what each one did.

    The newest four stay. Nothing is run again before a fork is asked for.

    Args:
        subject: The training. Nothing is kept of ours, with a budget of 0, or if it is sharded.
            Under DDP rank 0 keeps its updates, and the batches of all processes.
        warn: Takes a warning.
        seen: Sees the batches of a loop that does not give them.
    """

    def __init__(
        self,
        subject: Subject,
        warn: Callable[[str], None],
        seen: "SeenLoss",
    ) -> None:
        self._subject = subject
        self._seen = seen
        self._model = subject.objective.model
        self._optimizers = subject.optimizers
        self._budget = subject.budget
        # The context for everything that training calls.
        self.shield = guarding(warn, "updates are no longer kept for forks", self._fail)
        # The updates that are complete, the newest last.
        self.stretches: list[KeptUpdates] = []
        # Number of states that are kept, twice as far apart each time, to fork from them later.
        self.states = 0
        # False for the steps of states that nobody will fork from.
        self._is_wanted: Callable[[int], bool] = lambda _: True
        # The schedulers of the loop when the newest state was kept.
        self.schedulers = SchedulersSeen()
        # Why there are none, as the end of a sentence.
        self.why_none = "the loop has not made enough updates yet"
        self._start = IN_A_ROW
        self._first = 0
        self._count = 0
        self._is_open = False
        self._state: KeptUpdates | None = None
        self._used: Surroundings | None = None
        self._batches: list[Batch] = []
        self._random: GlobalStates | None = None
        self._at_forward: GlobalStates | None = None
        self._generators: list[tuple[Any, bytes]] = []
        self._weights: Marks | None = None
        self._above: Marks | None = None
        self._modes: list[bool] = []
        self._handles: list[Any] = []
        # The batches that other processes keep of the same updates; None on one process.
        self._shared = subject.source.shared_batches(subject.called)
        can_keep = bool(self._budget.share) and subject.source.keeps_updates(subject.called)
        self.next = self._first_look if can_keep else NEVER
        # The parameters of the first step; None if they are not kept.
        self.at_start: list[Tensor] | None = None
        if not can_keep:
            self.why_none = "that needs a `budget` above 0 in `watch`, and one process or DDP"

    @property
    def newest(self) -> KeptUpdates | None:
        """The newest updates; None if there are none."""
        if self._shared is not None:
            self._take_in_others(self._shared)
        return self.stretches[-1] if self.stretches else None

    def _take_in_others(self, shared: SharedBatches) -> None:
        """Add the batches of the other processes. Updates that lack some cannot be made again."""
        complete = []
        for stretch in self.stretches:
            updates = []
            for update in stretch.updates:
                own = update.batches[: self._subject.source.backwards]
                others = shared.of_others(update.step, own)
                if others is not None:
                    updates.append(replace(update, batches=(*own, *others)))
            if len(updates) == len(stretch.updates):
                complete.append(replace(stretch, updates=updates))
        if self.stretches and not complete:
            self.why_none = "the batches of the other processes are not known, or too large"
        self.stretches = complete

    def before(self, step: int) -> KeptUpdates:
        """The newest state that is kept from a step or before it.

        Raises:
            BadArgument: There is none.
        """
        if self._shared is not None:
            self._take_in_others(self._shared)
        found = [one for one in self.stretches if one.step <= step]
        if found:
            return found[-1]
        steps = ", ".join(f"{one.step:,}" for one in self.stretches)
        more = max(2 * self.states, 3)
        raise BadArgument(
            f"`at` is {step:,}, and no state is kept from there or before: "
            + (f"there are those of steps {steps}." if steps else f"{self.why_none}.")
            + f" Give `watch` a number of states, such as checkpoints={more}."
        )

    def begin(self, start: Start) -> None:
        """Keep the parameters of the first step of a new run."""
        objective = self._subject.objective
        is_kept = start.is_new and self._subject.source.runs_model
        if is_kept and objective.dimension <= MOST_NUMBERS:
            self.at_start = [one.detach().to("cpu", copy=True) for one in objective.parameters]

    def keep_states(self, count: int, is_wanted: Callable[[int], bool] | None = None) -> None:
        """Keep so many earlier states from now on, those of steps that are wanted."""
        self.states = count
        if is_wanted is not None:
            self._is_wanted = is_wanted

    def at_step(self, event: Step) -> None:
        """Take the batch of a backward, before the update."""
        batch = event.given
        if self._is_open and self._seen.may_be_seen:
            with self.shield:
                seen = self._seen.take(event)
                if seen is not None:
                    batch = seen
                    if event.place == 0 and self._seen.random is not None:
                        self._random = self._seen.random  # the loader may draw, too
                if not event.is_last:
                    self._seen.look()
        elif self._is_open:
            self._seen.stop()
        if batch is None and (self._is_open or not self._seen.may_be_seen):
            # an update cannot be repeated, now or later: the coming one must not begin anew
            with self.shield:
                why = self._seen.why_not
                self._give_up(f"`w.step` was called without the batch, and {why}", for_good=True)
            return
        self.awaits_update = True
        if not self._is_open:
            self._seen.stop_ahead()
            return
        with self.shield, self._spending():
            if not self._batches or batch is not self._batches[-1]:
                # a closure takes the same batch several times
                if self._state is None:
                    self._keep_state()  # the first call of the model was not seen
                self._batches.append(batch)
                if self._weights is None:
                    self._weights = marks_of(dict(self._model.named_parameters()))

    def updated(self, update: Update) -> None:
        """Take what an update did, and prepare for the next one."""
        step = update.step
        self.awaits_update = False
        with self.shield, self._spending():
            if not self._is_open:
                if step >= self._start - 1 and self._is_paid_for(step):
                    self._begin(step + 1)
                elif step == self._start - 2 and self._is_paid_for(step):
                    self._seen.look_ahead()
            elif len(self._batches) != self._subject.source.backwards:
                self._give_up(
                    f"an update took {len(self._batches)} calls of `w.step`, not "
                    f"{self._subject.source.backwards}"
                )
            else:
                self._take(step)

    def went_back(self) -> None:
        """Leave the updates at hand alone after the training was put back to an earlier state."""
        if self._is_open:
            self._give_up("the training went back to an earlier state")

    def close(self, error: BaseException | None) -> None:
        """Keep no more, and free what is large: a watch outlives its training for its findings, and
        for a test of what limited it."""
        with self.shield:
            can_test = self._seen.has_loss and self._shared is None
            kept = [*self.stretches] if can_test else []
            self._free()
            if sum(one.numbers for one in kept) <= MOST_AFTERWARDS:
                self.stretches += kept

    def _free(self) -> None:
        self._close_stretch()
        if self._shared is not None and self._subject.source.is_first:
            self._shared.forget([one.step for kept in self.stretches for one in kept.updates])
        self.stretches.clear()
        self.schedulers.clear()
        self.why_none = "the training has ended"
        self.next = NEVER
        self.awaits_update = False

    def _spending(self) -> AbstractContextManager[None]:
        """A context that charges the time inside."""
        return self._budget.spending(COST, fixed=True)

    @property
    def _first_look(self) -> int:
        """The step at which it is called before the next updates: a loader that draws ahead is
        looked at one update earlier."""
        return self._start - (2 if self._seen.may_be_seen else 1)

    def _is_paid_for(self, step: int) -> bool:
        """True if the next updates may be kept now; otherwise they are tried again later."""
        # several processes must keep the same ones, and each has its own clock
        if self.states or not self._count or self._shared is not None:
            return True
        cost = self._budget.spent_on[COST]
        a_step = self._budget.training / (step + 1)
        # of 300 steps at least; and 0.05 s however short the steps are
        if cost + cost / self._count <= max(PAID * a_step * max(step, 300), 0.05):
            return True
        self._start = step + 1 + max(step // 8, IN_A_ROW)
        self.next = self._first_look
        return False

    def _begin(self, step: int) -> None:
        """Keep the coming updates, unless they cannot be kept."""
        self._count += 1
        self._first = step
        tensors = all_tensors(self._model, as_one(self._optimizers))
        most = MOST_NUMBERS if self._subject.has_loss else MOST_IN_TWO_LINES
        if sum(tensor.numel() for tensor in tensors.values()) > most:
            self._give_up(f"model and optimizer have more than {most:,} numbers", for_good=True)
            return
        # without the model, whose hooks lead to the watch and its own generators
        self._used = Surroundings(getattr(self._subject.objective.loss, "__wrapped__", None))
        self._is_open = True
        self.next = step
        self._prepare()

    def _keep_state(self) -> None:
        """Keep the state before the first update, after all that a loop does between
        two updates."""
        if not self._subject.source.is_first:
            return
        tensors = {name: one.detach().clone() for name, one in tensors_of(self._model).items()}
        self._state = state_of(self._subject, tensors, self._first)
        if self.states:
            schedulers, _ = schedulers_of(self._optimizers, self._first, self.schedulers)
            self._state.schedulers = [copy.deepcopy(one.state_dict()) for one in schedulers]

    def _prepare(self) -> None:
        """Keep the random states before an update, and see to its first call of the model."""
        self._batches = []
        self._at_forward = None
        self._weights = self._above = None
        self._random = GlobalStates(self._devices)
        self._generators = (
            []
            if self._used is None
            else list(zip(self._used.generators, self._used.states(), strict=True))
        )
        self._modes = [module.training for module in self._model.modules()]
        self._seen.look()
        self._remove_hook()
        if takes_no_hooks(self._model):
            return
        # several networks in one module are called by themselves
        called = self._subject.called
        for module in (called, *called.children()):
            if not isinstance(module, torch.jit.ScriptModule):
                hook = Hook(self.shield, self._at_call)
                self._handles.append(module.register_forward_pre_hook(hook))

    @property
    def _devices(self) -> set[torch.device]:
        return {parameter.device for parameter in self._model.parameters()}

    def _at_call(self, *_: Any) -> None:
        """The model, or a part of it, is called in training: the modes and random states of this
        update."""
        if not torch.is_grad_enabled():
            return
        if self._at_forward is None:
            with self._spending():
                self._at_forward = GlobalStates(self._devices)
                self._weights = marks_of(dict(self._model.named_parameters()))
                if self._state is None:
                    self._keep_state()
                self._modes = [module.training for module in self._model.modules()]
        elif len(self._batches) == self._subject.source.backwards and self._above is None:
            # after the last `w.step`: as SAM does
            with self._spending():
                self._above = marks_of(dict(self._model.named_parameters()))

    def _take(self, step: int) -> None:
        """Keep what an update did."""
        if self._shared is not None and not self._subject.source.is_first:
            self._shared.give(step, self._batches, most=max(self.states, 1) * IN_A_ROW)
            self._count_update(step)
            return
        kept, optimizer = self._state, as_one(self._optimizers)
        assert kept is not None and self._random is not None and self._weights is not None
        kept.updates.append(
            KeptUpdate(
                step,
                tuple(mapped(batch, Tensor.clone) for batch in self._batches),
                self._random,
                self._at_forward,
                self._generators,
                self._modes,
                [
                    {name: group[name] for name in SETTINGS if name in group}
                    for group in optimizer.param_groups
                ],
                self._weights,
                self._above,
                marks_of(gradients_of(self._model)),
                marks_of(all_tensors(self._model, optimizer)),
            )
        )
        earlier = [one for one in self.stretches if one is not kept]
        self.stretches = [*earlier, kept][-max(self.states, 1) :]
        self._count_update(step)

    def _count_update(self, step: int) -> None:
        """Go on with the stretch, or end it."""
        if step + 1 < self._first + IN_A_ROW:
            self._prepare()
        else:
            self._end_stretch(step)

    def _close_stretch(self) -> None:
        self._seen.rest()
        self._remove_hook()
        self._is_open = False
        self._state = self._weights = self._above = None
        self._batches = []

    def _end_stretch(self, step: int) -> None:
        self._close_stretch()
        while self._start <= step + 1 or (self.states and not self._is_wanted(self._start)):
            # 4, 32, 256, ...: from step 300 on fewer than one update in 20 is kept.
            self._start *= 2 if self.states else 8
        self.next = self._first_look

    def _give_up(self, why: str, *, for_good: bool = False) -> None:
        """Keep nothing for now, or no more at all."""
        if not self.stretches:
            self.why_none = why
        if for_good:
            self._close_stretch()
            self.next = NEVER
        else:
            self._end_stretch(self._start)

    def _remove_hook(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _fail(self, reason: str) -> None:
        self._free()
        self.why_none = f"keeping them failed ({reason})"


def state_of(subject: Subject, tensors: dict[str, Tensor], step: int) -> KeptUpdates:
    """The state of a training before the update of a step: these copies of the tensors of its
    model, and copies of its optimizer and its scaler."""
    optimizer = state_dict_of(as_one(subject.optimizers))
    scaler = _copy_of_scaler(subject.scaler)
    trained = trained_by(subject.objective.model)
    return KeptUpdates(tensors, copy.deepcopy(optimizer), scaler, step=step, trained=trained)


def _copy_of_scaler(scaler: Any) -> Any:
    """A copy of a GradScaler with its own tensors, whose state is asked for later: that waits for
    an accelerator."""
    if scaler is None:
        return None
    copied = object.__new__(type(scaler))  # `copy.copy` asks for the state, too
    for name, value in vars(scaler).items():
        setattr(copied, name, value.clone() if isinstance(value, Tensor) else value)
    return copied
