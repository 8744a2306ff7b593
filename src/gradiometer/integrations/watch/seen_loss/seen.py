"""The loss of a loop that gave none to `watch`, as far as it can be seen."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.integrations.gradients import NEVER
from gradiometer.integrations.watch.observers.losses import value_of
from gradiometer.integrations.watch.observers.observer import Observer, Step, Update
from gradiometer.integrations.watch.seen_loss.arguments import ConstantTensor, OfBatch, Way
from gradiometer.integrations.watch.seen_loss.looking import Looking
from gradiometer.integrations.watch.seen_loss.recipe import GIVE, Recipe, recipe_of
from gradiometer.integrations.watch.seen_loss.recording import ByCall, Place, Recording
from gradiometer.integrations.watch.seen_loss.slicing import (
    NotSeen,
    Slice,
    Sources,
    check_calls,
    check_same,
    constants_of,
    holds_tensors,
    slice_of,
    sources_of,
)
from gradiometer.integrations.watch.shield import guarding, reason_of
from gradiometer.integrations.watch.subject import Subject, takes_no_hooks
from gradiometer.loop.replay import KeptUpdates
from gradiometer.measurement.batch import Batch, batch_size
from gradiometer.randomness import GlobalStates

# The first update whose calls are recorded. Those of the first two are made once only, such as a
# state that the optimizer makes.
FIRST = 2

# The first update at which the calls are compared once more. From there on they are at twice the
# step each time, so that a weight that changes later is noticed, such as one that grows by epochs.
AGAIN = 24

# Updates in a row that are compared before the loss is taken as seen.
COMPARED = 2

# Updates in a row at which it is tried to record them, at most.
MOST_TRIES = 8

# Most values of losses that are kept, to be compared with those of the updates made again.
MOST_VALUES = 64


class SeenLoss(Observer):
    """Records how a loop makes its loss at two updates, and again at those that are kept for forks.

    The calls of functions of torch and of modules are compared between updates: they must be the
    same, on tensors of the batch, of the model, or constants. What is found is only used after it
    has made kept updates again, on other batches, with the gradients and losses of the training.

    Args:
        subject: The training. Nothing is recorded if it has a loss, or several processes.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        # The context for everything that training calls.
        # Nobody has asked for the loss yet, so that nobody is warned.
        self.shield = guarding(lambda _: None, "", self._refuse)
        self._looking = Looking(self._fail)
        # Why there is none, as the end of a sentence.
        self.why_not = "the loop has not made enough updates yet"
        self.recipe: Recipe | None = None
        self._is_refused = False
        self._parts: list[tuple[Slice, Sources]] = []
        self._rows = 1
        self._tries = 0
        self._places: list[Any] = []
        self._values: dict[int, list[float | Tensor]] = {}
        self._is_proven = False
        self._has_loader = False
        model = subject.objective.model
        can_look = (
            not subject.has_loss
            and bool(subject.budget.share)
            and subject.source.keeps_newest
            and not takes_no_hooks(model)
            and not subject.batches.axis
        )
        # The next update that is recorded, and True while one is looked at for its batch alone,
        # since some loaders draw one ahead.
        self._due = FIRST
        self._is_ahead = False
        self.next = FIRST - 2 if can_look else NEVER
        if not can_look:
            self._is_refused = True
            self.why_not = "that needs a plain model in one process, and a `budget` above 0"

    @property
    def may_be_seen(self) -> bool:
        """True unless it is known that the loss cannot be seen."""
        return not self._is_refused

    @property
    def has_loss(self) -> bool:
        """True if there is a loss to run again: it was given, or seen in the loop."""
        return self._subject.has_loss or self.recipe is not None

    @property
    def random(self) -> GlobalStates | None:
        """The random states when the newest recorded batch was drawn; None if it is not known."""
        return self._looking.random

    def look(self) -> None:
        """Record the coming backward."""
        with self.shield:
            if self.may_be_seen:
                self._is_ahead = False
                self.awaits_loop = True

    def look_ahead(self) -> None:
        """See the batches that are drawn until the coming backward."""
        with self.shield:
            if self.may_be_seen and not (self.awaits_loop or self._looking.is_open):
                self._is_ahead = self.awaits_loop = True

    def go_on(self) -> None:
        """Begin the recording that was asked for."""
        self.awaits_loop = False
        with self.shield:
            self._looking.start(self._subject.objective.model, self._subject.called)

    def stop_ahead(self) -> None:
        """Record no more, if only batches were to be seen."""
        if self._is_ahead:
            self.stop()

    def stop(self) -> None:
        """Record no more for now."""
        self._is_ahead = self.awaits_loop = False
        with self.shield:
            self._looking.stop()

    def rest(self) -> None:
        """Record no more for long: batches are no longer held."""
        self.stop()
        self._looking.batches.clear()

    def at_step(self, event: Step) -> None:
        """Take the recording of this backward."""
        if not self.may_be_seen:
            self.stop()
            self.next = NEVER
            return
        self.awaits_update = True
        if event.index < self._due:
            self.stop_ahead()
            return
        with self.shield:
            self.take(event)
            if not event.is_last:
                self.look()
            elif self.recipe is None:
                self._due = event.index + 1
                self._tries += 1
                if self._tries > MOST_TRIES:
                    self._refuse("its calls could not be recorded")
            else:
                self._due = max(2 * self._due, AGAIN)

    def updated(self, update: Update) -> None:
        """Begin the recording of the next update."""
        self.awaits_update = False
        if not self.may_be_seen:
            self.stop()
            self.next = NEVER
            return
        if update.step == self._due - 1:
            self.look()
        elif update.step == self._due - 2:
            self.look_ahead()
        self.next = max(self._due - 2, update.step + 1)

    def close(self, error: BaseException | None) -> None:
        """Record no more."""
        self.rest()
        self._parts.clear()

    def take(self, event: Step) -> Batch | None:
        """The batch of a backward whose calls were recorded; None if it is not known."""
        recording = self._looking.stop()
        if recording is None or not self.may_be_seen:
            return None
        try:
            return self._take(recording, event)
        except NotSeen as error:
            self._refuse(str(error))
        return None

    def proven(self, kept: KeptUpdates | None) -> Recipe:
        """The loss, after it has made kept updates again.

        Args:
            kept: Some updates of the training; None if there are none.

        Raises:
            BadArgument: It was not seen, or it makes other updates.
        """
        self.stop()
        recipe = self.recipe
        if recipe is None:
            raise BadArgument(
                f"`loss` is missing, and it cannot be seen in your loop, since {self.why_not}: "
                f"{GIVE}."
            )
        if not self._is_proven:
            from gradiometer.integrations.watch.seen_loss.proof import proven  # noqa: PLC0415

            values = {step: [*map(float, given)] for step, given in self._values.items()}
            self.recipe = recipe = proven(recipe, self._subject, kept, values)
            self._is_proven = True
        return recipe

    def _take(self, recording: Recording, event: Step) -> Batch | None:
        if self._looking.has_drawn:
            raise NotSeen("it draws random numbers of Python or NumPy after its batch is loaded")
        part = slice_of(recording, _root_of(recording, event.loss))
        check_calls(part)
        kind = holds_tensors(part)
        if kind:
            raise NotSeen(f"a tensor is given to it inside of a {kind}")
        given = [] if event.given is None else [event.given]
        source = sources_of(part, [*reversed(self._looking.batches), *given])
        if event.place == 0:
            self._values[event.index] = []
            while len(self._values) > MOST_VALUES:
                self._values.pop(next(iter(self._values)))
        self._values.setdefault(event.index, []).append(value_of(event.loss))
        if self.recipe is not None:
            self._check_again(part, source)
            return self._batch_of(part, source)
        self._parts.append((part, source))
        if len(self._parts) < COMPARED:
            return None
        self._establish()
        return self._batch_of(part, source)

    def _establish(self) -> None:
        """Compare the first recordings."""
        (first, one), (second, two) = self._parts
        self._compare(first, one, _rows(first, one), second, two)
        constants = constants_of(first, second)
        self._places = []
        count = sum(
            not (way is not None or constant)
            for way, constant in zip(two.places, constants, strict=True)
        )
        for number, (way, constant) in enumerate(zip(two.places, constants, strict=True)):
            if way is not None and way == one.places[number]:
                self._places.append(OfBatch(way))
            elif constant:
                self._places.append(ConstantTensor(second.outside[number]))
            elif two.batch is not None:
                raise NotSeen(
                    "it takes a tensor that changes from step to step and is not in the batch of "
                    "the loader"
                )
            else:
                place = sum(isinstance(one, OfBatch) for one in self._places)
                ways: Way = (("item", place),) if count > 1 else ()
                self._places.append(OfBatch(ways))
        batch = self._batch_of(second, two)
        if batch is None:
            raise NotSeen("it takes no batch: its data are drawn in the loop, or never change")
        self.recipe = recipe_of(second, self._places, _size_of(batch))
        self._has_loader = two.batch is not None
        self._rows = _rows(second, two)
        self._parts = [(replace(second, outside=[]), Sources(two.places, None))]

    def _compare(self, first: Slice, one: Sources, rows: int, second: Slice, two: Sources) -> None:
        if len(one.places) != len(two.places):
            raise NotSeen("it makes its loss by other calls at other steps")
        check_same(first, second, (rows, _rows(second, two)))

    def _check_again(self, part: Slice, source: Sources) -> None:
        """Check that a later recording has the same calls on the same places."""
        if self._has_loader and source.batch is None:
            raise NotSeen("it takes a batch that was not seen in its loader")
        first, one = self._parts[-1]
        self._compare(first, one, self._rows, part, source)
        for place, tensor, way in zip(self._places, part.outside, source.places, strict=True):
            if isinstance(place, OfBatch) and source.batch is not None and way != place.way:
                raise NotSeen("it takes other parts of the batch at other steps")
            if isinstance(place, ConstantTensor) and way is None:
                same = tensor is place.tensor or (
                    tensor.shape == place.tensor.shape and bool((tensor == place.tensor).all())
                )
                if not same:
                    raise NotSeen("it takes a tensor that changes now and then")

    def _batch_of(self, part: Slice, source: Sources) -> Batch:
        """The batch: that of the loader, or the tensors that differ from step to step."""
        if source.batch is not None:
            return source.batch
        found = [
            tensor
            for place, tensor in zip(self._places, part.outside, strict=True)
            if isinstance(place, OfBatch)
        ]
        return tuple(found) if len(found) > 1 else next(iter(found), None)

    def _fail(self, error: Exception) -> None:
        self._refuse(str(error) if isinstance(error, NotSeen) else reason_of(error))

    def _refuse(self, reason: str) -> None:
        self.why_not = reason
        self._is_refused = True
        self.awaits_loop = False
        self.recipe = None
        self._looking.stop()
        self._looking.batches.clear()
        self._parts.clear()


def _root_of(recording: Recording, loss: Any) -> Place | None:
    """The tensor that holds the number given to `w.step`."""
    if isinstance(loss, Tensor):
        return recording.known_place(loss) or recording.root
    # the first one: the watch itself may read it once more
    numbers = (
        read.place
        for read in recording.reads
        if read.value == loss and isinstance(read.place, ByCall)
    )
    return next(numbers, recording.root)


def _rows(part: Slice, source: Sources) -> int:
    """The number of examples, as far as it is known by now."""
    if source.batch is not None:
        return _size_of(source.batch)
    return next((len(one) for one in part.outside if one.dim()), 1)


def _size_of(batch: Batch) -> int:
    try:
        return batch_size(batch)
    except BadArgument as error:
        raise NotSeen("the tensors of its batch have no common number of examples") from error
