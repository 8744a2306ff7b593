"""An observer of a training, what it is called with, and the list that calls it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from gradiometer.integrations.gradients import NEVER
from gradiometer.measurement.batch import Batch
from gradiometer.run.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Step:
    """One backward of a training, between `backward` and the update.

    Attributes:
        index: The number of the update that it belongs to, from 0.
        loss: The mean loss of the batch, as it was given.
        batch: The examples, or what stands for them.
        given: The batch, if it was given.
        place: Number of earlier backwards of this update.
        is_last: True if the update needs no further backward.
    """

    index: int
    loss: Any
    batch: Batch
    given: Batch | None
    place: int
    is_last: bool


class Update(NamedTuple):
    """An update of the parameters.

    Attributes:
        step: The newest step whose backwards are complete.
    """

    step: int


@dataclass(frozen=True)
class Start:
    """The start of a run, or of its continuation.

    Attributes:
        recorder: Writes the run.
        step: The step under way, or the next one.
        following: The next step that is not under way yet.
        is_new: True for a new run.
        has_facts: True if the run has the facts of the training already.
    """

    recorder: Recorder
    step: int
    following: int
    is_new: bool = True
    has_facts: bool = False


class Observer:
    """A part of a watch that follows training. Each kind overrides what it needs.

    Attributes:
        next: The step at which `at_step` is to be called again; `NEVER` for none.
        awaits_update: True if `updated` is to be called after the coming update.
        awaits_loop: True if `go_on` is to be called before the loop goes on.
        sees_all: True for one that is also called at steps at which only others are due.

    They are read after each call of an observer, and change only then.
    """

    next: int = NEVER
    awaits_update: bool = False
    awaits_loop: bool = False
    sees_all: ClassVar[bool] = False

    def begin(self, start: Start) -> None:
        """The run begins. On several processes only the first one has a run."""

    def at_step(self, event: Step) -> None:
        """Look at a backward, before the update. Called at every backward from `next` on."""

    def updated(self, update: Update) -> None:
        """Look at the parameters after an update."""

    def go_on(self) -> None:
        """Begin after the last call of ours, and before the next one of the loop."""

    def close(self, error: BaseException | None) -> None:
        """The training has ended, by this error or without one: write what waits, free the rest."""


class Observers:
    """The observers of a watch, in the order in which they are called.

    It alone knows the next step at which there is anything to do.

    Args:
        observers: All of them, the first one first.
    """

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._all = tuple(observers)
        # The next step at which an observer has something to do.
        self.due = 0
        # The step of the backward at which they are called now; None between two steps.
        self.under_way: int | None = None
        # Those that are called after the coming update.
        self.awaiting: tuple[Observer, ...] = ()

    def __iter__(self) -> Iterator[Observer]:
        return iter(self._all)

    def plan(self) -> None:
        """Choose the next step, and let the loop go on. Call it after an observer was called
        outside of this list."""
        self.under_way = None
        due, awaiting, following = NEVER, [], []
        for one in self._all:
            due = min(due, one.next)
            if one.awaits_update:
                awaiting.append(one)
            if one.awaits_loop:
                following.append(one)
        self.due = due
        self.awaiting = tuple(awaiting)
        for one in following:
            one.go_on()

    def begin(self, start: Start) -> None:
        """The run begins."""
        for one in self._all:
            one.begin(start)
        self.plan()

    def at_step(self, event: Step) -> None:
        """Call those that are due at a backward."""
        self.under_way = event.index
        for one in self._all:
            if event.index >= one.next or one.sees_all:
                one.at_step(event)
        self.plan()

    def updated(self, update: Update) -> None:
        """Call those that wait for this update."""
        for one in self.awaiting:
            one.updated(update)
        self.plan()
