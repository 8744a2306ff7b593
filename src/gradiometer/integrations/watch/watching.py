"""The object that `watch` returns, also for loops that announce batches in place of calling
`step`."""

from collections.abc import Iterable, Iterator, Sequence
from threading import get_ident
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.integrations.gradients import Listener
from gradiometer.integrations.watch.description import known_sampling
from gradiometer.integrations.watch.requests.forks import Forks
from gradiometer.integrations.watch.subject import Inputs
from gradiometer.measurement.batch import Batch, mapped
from gradiometer.run.clock import Turns
from gradiometer.run.recorder import Recorder

# In place of a batch that was not announced.
NOTHING = object()


class Watch(Forks):
    """A watched training, made by `watch`. Use it as a context manager around the whole loop."""

    _announced: Any = NOTHING
    _listener: Listener | None = None
    _few: Sequence[nn.Parameter] = ()
    _always = False
    _thread = 0
    _marks: Sequence[tuple[Tensor | None, int]] = ()

    def __enter__(self) -> "Watch":
        if self._handles or self._begun:
            raise BadArgument(
                "`watch` can be entered only once: call `watch` again for another training."
            )
        first, *others = self._optimizers
        self._follow_updates_of(first)
        self._handles += [
            one.register_step_post_hook(self._was_updated_by_another) for one in others
        ]
        self._inputs = Inputs(self._subject.called, self.shield)
        self._handles.append(self._inputs)
        if self._cadenced:
            self._capture.start()
        if isinstance(self.budget.clock, Turns):
            self.budget.clock.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with self.shield:
            # the last trial is compared with the updates that are kept, as the others are
            self.trials.close(self.steps, error)
            self.kept_updates.close()
        with self.shield:
            self.end()
        if not self._subject.is_own:
            with self.shield:
                self._settings.end()
            self._close(error)
        with self.shield:
            if isinstance(self.budget.clock, Turns):
                self.budget.clock.leave()

    def begin(
        self, recorder: Recorder, step: int, losses: Sequence[float], *, has_facts: bool
    ) -> None:
        """Follow a training of ours in its own run.

        Args:
            recorder: Writes the run.
            step: The next step.
            losses: The losses of the steps before, if the run is resumed.
            has_facts: True if the run has the facts of triage already.
        """
        self._begun = True
        self.steps = step
        self._losses.examiner.repeat(losses)
        self._attach(recorder, step, has_facts=has_facts)
        with self.budget.spending():
            self._decide()

    def end(self) -> None:
        """Stop following the training, and write what waits."""
        with self._triage.shield:
            self._triage.close()
        if self._successive is not None:
            self._successive.close()
        with self.shield:
            self._capture.stop()
            self._pace.end(self.steps)
            self._between.end()
        while self._handles:
            with self.shield:
                self._handles.pop().remove()

    @property
    def measuring(self) -> bool:
        """True if the coming step is measured, or may be.

        A loop that replays a CUDA graph makes such a step without it: hooks do not run in a replay.
        """
        return self._capture.gradients.active or not self._begun

    def batches(self, loader: Iterable[Any]) -> "Announced":
        """The batches of a loader, for a loop that makes `backward` and the update in one call.

        Use it in place of `step`, which is then called at the end of every `backward` through the
        model:

            with watch(model, optimizer, loss=loss) as w:
                for batch in w.batches(loader):
                    train_one_step(model, optimizer, batch)

        The loss is the number that `backward` was called on, times `accumulation`, without the
        scale of `scaler`. The second `backward` for the same batch is not measured. The sampling is
        that of the first loader, if it is a DataLoader with a sampler of torch and `sampling` was
        not given.

        Args:
            loader: Any iterable. Its batches are passed on as they are. On a measured step the
                batch is moved to the device of the model.

        Returns:
            An iterable with the length and the attributes of the loader.
        """
        self.trials.draw_from(loader)
        drawn = self._subject.batches
        sampling = known_sampling(loader)
        # unless it was given, or is written already
        if sampling is not None and not (drawn.known or self._begun):
            drawn.sampling = sampling
            drawn.known = True
        return Announced(self, loader)

    def batch(self, batch: Batch) -> Batch:
        """Announce the examples of the next `backward`, and return them unchanged. Use it in place
        of `batches` if the loop changes its batches after loading (mixup, augmentation on the
        device), or is not an iteration of a loader.
        """
        if not self._handles:
            raise BadArgument(
                "`batch` must be announced inside `with watch(...) as w:`, which goes around the "
                "whole training."
            )
        if self._listener is None:
            parameters = self._objective.parameters
            self._few = parameters[0], parameters[len(parameters) // 2], parameters[-1]
            # `.grad` of a sharded model is not changed by every backward
            self._always = self._subject.sharded
            self._listener = Listener(self._before_backward, self._after_backward).start()
            self._handles.append(self._listener)
        self._announced = batch
        self._thread = get_ident()
        return batch

    def _before_backward(self, _: Tensor | None) -> None:
        if get_ident() == self._thread:
            self._marks = self._marks_now()

    def _after_backward(self, loss: Tensor | None) -> None:
        if get_ident() != self._thread:  # of another training
            return
        with self.shield:
            before, self._marks = self._marks, ()
            went_through_the_model = self._always or any(
                gradient is not old or version != then
                for (gradient, version), (old, then) in zip(self._marks_now(), before, strict=True)
            )
            if went_through_the_model:
                batch, self._announced = self._announced, NOTHING
                self._announce(loss, batch)

    def _announce(self, loss: Tensor | None, batch: Batch) -> None:
        if batch is NOTHING:
            self._warn(
                "several backwards went through `model` for one batch: only the first of them is "
                "measured, and its loss is recorded"
            )
            return
        if loss is None:
            raise BadArgument(
                "`backward` was not called on one number: call `step` yourself in place of "
                "`batches`."
            )
        if self._capture.gradients.active:
            device = self._objective.parameters[0].device
            batch = mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))
        self.step(self._capture.mean_loss(loss), batch)

    def _marks_now(self) -> list[tuple[Tensor | None, int]]:
        """A few gradients and their versions, which change when a backward goes
        through the model."""
        return [(p.grad, 0 if p.grad is None else p.grad._version) for p in self._few]


class Announced:
    """The batches of a loader, each announced to a watch before it is passed on."""

    _watch: Watch
    _loader: Iterable[Any]

    def __init__(self, watch: Watch, loader: Iterable[Any]) -> None:
        self.__dict__.update(_watch=watch, _loader=loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            yield self._watch.batch(batch)

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the loader, as timm does to end its mixup."""
        setattr(self._loader, name, value)
