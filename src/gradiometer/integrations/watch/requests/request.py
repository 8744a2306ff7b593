"""What a request of a watch may use: the model as it is now, the run, and the account of the time.

A request is a function of a `Request` and of the arguments that a person gives. It is loaded when it
is asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from gradiometer.compiler import as_written
from gradiometer.errors import BadArgument, Unsupported
from gradiometer.integrations.watch.observers.kept_updates import UpdateKeeper
from gradiometer.integrations.watch.observers.losses import Losses, loss_of_a_person, no_loss
from gradiometer.integrations.watch.observers.newest_updates import NewestUpdates
from gradiometer.integrations.watch.record import WatchedRun
from gradiometer.integrations.watch.subject import OnDevice, Subject, examples_of
from gradiometer.measurement.artifact import Artifact
from gradiometer.measurement.objective import Loss, Objective
from gradiometer.run.artifacts import save_artifact
from gradiometer.run.reader import Run

if TYPE_CHECKING:
    import gradiometer.integrations.watch.seen_loss.seen


class Request:
    """Looks at the model of a watched loop on request. Training stays the same, bit for bit.

    Later readings pay the time back, as far as the run is long enough. On several processes rank 0
    looks, and the others get None.

    Args:
        subject: The training.
        record: Its run.
        losses: Counts its steps.
        kept_updates: Earlier states, the parameters of the first step, and updates to compare
            copies with.
        newest_updates: The updates of the worst incident.
        seen_loss: The loss of a loop that gave none.
        data: The training data; None if they are not known.
    """

    def __init__(
        self,
        subject: Subject,
        record: WatchedRun,
        losses: Losses,
        kept_updates: UpdateKeeper,
        newest_updates: NewestUpdates,
        seen_loss: "gradiometer.integrations.watch.seen_loss.seen.SeenLoss",
        data: Any = None,
    ) -> None:
        self.subject = subject
        self.objective = subject.objective
        self._record = record
        self._losses = losses
        self.kept_updates = kept_updates
        self.newest_updates = newest_updates
        self._seen_loss = seen_loss
        self.data = data

    @property
    def steps(self) -> int:
        """Number of steps so far."""
        return self._losses.steps

    @property
    def at_start(self) -> list[Tensor] | None:
        """The parameters of the first step, on the CPU; None if they are not kept."""
        return self.kept_updates.at_start

    def draw_from(self, loader: Any) -> None:
        """Take the data from this loader, if they are not known."""
        if self.data is None:
            self.data = loader

    @property
    def has_loss(self) -> bool:
        """True if there is a loss to run again: it was given, or seen in the loop."""
        return self._seen_loss.has_loss

    def loss_seen(self) -> Loss:
        """The loss that was seen in a loop that gave none, after it was checked on updates of the
        training.

        Raises:
            BadArgument: It was not seen, or it does not make the updates of the training.
        """
        return self._seen_loss.proven(self.kept_updates.newest)

    @contextmanager
    def looking(self, *, forks: str = "") -> Iterator[Run | None]:
        """The run, while the time is charged; None on every process except rank 0.

        Args:
            forks: The name that the time of forks is charged to.

        Raises:
            BadArgument: There was no step yet.
            Unsupported: No process can run the model alone.
        """
        self._seen_loss.stop()
        source, budget = self.subject.source, self.subject.budget
        if not source.runs_model:
            raise Unsupported("`model` is sharded (FSDP): no process can run it alone.")
        run = self._record.run
        if run is None and source.is_first:
            raise BadArgument(
                "`step` was not called yet, so there is no run to keep a result in: call it first."
            )
        name = forks or "looks on request"
        with budget.spending(name, fixed=not forks, outside=bool(forks)), as_written():
            yield run
        with self._record.shield:
            budget.take_turn()
            if self._record.has_ended:
                budget.stop()

    def on_device(self, train: Any) -> OnDevice:
        """The examples, if there is a loss to run on them, which may be the one that was seen.

        Raises:
            BadArgument: There is no loss.
        """
        if self.objective.loss is no_loss:
            loss = loss_of_a_person(self.loss_seen())
            self.objective = Objective(self.subject.objective.model, loss)
        return OnDevice(examples_of(train, "train"), self.objective.parameters[0].device)

    def keep(self, run: Run, artifact: Artifact) -> None:
        """Save a result in the run. After the end of the run its page is written again."""
        save_artifact(run, artifact)
        self._record.show_again(run)

    def say(self, text: object) -> None:
        """Print a line on standard error, unless the watch is quiet."""
        self._record.announcements.say(text)

    def event(self, event: str, **fields: Any) -> None:
        """Write an event of this step, if the run has not ended."""
        self._record.event(event, self.steps, **fields)
